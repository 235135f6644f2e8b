"""Scanner units -> [0, 1]."""

import numpy as np
from jaxtyping import Bool, Float32


def normalise(
    data: Float32[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"],
    method: str = "percentile",
    *,
    low: float = 1.0,
    high: float = 99.0,
) -> Float32[np.ndarray, "*shape"]:
    """Values in [0, 1] by the intensities inside the mask."""
    raise NotImplementedError
