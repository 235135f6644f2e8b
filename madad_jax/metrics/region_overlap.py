"""Per-region overlap: every lesion counts alike, whatever its size.

    PRO(t) = mean over lesions of the share of their pixels with A >= t
    AUPRO  = 1/L * integral of PRO over FPR from 0 to L,     L = 0.3

where FPR is the share of all other pixels with A >= t (Bergmann et al., MVTec AD, 2021). A
lesion is an 8-connected region of a slice's segmentation. Points of the curve are joined by
straight lines, so pixels of equal score count half, as in an ROC curve.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy import ndimage

from madad_jax.metrics import finite

# Of the false positive rate, as in MVTec's benchmark; beyond it a map marks most of the image.
LIMIT = 0.3
_NEIGHBOURS = np.ones((3, 3), bool)


def weights(segmentation: Bool[np.ndarray, "H W"]) -> tuple[Float32[np.ndarray, "p"], int]:
    """(1 / size of its region for each lesion pixel, in raster order; number of regions)."""
    labels, count = ndimage.label(segmentation, structure=_NEIGHBOURS)
    of_pixels = labels[segmentation]
    sizes = np.bincount(of_pixels, minlength=count + 1)
    return (1.0 / sizes[of_pixels]).astype(np.float32), count


def exact(
    positive: Float32[np.ndarray, "p"],
    weight: Float[np.ndarray, "p"],
    negative: Float32[np.ndarray, "q"],
    limit: float = LIMIT,
) -> float | None:
    """AUPRO from lesion scores with their weights, and all other scores; `None` without either."""
    finite.check(positive, "lesion pixels")
    finite.check(negative, "other pixels")
    if not len(positive) or not len(negative):
        return None
    # Beyond the limit nothing counts: only the highest scores need an order.
    kept = min(len(negative), int(limit * len(negative)) + 2)
    border = np.partition(negative, len(negative) - kept)[len(negative) - kept]
    level, count = np.unique(negative[negative >= border], return_counts=True)
    # Running sums of weights in the order of scores: the weight above a level is one difference.
    order = np.argsort(positive)
    mass = np.concatenate([[0.0], np.cumsum(weight[order], dtype=np.float64)])
    above = mass[-1] - mass[np.searchsorted(positive[order], level, side="right")]
    reached = mass[-1] - mass[np.searchsorted(positive[order], level, side="left")]
    return _area(above[::-1], reached[::-1], count[::-1], mass[-1], len(negative), limit)


def from_histogram(
    mass: Float[np.ndarray, "bins"], negative: Int[np.ndarray, "bins"], limit: float = LIMIT
) -> tuple[float | None, float]:
    """(AUPRO, largest error) from sums of weights and counts by bin, lowest score first."""
    total, pixels = float(mass.sum()), int(negative.sum())
    if not total or not pixels:
        return None, 0.0
    reached = mass[::-1].cumsum()
    above, count = reached - mass[::-1], negative[::-1]
    area = _area(above, reached, count, total, pixels, limit)
    inner = np.ones(len(mass))
    inner[[0, -1]] = 0.0  # exactly 1 and exactly 0: true ties
    share = count / pixels
    inside = np.concatenate([[0.0], share.cumsum()[:-1]]) < limit
    # Within a bin the curve lies anywhere between its two corners.
    error = float((inner * share * inside * (reached - above)).sum() / (2.0 * total * limit))
    return area, error


def _area(above, reached, count, total: float, pixels: int, limit: float) -> float:
    """The integral, level by level from the highest: the curve goes from `above` to `reached`."""
    # The share of other pixels at each level is the step of the curve along its axis.
    width = count / pixels
    start = np.concatenate([[0.0], width.cumsum()[:-1]])
    # The last step is cut at the limit; levels of no pixels have no width to divide by.
    share = np.clip((limit - start) / np.maximum(width, 1e-300), 0.0, 1.0)
    height = above + 0.5 * share * (reached - above)
    return float((width * share * height).sum() / (total * limit))
