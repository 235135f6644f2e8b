"""Two maps of one head on one grid: which candidates are new, gone, or seen twice.

The rule: connected places (26 neighbours) of the two masks are one place when they share voxels,
at least a tenth of the smaller one's. Places that are linked so, directly or through others, are
one row, so that one that split in two, or two that grew together, are counted once. A place that
only one visit has is `new` or `gone` where the other visit scored at least half of it, and
otherwise `not_scored_...`: of what was not looked at nothing is known.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int
from scipy import ndimage, sparse
from scipy.sparse import csgraph

NEW, GONE, PERSISTING = "new", "gone", "persisting"
ONLY_FIRST, ONLY_SECOND = "not_scored_in_second", "not_scored_in_first"
CHANGES = (NEW, GONE, PERSISTING, ONLY_SECOND, ONLY_FIRST)
SHARED = 0.1  # of the smaller place's voxels, from which on two places are one
LEAST_SCORED = 0.5  # of a place's voxels
_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclasses.dataclass(frozen=True)
class VisitMaps:
    """What one visit has on the grid of both.

    Attributes:
      anomaly: the map, [0, 1].
      mask: candidates.
      scored: where the visit's map was made.
    """

    anomaly: Float32[np.ndarray, "X Y Z"]
    mask: Bool[np.ndarray, "X Y Z"]
    scored: Bool[np.ndarray, "X Y Z"]


@dataclasses.dataclass(frozen=True)
class Place:
    """A row: one place of the head that is above the threshold in one visit or in both.

    Attributes:
      change: one of `CHANGES`.
      voxels: in the first and in the second mask.
      parts: connected places of the first and of the second mask.
      peaks, means: of either visit's map over the voxels of both masks.
      difference: mean of second - first there.
      scored: share of it that each visit scored.
      voxel: inside the place, nearest to its centre.
    """

    change: str
    voxels: tuple[int, int]
    parts: tuple[int, int]
    peaks: tuple[float, float]
    means: tuple[float, float]
    difference: float
    scored: tuple[float, float]
    voxel: tuple[int, int, int]


def subtract(first: VisitMaps, second: VisitMaps) -> Float32[np.ndarray, "X Y Z"]:
    """Second - first where both visits were scored, 0 elsewhere."""
    both = first.scored & second.scored
    return np.where(both, second.anomaly - first.anomaly, np.float32(0.0))


def find_places(
    first: VisitMaps, second: VisitMaps
) -> tuple[Int[np.ndarray, "X Y Z"], list[Place]]:
    """(number of the place for each voxel, 0 for none; places in the order of their numbers).

    New places first, then gone ones, those seen twice, and those that one visit did not score; each
    by volume, largest first.
    """
    linked = _link(first.mask, second.mask)
    boxes = ndimage.find_objects(linked.groups)
    found = [_describe(linked, k, box, (first, second)) for k, box in enumerate(boxes, start=1)]

    def rank(k: int) -> tuple[Any, ...]:
        # By place too: ties must not fall by the order of the visits.
        return CHANGES.index(found[k].change), -max(found[k].voxels), found[k].voxel

    order = sorted(range(len(found)), key=rank)
    number = np.zeros(len(found) + 1, np.int32)
    number[np.array(order, int) + 1] = np.arange(1, len(order) + 1)
    return number[linked.groups], [found[k] for k in order]


@dataclasses.dataclass(frozen=True)
class _Linked:
    """`groups` of voxels from 1; per group the places and voxels of either mask."""

    groups: np.ndarray
    parts: list[tuple[int, int]]
    voxels: list[tuple[int, int]]


def _link(first: np.ndarray, second: np.ndarray) -> _Linked:
    labels, counts = zip(
        *(ndimage.label(mask, structure=_NEIGHBOURS) for mask in (first, second)), strict=True
    )
    sizes = [np.bincount(a.ravel(), minlength=n + 1) for a, n in zip(labels, counts, strict=True)]
    both = first & second
    pairs, shared = np.unique(
        np.stack([labels[0][both], labels[1][both]], axis=1), axis=0, return_counts=True
    )
    smaller = np.minimum(sizes[0][pairs[:, 0]], sizes[1][pairs[:, 1]])
    pairs = pairs[shared >= SHARED * smaller]
    total = sum(counts)
    graph = sparse.coo_matrix(
        (np.ones(len(pairs)), (pairs[:, 0] - 1, counts[0] + pairs[:, 1] - 1)), shape=(total, total)
    )
    count, of_label = csgraph.connected_components(graph, directed=False)
    of_visit = [np.concatenate([[0], part + 1]) for part in np.split(of_label, [counts[0]])]
    # Where two places share too little to be one, the larger one has their common voxels.
    size = [s[a] for s, a in zip(sizes, labels, strict=True)]
    mine = first & (~second | (size[0] > size[1]))
    groups = np.where(mine, of_visit[0][labels[0]], of_visit[1][labels[1]]).astype(np.int32)
    parts, voxels = [], []
    for of_place, sizes_of_visit in zip(of_visit, sizes, strict=True):
        parts.append(np.bincount(of_place[1:], minlength=count + 1)[1:].tolist())
        weights = sizes_of_visit[1:]
        inside = np.bincount(of_place[1:], weights=weights, minlength=count + 1)[1:]
        voxels.append(inside.astype(int).tolist())
    return _Linked(groups, list(zip(*parts, strict=True)), list(zip(*voxels, strict=True)))


def _describe(
    linked: _Linked, number: int, box: tuple[slice, ...], visits: tuple[VisitMaps, VisitMaps]
) -> Place:
    inside = linked.groups[box] == number
    maps = [visit.anomaly[box][inside] for visit in visits]
    scored = tuple(float(visit.scored[box][inside].mean()) for visit in visits)
    points = np.argwhere(inside)
    near = points[int(np.square(points - points.mean(axis=0)).sum(axis=1).argmin())]
    means = tuple(float(values.mean(dtype=np.float64)) for values in maps)
    parts = linked.parts[number - 1]
    return Place(
        change=_name_change(parts, scored),
        voxels=linked.voxels[number - 1],
        parts=parts,
        peaks=tuple(float(values.max()) for values in maps),
        means=means,
        difference=means[1] - means[0],
        scored=scored,
        voxel=tuple(int(n + s.start) for n, s in zip(near, box, strict=True)),
    )


def _name_change(parts: tuple[int, int], scored: tuple[float, float]) -> str:
    if all(parts):
        return PERSISTING
    if parts[1]:
        return NEW if scored[0] >= LEAST_SCORED else ONLY_SECOND
    return GONE if scored[1] >= LEAST_SCORED else ONLY_FIRST
