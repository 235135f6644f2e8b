"""Which component of a segmentation is which lesion of a table.

Segmentations of slices say where lesions are and not which: a table gives kind and volume of each,
with its centre. A lesion of the table belongs to the component whose nearest voxel lies nearest to
that centre, within one and a half times the radius of a ball of its volume and a voxel: the centre
of a crescent lies beside it. Lesions that touch are one component, with their volumes added and the
kind of the largest. What lies between the slices, or beyond them, belongs to no component.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from madad_jax.metrics import scan_stacks


@dataclasses.dataclass(frozen=True)
class Named:
    """A lesion of a table; `place` is its centre as (slice number, row, column), not rounded, and
    `volume_ml` its volume in the head, which registration does not change."""

    kind: str
    volume_ml: float
    place: tuple[float, float, float]


def bind(
    labels: Int[np.ndarray, "z h w"],
    numbers: Sequence[int],
    spacing: scan_stacks.Spacing,
    named: Sequence[Named],
) -> list[list[Named]]:
    """The lesions of the table that each component 1, 2, ... of `labels` holds, largest first.

    Args:
      labels: components of the truth, 0 for none.
      numbers: slice number of each slice of the stack, rising.
      spacing: mm between slices, rows, columns.
      named: lesions of this scan.
    """
    boxes = ndimage.find_objects(labels)
    out: list[list[Named]] = [[] for _ in boxes]
    # Once a component: the voxels of large lesions are many.
    points = [
        np.argwhere(labels[box] == k) + [s.start for s in box]
        for k, box in enumerate(boxes, start=1)
    ]
    for one in named if boxes else ():
        centre = np.array([_index(one.place[0], numbers), *one.place[1:]])
        distances = [
            float(np.sqrt(np.square((voxels - centre) * spacing).sum(axis=1).min()))
            for voxels in points
        ]
        nearest = int(np.argmin(distances))
        radius = (3000.0 * one.volume_ml / (4.0 * np.pi)) ** (1.0 / 3.0)
        if distances[nearest] <= 1.5 * radius + max(spacing):
            out[nearest].append(one)
    return [sorted(members, key=lambda n: -n.volume_ml) for members in out]


def _index(number: float, numbers: Sequence[int]) -> float:
    """Where a slice number lies in the stack, in slices; outside of it too."""
    step = float(np.median(np.diff(numbers))) if len(numbers) > 1 else 1.0
    low, high = numbers[0], numbers[-1]
    inside = float(np.interp(number, numbers, np.arange(len(numbers))))
    return inside + (min(number - low, 0.0) + max(number - high, 0.0)) / step
