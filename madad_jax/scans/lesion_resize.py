"""Segmentations at fewer pixels: by coverage, and no lesion vanishes.

A pixel is set where more than half of its area is lesion, as in nnU-Net and others, which resize
labels linearly and cut at a half; at exactly a half its nearest neighbour decides. Beyond that, of
a connected region that would vanish wholly (white matter lesions of a pixel or two) its most
covered pixel stays: a slice with a lesion never becomes a healthy one, which would score Dice 1
for an empty map.
"""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage

# All eight, as regions are counted in the figures (`metrics.region_overlap`).
_NEIGHBOURS = np.ones((3, 3), bool)


def shrink(pixels: Bool[np.ndarray, "S S"], size: int) -> tuple[Bool[np.ndarray, "T T"], int]:
    """The segmentation at `size` px a side, fewer than it has; see the module's text.

    Returns it, and how many of its pixels stay only because their region would have vanished.
    """
    side = pixels.shape[0]
    place, area = _overlaps(*np.nonzero(pixels), side, size)
    covered = np.bincount(place.ravel(), area.ravel(), size * size)
    # Whole numbers, in which an old pixel measures `size` and a new one `side` a side. An exact
    # half is common at whole factors; set or not set alike, lesions would grow or shrink by 10 %.
    centres = (2 * np.arange(size) + 1) * side // (2 * size)
    nearest = pixels[np.ix_(centres, centres)].ravel()
    resized = np.where(2 * covered == side * side, nearest, 2 * covered > side * side)
    labels, count = ndimage.label(pixels, structure=_NEIGHBOURS)
    region = labels[pixels]
    survives = np.bincount(region, resized[place].any(axis=0), count + 1) > 0
    lost = np.flatnonzero(~survives[1:]) + 1
    for one in lost:
        mine = region == one
        shares = np.bincount(place[:, mine].ravel(), area[:, mine].ravel(), size * size)
        resized[int(shares.argmax())] = True
    return resized.reshape(size, size), len(lost)


def _overlaps(
    rows: np.ndarray, columns: np.ndarray, side: int, size: int
) -> tuple[Int[np.ndarray, "4 p"], Int[np.ndarray, "4 p"]]:
    """(the new pixels that each old one touches, four at most, in raster order; their areas)."""
    ends = []
    for place in (rows, columns):
        first, last = place * size // side, ((place + 1) * size - 1) // side
        length = np.minimum((place + 1) * size, (first + 1) * side) - place * size
        ends.append(((first, length), (last, size - length)))
    pairs = [(r * size + c, a * b) for r, a in ends[0] for c, b in ends[1]]
    return np.stack([p for p, _ in pairs]), np.stack([a for _, a in pairs])
