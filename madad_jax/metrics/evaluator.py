"""Collects the anomaly maps of a set, slice by slice, and turns them into one result row.

    ev = Evaluator()
    ev.add(maps, segmentations, brain_masks, has_segmentation, records)     # batch by batch
    ev.add_healthy(maps, brain_masks, records)         # optional: slices of a healthy set
    row = ev.result(method="madad", healthy_threshold=threshold, alarm_pixels=k)

The row is plain Python (JSON-able). Figures that chose a threshold with the truth in hand are
named in `row["oracle"]`; what cannot be computed (no lesion at all) is `None`, never NaN.

Memory: up to `max_exact_pixels` the pixels are kept. Past that they are dropped and nothing
grows any more, however many slices follow: means are running sums (`totals`), pooled figures
come from histograms of 65,506 bins with a stated error bound (`row["error_bounds"]`), and the
healthy threshold and alarm size must be known beforehand (`Evaluator(healthy_threshold=...)`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.metrics import (
    bootstrap,
    histogram,
    operating_rates,
    running_totals,
    slice_scores,
    subject_sums,
    threshold_counts,
)

# Chosen with the truth: no user without segmentations could reproduce the choice.
ORACLE = (
    "max_dice",
    "max_dice_exact",
    "max_dice_lesion_slices",
    "pooled_max_dice",
    "pooled_max_dice_201",
    "dice_oracle",
    "false_alarm_slices_oracle",
    "false_alarm_pixels_oracle",
)
# `max_dice_exact` takes about 30 bytes a pixel: half a gigabyte for so many.
_MAX_SWEEP_PIXELS = 1 << 24
# A float32 map of a model may pass 1 by rounding; a map in other units passes it by far more.
_RANGE_TOLERANCE = 1e-4


class Evaluator:
    """Figures of one method on one set; see the module docstring."""

    def __init__(
        self,
        *,
        image_size: int | None = None,
        healthy_threshold: float | None = None,
        alarm_pixels: int = 1,
        rates: Mapping[float, float] | None = None,
        max_exact_pixels: int = 1 << 26,
        draws: int = 200,
    ):
        """Starts an empty set.

        Args:
          image_size: side that maps must have; `None` accepts any.
          healthy_threshold: chosen on healthy validation slices (`thresholds`); see the module
            docstring.
          alarm_pixels: pixels above the threshold that make a slice an alarm.
          rates: {false positive rate asked for: threshold that validation slices gave}; the
            rates that healthy slices of this set have are reported beside.
          max_exact_pixels: how many pixels are kept for exact figures.
          draws: bootstrap draws; 0 for no intervals.
        """
        self._image_size = image_size
        self._threshold = healthy_threshold
        self._alarm_pixels = alarm_pixels
        self._limit = max_exact_pixels
        self._draws = draws
        self._kept: list[slice_scores.SliceScores] = []
        self._kept_healthy: list[slice_scores.SliceScores] = []
        self._kept_pixels = 0
        self._totals: running_totals.Totals | None = None  # once pixels are dropped
        self._rates = operating_rates.Rates(rates or {})
        self._seen = self._scored = 0
        self.subjects = subject_sums.Subjects()

    # Adding.

    def add(
        self,
        maps: Float32[np.ndarray, "n H W"],
        segmentations: Bool[np.ndarray, "n H W"],
        brain_masks: Bool[np.ndarray, "n H W"],
        has_segmentation: Bool[np.ndarray, "n"],
        records: Sequence[Any],
    ) -> None:
        """Adds `n` slices; those without a known segmentation are only counted.

        Args:
          maps: anomaly maps in [0, 1].
          segmentations: true lesion pixels (all false: a slice known to be healthy).
          brain_masks: brain pixels.
          has_segmentation: whether the segmentation of the slice is known.
          records: one per slice, with `id`, `subject`, `lesion_kind`.

        Raises:
          UserError: a map with NaN or outside [0, 1], or of another size; names the slice.
        """
        self._check(maps, records)
        self._seen += len(maps)
        known = np.flatnonzero(has_segmentation)
        if len(known) < len(maps):
            maps, segmentations, brain_masks = (
                a[known] for a in (maps, segmentations, brain_masks)
            )
        # Every pixel is scored, also outside the brain, as in the official code.
        everywhere = np.ones_like(brain_masks)
        for one in slice_scores.measure(
            maps, segmentations, everywhere, brain_masks, [records[i] for i in known]
        ):
            # Each pixel is placed once: the coarse bin of a person follows from the fine one.
            placed = [histogram.place_fine(part) for part in (one.positive, one.negative)]
            self.subjects.add(one.subject, np.stack([p.coarse() for p in placed]), one.dice)
            self._scored += 1
            if one.brain is not None:
                self._rates.add(one.subject, one.brain)
            if self._totals is None:
                self._kept.append(one)
                self._kept_pixels += len(one.positive) + len(one.negative)
            else:
                self._totals.add(one, placed)
        self._drop_past_limit()

    def add_healthy(
        self,
        maps: Float32[np.ndarray, "n H W"],
        brain_masks: Bool[np.ndarray, "n H W"],
        records: Sequence[Any],
    ) -> None:
        """Adds slices of a healthy set: they count for false alarms and slice-level AUROC only.

        The Dice figures stay those of the test set, as published protocols have them.

        Raises:
          UserError: as `add`.
        """
        self._check(maps, records)
        # Brain pixels alone here: false alarms are rates of brain, while Dice scores every pixel.
        nothing = np.zeros_like(brain_masks)
        for one in slice_scores.measure(maps, nothing, brain_masks, brain_masks, list(records)):
            self._rates.add(one.subject, one.brain)
            if self._totals is None:
                self._kept_healthy.append(one)
                self._kept_pixels += one.n_brain
            else:
                self._totals.add_healthy(one)
        self._drop_past_limit()

    def _drop_past_limit(self) -> None:
        if self._totals is None and self._kept_pixels > self._limit:
            # What was kept is summed once, and from here on every slice is summed as it comes.
            self._totals = self._sum(self._threshold, self._alarm_pixels, fine=True)
            self._kept, self._kept_healthy = [], []

    def _sum(
        self, threshold: float | None, alarm_pixels: int, *, fine: bool
    ) -> running_totals.Totals:
        out = running_totals.Totals(threshold, alarm_pixels, fine=fine)
        for one in self._kept:
            parts = (one.positive, one.negative)
            out.add(one, [histogram.place_fine(p) for p in parts] if fine else ())
        for one in self._kept_healthy:
            out.add_healthy(one)
        return out

    def _check(self, maps: np.ndarray, records: Sequence[Any]) -> None:
        for values, record in zip(maps, records, strict=True):
            if self._image_size is not None and values.shape != (self._image_size,) * 2:
                raise errors.UserError(
                    f"slice {record.id}: found a map of {values.shape[0]} x {values.shape[1]}, "
                    f"accepted: {self._image_size} x {self._image_size}"
                )
            low, high = float(values.min()), float(values.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise errors.UserError(
                    f"slice {record.id}: found NaN or infinity in its anomaly map, "
                    "accepted: numbers in [0, 1]"
                )
            if low < -_RANGE_TOLERANCE or high > 1.0 + _RANGE_TOLERANCE:
                raise errors.UserError(
                    f"slice {record.id}: found an anomaly map in [{low:.4g}, {high:.4g}], "
                    "accepted: [0, 1]"
                )

    # The row.

    def result(
        self,
        *,
        method: str = "",
        healthy_threshold: float | None = None,
        alarm_pixels: int | None = None,
        learns: bool = True,
        seed: int = 0,
        **extra: Any,
    ) -> dict[str, Any]:
        """The row of everything added so far.

        Args:
          method: name of the row.
          healthy_threshold: defaults to the constructor's; without it the figures that need it
            are `None`.
          alarm_pixels: defaults to the constructor's.
          learns: false for baselines (`baseline_maps`).
          seed: of the bootstrap.
          **extra: further JSON-able entries (set, seed of the run, checkpoint step, ...).

        Raises:
          UserError: another healthy threshold or alarm size than the constructor's after pixels
            were dropped.
        """
        # Everything below follows from these sums; pixels are asked for again only if kept.
        sums = self._final(healthy_threshold, alarm_pixels)
        everything, lesions = sums.union(), sums.with_lesion()
        pooled, bounds = self._pooled(everything)
        best, at = everything.max_dice() if lesions.slices else (None, None)
        row = {
            "method": method,
            **extra,
            "learns": learns,
            **self._census(sums, lesions),
            "max_dice": best,
            "max_dice_threshold": at,
            # Empty slices score 1 under an empty prediction and can drown all else in the mean.
            "max_dice_lesion_slices": lesions.max_dice()[0],
            "max_dice_exact": self._max_dice_exact() if lesions.slices else None,
            **pooled,
            "pooled_max_dice_201": running_totals.pooled_grid_dice(everything),
            **running_totals.figures_at_healthy(sums, everything),
            **running_totals.figures_at_oracle(sums, at),
            **{f"image_auroc_{name}": sums.image_auroc(name)[0] for name in ("max", "mean")},
            "by_size": self._groups(sums, "size", threshold_counts.SIZE_GROUPS, at),
            "by_kind": self._groups(sums, "kind", sorted({k for _, k in sums.groups} - {""}), at),
            **self._uncertainty(lesions, seed),
            "rates": self._rates.table(draws=self._draws, seed=seed),
            "oracle": list(ORACLE),
        }
        if self._totals is not None:
            bounds |= {f"image_auroc_{n}": sums.image_auroc(n)[1] for n in ("max", "mean")}
            row["error_bounds"] = bounds
        return row

    def dice_curve(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(thresholds [k], mean per-slice Dice [k]) for a picture; `None` without slices."""
        if not self._scored:
            return None
        sums = self._totals or self._sum(None, 1, fine=False)
        return threshold_counts.THRESHOLDS, sums.union().mean_dice()

    def _final(self, threshold: float | None, alarm_pixels: int | None) -> running_totals.Totals:
        threshold = self._threshold if threshold is None else threshold
        alarm_pixels = self._alarm_pixels if alarm_pixels is None else alarm_pixels
        if self._totals is None:
            return self._sum(threshold, alarm_pixels, fine=False)
        for what, found, accepted in (
            ("healthy threshold", threshold, self._threshold),
            ("alarm_pixels", alarm_pixels, self._alarm_pixels),
        ):
            if found != accepted:
                raise errors.UserError(
                    f"{what}: found {found:.6g} after the pixels were dropped, accepted: the one "
                    "given to Evaluator(...), or a larger max_exact_pixels"
                )
        return self._totals

    def _census(self, sums: running_totals.Totals, lesions: running_totals.Group) -> dict[str, Any]:
        return {
            "n_slices": self._seen,
            "n_scored": self._scored,
            "n_unknown": self._seen - self._scored,
            "n_lesion_slices": lesions.slices,
            "n_healthy_slices": sums.alarms.slices,
            "n_subjects": len(self.subjects.sums),
            "n_regions": lesions.regions,
            "pixels": "all",
            "exact": self._totals is None,
        }

    def _uncertainty(self, lesions: running_totals.Group, seed: int) -> dict[str, Any]:
        """Intervals over people, and how they were drawn."""
        # Without a lesion no figure exists, and none of the draws would have one.
        draws = self._draws if lesions.slices else 0
        people = list(self.subjects.sums.values())
        return {
            "intervals": bootstrap.intervals(people, draws=draws, seed=seed),
            "bootstrap": {
                "unit": "bundle of subjects" if self.subjects.bundled else "subject",
                "draws": self._draws,
                "level": 0.95,
                "seed": seed,
            },
        }

    def _pooled(self, everything: running_totals.Group) -> tuple[dict[str, Any], dict[str, float]]:
        """Figures of all pixels, and their error bounds."""
        if self._totals is None:
            found, overlap = (
                slice_scores.pooled(self._kept),
                slice_scores.region_overlap_of(self._kept),
            )
            bound = 0.0
        else:
            found = running_totals.pooled(everything)
            overlap, bound = running_totals.region_overlap_of(everything)
        figures = {
            "pooled_max_dice": found.max_dice,
            "pooled_max_dice_threshold": found.threshold,
            "auroc": found.auroc,
            "ap": found.ap,
            "aupro": overlap,
        }
        return figures, {
            "auroc": found.auroc_bound,
            "ap": found.ap_bound,
            "pooled_max_dice": found.max_dice_bound,
            "aupro": bound,
        }

    def _max_dice_exact(self) -> float | None:
        if self._totals is not None:
            return None
        return slice_scores.max_dice_exact(self._kept, _MAX_SWEEP_PIXELS)

    def _groups(
        self, sums: running_totals.Totals, field: str, names: Sequence[str], oracle: float | None
    ) -> dict[str, Any]:
        """Figures of each size group or kind; its negatives are its own slices' pixels."""
        out = {}
        for name in names:
            group = sums.union(**{field: name})
            if not group.slices:
                continue
            chosen = [s for s in self._kept if getattr(s, field) == name]
            exact = self._totals is None
            figures = slice_scores.pooled(chosen) if exact else running_totals.pooled(group)
            # The threshold came from the grid and is found there again, whatever its last bit.
            column = int(np.argmin(np.abs(threshold_counts.THRESHOLDS - oracle)))
            mean_at = float(group.at[0] / group.slices)
            out[name] = {
                "n_slices": group.slices,
                "ap": figures.ap,
                "pooled_max_dice": figures.max_dice,
                "max_dice": group.max_dice()[0],
                "dice_oracle": float(group.mean_dice()[column]),
                "dice_healthy": None if sums.threshold is None else mean_at,
            }
        return out
