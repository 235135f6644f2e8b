"""Filters of maps in numpy, for the rows that are computed without a network.

The official code smooths its maps (Gaussian, sigma 5 px at 256, reflected borders, cut at 4 sigma)
and nothing else; its line that multiplies by the brain mask is commented out.
"""

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

# Pixels, the official code's at its image size.
SIGMA_AT_256 = 5.0


def smooth(
    maps: Float32[np.ndarray, "n H W"], sigma: float = SIGMA_AT_256
) -> Float32[np.ndarray, "n H W"]:
    """Gaussian smoothing of each slice; `sigma` in pixels, 0 leaves the maps as they are."""
    if sigma <= 0:
        return maps
    # Sigma 0 along the first axis keeps the slices apart.
    return ndimage.gaussian_filter(maps, sigma=(0.0, sigma, sigma), mode="reflect", truncate=4.0)


def inside_brain(
    maps: Float32[np.ndarray, "n H W"], brain_masks: Bool[np.ndarray, "n H W"]
) -> Float32[np.ndarray, "n H W"]:
    """Zero outside the brain."""
    return np.where(brain_masks, maps, np.float32(0.0))
