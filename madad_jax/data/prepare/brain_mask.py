"""Where the brain is in a scan."""

import numpy as np
from jaxtyping import Bool

from madad_jax.data.prepare import volumes

METHODS = ("auto", "given", "nonzero", "template", "builtin", "hd-bet", "synthstrip")


def find(
    volume: volumes.Volume, method: str = "auto", *, given: str = ""
) -> tuple[Bool[np.ndarray, "X Y Z"], list[str]]:
    """The brain mask on the volume's canonical grid, and warnings about it."""
    raise NotImplementedError
