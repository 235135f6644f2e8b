"""What a scan looks like beside healthy ones: how bright it is, and where.

Of every healthy scan two things are measured on its prepared slices: the deciles of the brain's
intensities, and the likeness with the mean of the other healthy scans (Pearson's r over cells of
8 mm). Another contrast turns the likeness around; another scanner, preparation or place moves both.

A scan's distance is the root mean square of both, each over its own spread among the healthy scans
(1.48 times the median absolute deviation). How far healthy scans lie from the others is known, and
what lies `FACTOR` times as far as the furthest of them is said to be unlike.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64

_PERCENTS = tuple(range(10, 100, 10))
_CELL_MM = 8.0  # Folds differ from person to person, lobes and ventricles do not.
_LEAST_BRAIN = 0.5  # Share of a cell that is brain.
FEWEST = 5  # Of fewer healthy scans the spread is not known: nothing is said.
FACTOR = 1.5
# Spreads are not taken for smaller: a few scans of one scanner may agree by chance. In shares of
# the intensities' range, and of r.
_LEAST_SPREAD = 0.02
# In spreads: healthy scans that are all but equal would make every lesion unlike them.
_LEAST_FURTHEST = 2.0


@dataclasses.dataclass(frozen=True)
class Look:
    """One scan: deciles of its brain's intensities, and cells of 8 mm, NaN where little is brain.

    Intensities are over [0, 1].
    """

    deciles: Float64[np.ndarray, " d"]
    cells: Float32[np.ndarray, "k r c"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A scan beside the healthy ones: its distance and likeness, their furthest and least alike."""

    distance: float
    furthest: float
    likeness: float
    least_alike: float

    @property
    def is_unlike(self) -> bool:
        """Whether it lies further off than any healthy scan, by `FACTOR`."""
        return self.times > FACTOR

    @property
    def times(self) -> float:
        """Its distance over the furthest healthy scan's, which counts for 2 spreads at least."""
        return self.distance / max(self.furthest, _LEAST_FURTHEST)


@dataclasses.dataclass(frozen=True)
class HealthyLooks:
    """The healthy scans of a calibration.

    Attributes:
      deciles: a row a scan.
      likeness: of each with the mean of the others.
      mean: their cells, NaN where no scan has brain.
    """

    deciles: Float64[np.ndarray, "n d"]
    likeness: Float64[np.ndarray, " n"]
    mean: Float32[np.ndarray, "k r c"]

    def compare(self, look: Look) -> Verdict | None:
        """The scan beside the healthy ones; None where they are too few, or cut otherwise."""
        count = len(self.likeness)
        if count < FEWEST or look.cells.shape != self.mean.shape:
            return None
        likeness = _likeness(look.cells, self.mean)
        others = [np.arange(count) != i for i in range(count)]
        distances = [
            _distance(self.deciles[i], self.likeness[i], self.deciles[keep], self.likeness[keep])
            for i, keep in enumerate(others)
        ]
        return Verdict(
            distance=_distance(look.deciles, likeness, self.deciles, self.likeness),
            furthest=max(distances),
            likeness=likeness,
            least_alike=float(self.likeness.min()),
        )


def measure(
    images: Float32[np.ndarray, "k H W"], brain: Bool[np.ndarray, "k H W"], pixel_mm: float
) -> Look:
    """The look of a scan's slices.

    Args:
      images: over [0, 1].
      brain: what is looked at, True somewhere.
      pixel_mm: side of a pixel.
    """
    side = max(1, round(_CELL_MM / pixel_mm))
    share = _cells(brain, side)
    # Sums of the brain alone: its rim must not be darkened by what lies beyond.
    sums = _cells(np.where(brain, images, np.float32(0.0)), side)
    known = share >= _LEAST_BRAIN
    cells = np.where(known, sums / np.where(known, share, 1.0), np.nan).astype(np.float32)
    return Look(np.percentile(images[brain], _PERCENTS).astype(np.float64), cells)


def _cells(array: np.ndarray, side: int) -> np.ndarray:
    """Means over squares of `side` pixels; pixels that fill none are left out."""
    k, height, width = array.shape
    rows, columns = height // side, width // side
    cut = array[:, : rows * side, : columns * side].astype(np.float64)
    return cut.reshape(k, rows, side, columns, side).mean(axis=(2, 4))


def place(look: Look, numbers: Sequence[int], wanted: Sequence[int]) -> Look:
    """A look of the slices `numbers` as one of the slices `wanted`, NaN where there is none."""
    at: Mapping[int, int] = {number: i for i, number in enumerate(numbers)}
    empty = np.full(look.cells.shape[1:], np.nan, np.float32)
    cells = [look.cells[at[number]] if number in at else empty for number in wanted]
    return Look(look.deciles, np.stack(cells))


def collect(looks: Sequence[Look]) -> HealthyLooks:
    """Healthy scans' looks, of the same slices and at least two, together."""
    stack = np.stack([look.cells for look in looks]).astype(np.float64)
    known = np.isfinite(stack)
    total, count = np.where(known, stack, 0.0).sum(axis=0), known.sum(axis=0)
    likeness = []
    for cells, there in zip(stack, known, strict=True):
        rest = count - there
        others = (total - np.where(there, cells, 0.0)) / np.maximum(rest, 1)
        likeness.append(_likeness(cells, np.where(rest > 0, others, np.nan)))
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    deciles = np.stack([look.deciles for look in looks])
    return HealthyLooks(deciles, np.array(likeness, np.float64), mean.astype(np.float32))


def _likeness(cells: np.ndarray, mean: np.ndarray) -> float:
    """Pearson's r over the cells that both know; 0 where one of them is constant."""
    both = np.isfinite(cells) & np.isfinite(mean)
    if both.sum() < 2:
        return 0.0
    x, y = (a[both].astype(np.float64) - a[both].mean(dtype=np.float64) for a in (cells, mean))
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size > 0 else 0.0


def _distance(
    deciles: np.ndarray, likeness: float, all_deciles: np.ndarray, all_likeness: np.ndarray
) -> float:
    bright = (deciles - np.median(all_deciles, axis=0)) / _spread(all_deciles)
    # To be more alike than the others is no fault.
    apart = max(0.0, float(np.median(all_likeness)) - likeness) / float(_spread(all_likeness))
    return float(np.sqrt(((bright**2).mean() + apart**2) / 2.0))


def _spread(values: np.ndarray) -> np.ndarray:
    """Robust standard deviation along the first axis: one odd healthy scan must not widen it."""
    deviation = np.median(np.abs(values - np.median(values, axis=0)), axis=0)
    return np.asarray(np.maximum(1.4826 * deviation, _LEAST_SPREAD))
