"""Whole scans: the maps of one scan's slices as a stack in millimetres.

What published detectors do after the difference image, each an option, and what a scan is then
judged by: its score, and its candidates (connected places above the threshold, 26 neighbours).

Published settings, kept as millimetres so that they hold at any image size:
* `pddpm` (Behrendt et al., MIDL 2023, at 2 mm voxels): mask eroded by 96 // 25 = 3 voxels,
  3-D median of 5 voxels, components of up to 7 voxels (0.056 ml) dropped.
* `dae` (Kascenas et al., MIDL 2022, at 1.875 x 1.875 x 1 mm): mask eroded by a 5 x 5 mean above
  0.95 (2 pixels), 5 x 5 median in each slice, components of up to 20 voxels (0.07 ml) dropped.

And one of ours, `min_volume`: components below 0.1 ml are dropped, and nothing else is done.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.metrics import finite

# The highest voxel alone would be noise, and the mean of all would thin a small lesion out.
SCORE_SHARE = 0.01
_NEIGHBOURS = np.ones((3, 3, 3), bool)

Spacing = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Options:
    """Post-processing of a stack; 0 leaves a step out.

    Attributes:
      smooth_mm: sigma of a Gaussian in 3-D, over neighbouring slices too.
      median_mm: side of a median filter.
      median_in_slice: filter each slice alone and not in 3-D.
      erode_mm: what lies this near to the brain mask's outside, within its slice, is not scored.
      min_volume_ml: smaller candidates are dropped.
    """

    smooth_mm: float = 0.0
    median_mm: float = 0.0
    median_in_slice: bool = False
    erode_mm: float = 0.0
    min_volume_ml: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < 1000:
                raise errors.UserError(f"{field.name}: found {value}, accepted: 0 to below 1000")


PRESETS = {
    "none": Options(),
    "pddpm": Options(median_mm=10.0, erode_mm=6.0, min_volume_ml=0.0561),
    "dae": Options(median_mm=9.375, median_in_slice=True, erode_mm=3.75, min_volume_ml=0.0704),
    "min_volume": Options(min_volume_ml=0.1),
}


def process_stack(
    maps: Float32[np.ndarray, "z h w"],
    brain: Bool[np.ndarray, "z h w"],
    spacing: Spacing,
    options: Options,
) -> tuple[Float32[np.ndarray, "z h w"], Bool[np.ndarray, "z h w"]]:
    """(map, what is scored): the map is 0 wherever nothing is scored.

    Args:
      maps: anomaly maps in [0, 1] of neighbouring slices.
      brain: brain masks.
      spacing: mm between slices, rows, columns.
      options: the steps, in the order of the fields.

    Raises:
      UserError: NaN or infinity inside the brain.
    """
    maps = np.where(brain, maps, np.float32(0.0))
    finite.check(maps, "scan")
    if options.smooth_mm:
        sigma = [options.smooth_mm / step for step in spacing]
        # Over the brain alone: the dark outside must not thin the map at the rim.
        # Both filters go to the same border, so that the ratio is 1 for a constant map.
        weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma, mode="nearest")
        maps = ndimage.gaussian_filter(maps, sigma, mode="nearest")
        maps = np.where(brain, maps / np.maximum(weight, 1e-6), 0.0).astype(np.float32)
    if options.median_mm:
        size = [_odd_size(options.median_mm / step) for step in spacing]
        if options.median_in_slice:
            size[0] = 1
        # Around the brain alone: what lies further off is 0 and is not read from inside it.
        near = _box_around(brain, [n // 2 for n in size])
        maps[near] = ndimage.median_filter(maps[near], size=size, mode="nearest")
    inside = brain
    if options.erode_mm:
        inside = np.stack([_erode(b, spacing[1:], options.erode_mm) for b in brain])
    return np.where(inside, np.clip(maps, 0.0, 1.0), np.float32(0.0)), inside


def _box_around(brain: np.ndarray, reach: list[int]) -> tuple[slice, ...]:
    """The box of the brain with so many voxels more on each side, where the array has them."""
    box = ndimage.find_objects(brain.astype(np.uint8))
    if not box:
        return (slice(0, 0),) * brain.ndim
    return tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(box[0], reach, strict=True))


def _odd_size(voxels: float) -> int:
    """The odd number of voxels nearest to a length."""
    return max(1, 2 * round((voxels - 1) / 2) + 1)


def _erode(brain: np.ndarray, spacing: tuple[float, ...], depth: float) -> np.ndarray:
    # The border of the image is outside; the first and last slice are not an end of the brain.
    ring = np.pad(brain, 1)
    return ndimage.distance_transform_edt(ring, sampling=spacing)[1:-1, 1:-1] > depth


def score(maps: Float32[np.ndarray, "z h w"], inside: Bool[np.ndarray, "z h w"]) -> float:
    """The scan's score: mean of the map over its highest 1 % of scored voxels; 0 without any."""
    values = maps[inside]
    if not values.size:
        return 0.0
    count = max(1, round(SCORE_SHARE * values.size))
    return float(np.partition(values, values.size - count)[-count:].mean(dtype=np.float64))


def voxel_ml(spacing: Spacing) -> float:
    """Volume of a voxel."""
    return float(np.prod(spacing)) / 1000.0


def min_voxels(spacing: Spacing, options: Options) -> int:
    """Voxels that a candidate must have at least."""
    return max(1, int(np.ceil(options.min_volume_ml / voxel_ml(spacing) - 1e-9)))


def candidates(
    maps: Float32[np.ndarray, "z h w"], threshold: float, spacing: Spacing, options: Options
) -> tuple[Int[np.ndarray, "z h w"], int]:
    """Places above the threshold (`>`, in float32), numbered by volume, largest first.

    Returns (labels, 0 for none; how many).
    """
    labels, count = ndimage.label(maps > np.float32(threshold), structure=_NEIGHBOURS)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    # Stable: components of one size keep the order of the scan, on every machine.
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= min_voxels(spacing, options)]
    number = np.zeros(count + 1, np.int32)
    number[order + 1] = np.arange(1, len(order) + 1)
    return number[labels], len(order)


def count_touching(
    maps: Float32[np.ndarray, "z h w"],
    lesions: Int[np.ndarray, "z h w"],
    threshold: float,
    spacing: Spacing,
    options: Options,
) -> tuple[int, Int[np.ndarray, " n"]]:
    """What the candidates above a threshold have to do with known lesions.

    Args:
      maps: the processed map.
      lesions: number of the lesion, 0 for none.
      threshold, spacing, options: as in `candidates`.

    Returns:
      (candidates that touch no lesion; voxels of lesion 1, 2, ... that lie in candidates).
    """
    labels, count = ndimage.label(maps > np.float32(threshold), structure=_NEIGHBOURS)
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= min_voxels(spacing, options)
    kept[0] = False  # what lies below the threshold is no candidate
    inside = lesions > 0
    of_lesion = labels[inside]
    touched = np.unique(of_lesion)
    covered = np.bincount(lesions[inside][kept[of_lesion]], minlength=lesions.max(initial=0) + 1)
    return int(kept.sum() - kept[touched].sum()), covered[1:]


def count_curve(
    maps: Float32[np.ndarray, "z h w"], spacing: Spacing, options: Options, limit: int = 20_000
) -> tuple[Float32[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """How many candidates there are at every threshold at once.

    Returns (levels, falling; counts): for a threshold t the number of candidates is `counts[i]`
    of the last level that is above t, and 0 when none is. The lowest level tells nothing but how
    far the curve holds: for thresholds from it on, which are all where it is 0. Voxels are taken
    in falling order and joined to their neighbours (union-find over a spanning forest, which has
    all joins that matter), at most `limit` of them and whole ties.
    """
    # A ring of zeros: offsets in the flat array then never wrap into the next row.
    values = np.pad(maps, 1).ravel()
    order = np.flatnonzero(values > 0)
    reach = np.float32(0.0)
    # Ties go as a whole, or the number at their level would be half counted.
    if len(order) > limit:
        heights = values[order]
        reach = np.partition(heights, len(heights) - 1 - limit)[len(heights) - 1 - limit]
        order = order[heights > reach]
    order = order[np.argsort(-values[order], kind="stable")]
    if not len(order):
        return np.array([reach], np.float32), np.zeros(1, np.int64)
    heights, n = values[order], len(order)
    early, late = _find_joins(order, np.array(maps.shape) + 2)
    least = min_voxels(spacing, options)
    changes = np.zeros(n, np.int64) + (least == 1)
    np.add.at(changes, late, _count_changes(n, early, late, least))
    count_after = changes.cumsum()
    ends = np.append(np.flatnonzero(heights[1:] < heights[:-1]), n - 1)  # of ties
    counts = count_after[ends]
    # A level whose count is the one before tells nothing that the higher level does not.
    new = np.insert(counts[1:] != counts[:-1], 0, True)
    return np.append(heights[ends][new], reach), np.append(counts[new], counts[-1])


def _count_changes(n: int, early: np.ndarray, late: np.ndarray, least: int) -> Any:
    """By how much each join changes the number of components of at least `least` voxels."""
    if least == 1:
        return -1  # every join makes one of two
    parent, size, changes = list(range(n)), [1] * n, []
    for a, b in zip(early.tolist(), late.tolist(), strict=True):
        # Halving the path while walking it keeps trees flat without a second pass.
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if size[a] < size[b]:
            a, b = b, a
        before = (size[a] >= least) + (size[b] >= least)
        parent[b] = a
        size[a] += size[b]
        changes.append((size[a] >= least) - before)
    return np.array(changes, np.int64)


def _find_joins(order: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (earlier, later) of places in `order` that join components, by the later one.

    Of all pairs of neighbours those of a minimum spanning forest, weighted by the later place,
    are enough: every other pair joins what is joined already.
    """
    # Here and not above: calibrations alone need them.
    from scipy import sparse
    from scipy.sparse import csgraph

    place = np.full(int(shape.prod()), -1, np.int64)
    place[order] = np.arange(len(order))
    pairs = []
    for z, y, x in np.ndindex(3, 3, 3):
        offset = ((z - 1) * shape[1] + y - 1) * shape[2] + x - 1
        # Each pair once: of two neighbours the one further on in the array is asked for.
        if offset > 0:
            other = place[order + offset]
            mine = np.flatnonzero(other >= 0)
            pairs.append((mine, other[mine]))
    mine, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    first, second = np.minimum(mine, other), np.maximum(mine, other)
    # Weights from 1: a sparse graph takes 0 for no edge.
    graph = sparse.coo_matrix((second + 1.0, (first, second)), shape=(len(order),) * 2)
    forest = csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    early = np.minimum(forest.row, forest.col)
    late = np.maximum(forest.row, forest.col)
    by_time = np.argsort(late, kind="stable")
    return early[by_time], late[by_time]


def counts_at(
    levels: Float32[np.ndarray, " k"],
    counts: Int[np.ndarray, " k"],
    thresholds: Float32[np.ndarray, " t"],
) -> Int[np.ndarray, " t"]:
    """The number of candidates at each threshold, from `count_curve`."""
    if not len(levels):
        return np.zeros(len(thresholds), np.int64)
    above = len(levels) - np.searchsorted(levels[::-1], thresholds, side="right")
    return np.where(above > 0, counts[np.maximum(above, 1) - 1], 0)


def count_at(levels: Float32[np.ndarray, " k"], counts: np.ndarray, threshold: float) -> int:
    """The number of candidates at one threshold."""
    return int(counts_at(levels, counts, np.array([threshold], np.float32))[0])
