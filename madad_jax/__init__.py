"""Unsupervised brain-MRI anomaly detection by masked latent diffusion (MAD-AD).

    detector = madad_jax.load()
    result = detector("scan.nii.gz")

`load` and its `Detector` are described in `predict.api` and `predict.detector`, the commands in
`python -m madad_jax --help`. Importing the package alone loads neither JAX nor nibabel.
"""

from typing import TYPE_CHECKING, Any

from madad_jax.core.errors import UserError
from madad_jax.core.version import VERSION as __version__

if TYPE_CHECKING:
    from madad_jax.predict.api import load

__all__ = ["UserError", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """`load`, imported when it is first asked for: it brings JAX with it."""
    if name == "load":
        from madad_jax.predict.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
