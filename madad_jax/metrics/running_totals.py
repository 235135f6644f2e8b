"""Sums over slices from which every figure follows: as large after a million slices as after one.

Lesion slices are summed by (size, kind), slices without a lesion apart. Per-slice Dice is a mean
over slices, so its sum at each threshold is enough; pooled figures follow from histograms. What
depends on a threshold that is no part of the grid of 201 is counted while the pixels are there.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from madad_jax.metrics import histogram, pixel_pool, region_overlap, slice_scores, threshold_counts

Key = tuple[str, str]  # size, kind


def _grid() -> np.ndarray:
    return np.zeros(threshold_counts.N_THRESHOLDS, np.int64)


@dataclasses.dataclass
class Group:
    """Slices of one size and kind. At thresholds of the grid: `dice` (its sum over slices),
    `hits` (lesion pixels above) and `above` (scored pixels); `at` the same three at the healthy
    threshold. `fine` (lesion and other pixels) and `mass` (region weights) are histograms."""

    slices: int = 0
    lesion: int = 0
    regions: int = 0
    dice: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(threshold_counts.N_THRESHOLDS, np.float64)
    )
    hits: np.ndarray = dataclasses.field(default_factory=_grid)
    above: np.ndarray = dataclasses.field(default_factory=_grid)
    at: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(3))
    fine: np.ndarray | None = None
    mass: np.ndarray | None = None

    def mean_dice(self) -> np.ndarray:
        """Mean per-slice Dice at each threshold of the grid."""
        return self.dice / max(1, self.slices)

    def max_dice(self) -> tuple[float | None, float | None]:
        """(largest mean per-slice Dice, its threshold); `None`s without slices."""
        if not self.slices:
            return None, None
        mean = self.mean_dice()
        best = int(mean.argmax())
        return float(mean[best]), float(threshold_counts.THRESHOLDS[best])

    def __add__(self, other: "Group") -> "Group":
        out = Group()
        for field in dataclasses.fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            setattr(out, field.name, two if one is None else one if two is None else one + two)
        return out


@dataclasses.dataclass
class Alarms:
    """Slices without a lesion. `above` brain pixels above each threshold of the grid, `slices_at`
    how many slices have `alarm_pixels` of them; `at` both at the healthy threshold."""

    slices: int = 0
    brain: int = 0
    above: np.ndarray = dataclasses.field(default_factory=_grid)
    slices_at: np.ndarray = dataclasses.field(default_factory=_grid)
    at: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(2, np.int64))

    def shares(self, slices_at: Any, above: Any) -> tuple[float | None, float | None]:
        """(share of slices alarmed, share of brain pixels above); `None`s without slices."""
        if not self.slices:
            return None, None
        return float(slices_at / self.slices), float(above / self.brain) if self.brain else None


class Totals:
    """Sums of everything; `add` a slice and forget it."""

    def __init__(self, healthy_threshold: float | None, alarm_pixels: int, *, fine: bool):
        """`fine` keeps the histograms that pooled figures need once pixels are gone."""
        self.threshold = healthy_threshold
        self.alarm_pixels = alarm_pixels
        self.groups: dict[Key, Group] = {}
        self.alarms = Alarms()
        # Slice-level scores of slices without (0) and with (1) a lesion: lists, or histograms.
        self.image: dict[str, list] = {"max": [[], []], "mean": [[], []]}
        self._fine = fine
        if fine:
            # A list of slice-level scores would grow with the set.
            self.image = {k: list(np.zeros((2, histogram.N_BINS), np.int64)) for k in self.image}

    def add(self, one: slice_scores.SliceScores, placed: Sequence[histogram.Placed] = ()) -> None:
        """Adds a slice with a known segmentation; `placed` its lesion and other pixels where
        histograms are kept."""
        group = self.groups.setdefault((one.size, one.kind), Group())
        group.slices += 1
        group.lesion += one.lesion
        group.regions += one.regions
        group.dice += one.dice
        group.hits += one.hits
        group.above += one.above
        if self.threshold is not None:
            hits, above, _ = one.above_threshold(self.threshold)
            dice = threshold_counts.slice_dice(
                np.array(above), np.array(hits), np.array(one.lesion)
            )
            # While the pixels are there: this threshold is not on the grid of 201.
            group.at += (float(dice), hits, above)
        if self._fine:
            if group.fine is None:
                group.fine = np.zeros((2, histogram.N_BINS), np.int64)
                group.mass = np.zeros(histogram.N_BINS)
            for part, counts in zip(placed, group.fine, strict=True):
                part.add_to(counts)
            if one.lesion:
                # AUPRO weighs each lesion pixel by its region, so that counts are not enough.
                bins = histogram.fine_bins(one.positive)
                # From the lowest bin to the highest: a lesion's scores lie close together.
                low = int(bins.min())
                mass = np.bincount(bins - low, one.weight)
                group.mass[low : low + len(mass)] += mass
        if one.lesion:
            self._add_image(one, 1)
        else:
            self.add_healthy(one)

    def add_healthy(self, one: slice_scores.SliceScores) -> None:
        """Adds a slice without a lesion to the alarms and slice-level scores alone."""
        alarms = self.alarms
        alarms.slices += 1
        alarms.brain += one.n_brain
        alarms.above += one.brain_above
        alarms.slices_at += one.brain_above >= self.alarm_pixels
        if self.threshold is not None:
            above = one.above_threshold(self.threshold)[2]
            alarms.at += (above >= self.alarm_pixels, above)
        self._add_image(one, 0)

    def _add_image(self, one: slice_scores.SliceScores, sick: int) -> None:
        for name, value in (("max", one.brain_max), ("mean", one.brain_mean)):
            if self._fine:
                self.image[name][sick][histogram.fine_bins(np.array([value], np.float32))] += 1
            else:
                self.image[name][sick].append(value)

    # Figures.

    def union(self, *, size: str | None = None, kind: str | None = None) -> Group:
        """The slices of one size and/or kind; all for `None`."""
        chosen = [
            group
            for (s, k), group in self.groups.items()
            if (size is None or s == size) and (kind is None or k == kind)
        ]
        # An empty group is the sum of none: every figure of it is None or 0.
        return sum(chosen, Group())

    def with_lesion(self) -> Group:
        """The slices with a lesion."""
        return sum((g for (size, _), g in self.groups.items() if size), Group())

    def image_auroc(self, name: str) -> tuple[float | None, float]:
        """(slice-level AUROC by the brain's "max" or "mean", its error bound)."""
        healthy, sick = self.image[name]
        if self._fine:
            found = histogram.pooled(np.stack([sick, healthy]))
            return found.auroc, found.auroc_bound
        labels = np.arange(len(sick) + len(healthy)) < len(sick)
        return pixel_pool.pooled(np.array(sick + healthy, np.float32), labels).auroc, 0.0


def pooled(group: Group) -> pixel_pool.Pooled:
    """Pooled figures of a group that keeps histograms."""
    return pixel_pool.NO_FIGURES if group.fine is None else histogram.pooled(group.fine)


def region_overlap_of(group: Group) -> tuple[float | None, float]:
    """(AUPRO, its error bound) of a group that keeps histograms."""
    if group.fine is None:
        return None, 0.0
    return region_overlap.from_histogram(group.mass, group.fine[1])


def pooled_grid_dice(everything: Group) -> float | None:
    """The largest pooled Dice at a threshold of the grid; None without lesion pixels."""
    if not everything.lesion:
        return None
    return float((2.0 * everything.hits / (everything.above + everything.lesion)).max())


def figures_at_healthy(sums: Totals, everything: Group) -> dict[str, Any]:
    """Figures at the healthy threshold, None where it or a lesion is missing, by their names in
    a result row; `everything` is the union of `sums`."""
    pooled: dict[str, float | None] = dict.fromkeys(("dice", "precision", "recall"))
    mean, alarms = None, (None, None)
    if sums.threshold is not None:
        alarms = sums.alarms.shares(*sums.alarms.at)
        if everything.lesion:
            dice, hits, above = everything.at
            mean = float(dice / everything.slices)
            pooled["dice"] = float(2.0 * hits / (above + everything.lesion))
            pooled["precision"] = float(hits / above) if above else None
            pooled["recall"] = float(hits / everything.lesion)
    return {
        "healthy_threshold": sums.threshold,
        "alarm_pixels": sums.alarm_pixels,
        "dice_healthy": mean,
        "pooled_dice_healthy": pooled["dice"],
        "precision_healthy": pooled["precision"],
        "recall_healthy": pooled["recall"],
        "false_alarm_slices_healthy": alarms[0],
        "false_alarm_pixels_healthy": alarms[1],
    }


def figures_at_oracle(sums: Totals, threshold: float | None) -> dict[str, Any]:
    """False alarms at a threshold of the grid that was chosen with the truth; None without one."""
    alarms: tuple[float | None, float | None] = (None, None)
    if threshold is not None:
        column = int(np.argmin(np.abs(threshold_counts.THRESHOLDS - threshold)))
        alarms = sums.alarms.shares(sums.alarms.slices_at[column], sums.alarms.above[column])
    return {"false_alarm_slices_oracle": alarms[0], "false_alarm_pixels_oracle": alarms[1]}
