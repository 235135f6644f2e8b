"""What is done to an anomaly map between the detector and the metrics.

The official code smooths (Gaussian, sigma 5 px at 256, reflected borders, cut at 4 sigma) and
nothing else; its line that multiplies by the brain mask is commented out. The rest is optional.
"""

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

SIGMA_AT_256 = 5.0


def sigma_for(image_size: int, sigma_at_256: float = SIGMA_AT_256) -> float:
    """The smoothing width in pixels that covers the same anatomy at another image size."""
    return sigma_at_256 * image_size / 256.0


def clip_and_scale(
    difference: Float32[np.ndarray, "n H W"], gamma: float = 0.25
) -> Float32[np.ndarray, "n H W"]:
    """min(|difference|, gamma) / gamma, in [0, 1] (paper eq. of the anomaly map)."""
    return np.minimum(np.abs(difference), np.float32(gamma)) / np.float32(gamma)


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


def median(maps: Float32[np.ndarray, "n H W"], size: int = 5) -> Float32[np.ndarray, "n H W"]:
    """Median filter of `size` x `size` pixels on each slice; `size` <= 1 changes nothing."""
    return maps if size <= 1 else ndimage.median_filter(maps, size=(1, size, size), mode="reflect")


def drop_small_components(
    predictions: Bool[np.ndarray, "n H W"], min_pixels: int
) -> Bool[np.ndarray, "n H W"]:
    """Clears 8-connected components of fewer than `min_pixels` pixels, slice by slice."""
    if min_pixels <= 1:
        return predictions
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = True  # neighbours within a slice only
    labels, count = ndimage.label(predictions, structure=structure)
    keep = np.bincount(labels.ravel(), minlength=count + 1) >= min_pixels
    keep[0] = False
    return keep[labels]
