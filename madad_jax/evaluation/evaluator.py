"""Collects the anomaly maps of a set, slice by slice, and turns them into one result row.

    ev = Evaluator()
    ev.add(maps, segmentations, brain_masks, has_segmentation, records)     # batch by batch
    ev.add_healthy(maps, brain_masks, records)         # optional: slices of a healthy set
    row = ev.result(method="madad", healthy_threshold=threshold, alarm_pixels=k)

The row is plain Python (JSON-able). Figures that chose a threshold with the truth in hand are
named in `row["oracle"]`; what cannot be computed (no lesion at all) is `None`, never NaN.

Memory: 4 to 8 bytes a pixel up to `max_exact_pixels`. Past that the pixels are dropped, pooled
figures come from 65,536-bin histograms with a stated error bound (`row["error_bounds"]`), and
the healthy threshold must be known beforehand (`Evaluator(healthy_threshold=...)`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax import errors
from madad_jax.evaluation import bootstrap, metrics, slices

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
_MAX_SWEEP_PIXELS = 1 << 24
_RANGE_TOLERANCE = 1e-4


class Evaluator:
    """Figures of one method on one set; see the module docstring."""

    def __init__(
        self,
        *,
        image_size: int | None = None,
        pixels: str = "all",
        healthy_threshold: float | None = None,
        max_exact_pixels: int = 1 << 26,
        draws: int = 200,
    ):
        """Starts an empty set.

        Args:
          image_size: side that maps must have; `None` accepts any.
          pixels: "all" scores every pixel (as the official code does), "brain" those in the mask.
          healthy_threshold: see the module docstring; needed past `max_exact_pixels` only.
          max_exact_pixels: how many pixels are kept for exact figures.
          draws: bootstrap draws; 0 for no intervals.

        Raises:
          UserError: another value of `pixels`.
        """
        if pixels not in ("all", "brain"):
            raise errors.UserError(f"pixels: found '{pixels}', accepted: 'all', 'brain'")
        self._image_size = image_size
        self._pixels = pixels
        self._healthy_threshold = healthy_threshold
        self._draws = draws
        self._pool = slices.Pool(max_exact_pixels)
        self._healthy_pool = slices.Pool(max_exact_pixels)
        self._scored: list[slices.SliceScores] = []
        self._healthy: list[slices.SliceScores] = []
        self._pixels_at = np.zeros((2, metrics.N_THRESHOLDS), np.int64)  # positives, true ones
        self._seen = 0
        self.subjects: dict[str, bootstrap.SubjectSums] = {}

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
        maps, truth, brain = maps[known], segmentations[known], brain_masks[known]
        kept = brain if self._pixels == "brain" else np.ones_like(brain)
        counts = metrics.ThresholdCounts()
        counts.add(maps, truth, kept)
        self._pixels_at[0] += counts.positives.sum(axis=0)
        self._pixels_at[1] += counts.true_positives.sum(axis=0)
        inside = _brain_above(maps, brain)
        for j, (i, dice) in enumerate(zip(known, counts.dice(), strict=True)):
            one = _slice(maps[j], truth[j] & kept[j], kept[j], brain[j], records[i])
            one.dice, one.brain_above = dice, inside[j]
            sums = self.subjects.setdefault(one.subject, bootstrap.empty_sums(len(dice)))
            bootstrap.add_slice(sums, one.positive, one.negative, dice)
            self._scored.append(one)
        self._pool.update(self._scored, self._healthy_threshold)

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
        nothing = np.zeros_like(brain_masks[:1])
        inside = _brain_above(maps, brain_masks)
        for i, record in enumerate(records):
            one = _slice(maps[i], nothing[0], brain_masks[i], brain_masks[i], record)
            one.brain_above = inside[i]
            self._healthy.append(one)
        self._healthy_pool.update(self._healthy, self._healthy_threshold)

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
        alarm_pixels: int = 1,
        learns: bool = True,
        seed: int = 0,
        **extra: Any,
    ) -> dict[str, Any]:
        """The row of everything added so far.

        Args:
          method: name of the row.
          healthy_threshold: chosen on healthy validation slices (`thresholds`); without it the
            figures that need it are `None`. Defaults to the constructor's.
          alarm_pixels: pixels above the threshold that make a slice an alarm.
          learns: false for rows that learn nothing (`no_learning`).
          seed: of the bootstrap.
          **extra: further JSON-able entries (set, seed of the run, checkpoint step, ...).

        Raises:
          UserError: another healthy threshold than the constructor's after pixels were dropped.
        """
        if healthy_threshold is None:
            healthy_threshold = self._healthy_threshold
        everything = self._pool.figures(self._scored)
        lesions = any(s.lesion for s in self._scored)
        best, at = self._max_dice(self._scored) if lesions else (None, None)
        healthy = self._healthy + [s for s in self._scored if not s.lesion]
        row = {
            "method": method,
            **extra,
            "learns": learns,
            **self._census(healthy),
            "max_dice": best,
            "max_dice_threshold": at,
            # Empty slices score 1 under an empty prediction and can drown all else in the mean.
            "max_dice_lesion_slices": self._max_dice([s for s in self._scored if s.lesion])[0],
            "max_dice_exact": self._max_dice_exact() if lesions else None,
            "pooled_max_dice": everything.max_dice,
            "pooled_max_dice_threshold": everything.threshold,
            "pooled_max_dice_201": self._pooled_201() if lesions else None,
            "auroc": everything.auroc,
            "ap": everything.ap,
            **self._at_healthy(healthy_threshold, healthy, alarm_pixels, lesions),
            **self._at_oracle(at, healthy, alarm_pixels),
            **self._image_level(healthy),
            "by_size": self._groups("size", metrics.SIZE_GROUPS, at, healthy_threshold),
            "by_kind": self._groups(
                "kind", sorted({s.kind for s in self._scored} - {""}), at, healthy_threshold
            ),
            "intervals": bootstrap.intervals(
                list(self.subjects.values()), draws=self._draws if lesions else 0, seed=seed
            ),
            "bootstrap": {"unit": "subject", "draws": self._draws, "level": 0.95, "seed": seed},
            "oracle": list(ORACLE),
        }
        if not self._pool.exact:
            row["error_bounds"] = {
                "auroc": everything.auroc_bound,
                "ap": everything.ap_bound,
                "pooled_max_dice": everything.max_dice_bound,
            }
        return row

    def dice_curve(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(thresholds [k], mean per-slice Dice [k]) for a picture; `None` without slices."""
        if not self._scored:
            return None
        return metrics.THRESHOLDS, np.mean([s.dice for s in self._scored], axis=0)

    def _census(self, healthy: list[slices.SliceScores]) -> dict[str, Any]:
        return {
            "n_slices": self._seen,
            "n_scored": len(self._scored),
            "n_unknown": self._seen - len(self._scored),
            "n_lesion_slices": sum(s.lesion > 0 for s in self._scored),
            "n_healthy_slices": len(healthy),
            "n_subjects": len(self.subjects),
            "pixels": self._pixels,
            "exact": self._pool.exact,
        }

    def _max_dice(self, chosen: list[slices.SliceScores]) -> tuple[float | None, float | None]:
        dice = np.array([s.dice for s in chosen]).reshape(-1, metrics.N_THRESHOLDS)
        return metrics.best_of_curve(dice, metrics.THRESHOLDS)

    def _max_dice_exact(self) -> float | None:
        scored = self._scored
        if not self._pool.exact:
            return None
        if sum(len(s.positive) + len(s.negative) for s in scored) > _MAX_SWEEP_PIXELS:
            return None
        return metrics.max_dice_exact(
            [np.concatenate([s.positive, s.negative]) for s in scored],
            [np.arange(len(s.positive) + len(s.negative)) < len(s.positive) for s in scored],
        )

    def _pooled_201(self) -> float:
        lesion = sum(s.lesion for s in self._scored)
        return float((2.0 * self._pixels_at[1] / (self._pixels_at[0] + lesion)).max())

    def _at_healthy(
        self,
        threshold: float | None,
        healthy: list[slices.SliceScores],
        alarm_pixels: int,
        lesions: bool,
    ) -> dict[str, Any]:
        pooled: dict[str, float | None] = dict.fromkeys(("dice", "precision", "recall"))
        mean, alarms = None, (None, None)
        if threshold is not None:
            alarms = slices.false_alarms(
                healthy, [s.above(threshold)[2] for s in healthy], alarm_pixels
            )
            if lesions:
                mean = slices.mean_dice_at(self._scored, threshold)
                pooled = slices.pooled_at(self._scored, threshold)
        return {
            "healthy_threshold": threshold,
            "alarm_pixels": alarm_pixels,
            "dice_healthy": mean,
            "pooled_dice_healthy": pooled["dice"],
            "precision_healthy": pooled["precision"],
            "recall_healthy": pooled["recall"],
            "false_alarm_slices_healthy": alarms[0],
            "false_alarm_pixels_healthy": alarms[1],
        }

    def _at_oracle(
        self, threshold: float | None, healthy: list[slices.SliceScores], alarm_pixels: int
    ) -> dict[str, Any]:
        alarms: tuple[float | None, float | None] = (None, None)
        if threshold is not None:
            column = int(np.argmin(np.abs(metrics.THRESHOLDS - threshold)))
            above = [int(s.brain_above[column]) for s in healthy]
            alarms = slices.false_alarms(healthy, above, alarm_pixels)
        return {"false_alarm_slices_oracle": alarms[0], "false_alarm_pixels_oracle": alarms[1]}

    def _image_level(self, healthy: list[slices.SliceScores]) -> dict[str, Any]:
        sick = [s for s in self._scored if s.lesion]
        labels = np.array([True] * len(sick) + [False] * len(healthy))
        return {
            f"image_auroc_{name}": metrics.auroc(
                np.array([getattr(s, f"brain_{name}") for s in sick + healthy]), labels
            )
            for name in ("max", "mean")
        }

    def _groups(
        self, field: str, names: Sequence[str], oracle: float | None, healthy: float | None
    ) -> dict[str, Any]:
        """Figures of each size group or kind; its negatives are its own slices' pixels."""
        out = {}
        for name in names:
            chosen = slices.select(self._scored, **{field: name})
            if not chosen:
                continue
            figures = self._pool.figures(self._scored, **{field: name})
            column = int(np.argmin(np.abs(metrics.THRESHOLDS - oracle)))
            out[name] = {
                "n_slices": len(chosen),
                "ap": figures.ap,
                "pooled_max_dice": figures.max_dice,
                "max_dice": self._max_dice(chosen)[0],
                "dice_oracle": float(np.mean([s.dice[column] for s in chosen])),
                "dice_healthy": None if healthy is None else slices.mean_dice_at(chosen, healthy),
            }
        return out


def add_differences(
    entries: Sequence[tuple[dict[str, Any], Evaluator]], *, draws: int = 200, seed: int = 0
) -> None:
    """Adds to each learned row its paired difference to the best no-learning row by AP, in place.

    `row["difference"] = {"to": name, "ap": [low, high], ...}`: 95 % intervals of the row's figure
    minus the other's, over the same draws of subjects. Nothing is added where either is missing.
    """
    floor = [e for e in entries if not e[0]["learns"] and e[0]["ap"] is not None]
    if not floor:
        return
    best = max(floor, key=lambda e: e[0]["ap"])
    for row, ev in entries:
        if row["learns"] and row["ap"] is not None:
            row["difference"] = {
                "to": best[0]["method"],
                **bootstrap.paired_difference(
                    ev.subjects, best[1].subjects, draws=draws, seed=seed
                ),
            }


def _brain_above(maps: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Brain pixels above each threshold of the grid, [n, k]."""
    counts = metrics.ThresholdCounts()
    counts.add(maps, np.zeros_like(brain), brain)
    return counts.positives


def _slice(
    values: np.ndarray, lesion: np.ndarray, kept: np.ndarray, brain: np.ndarray, record: Any
) -> slices.SliceScores:
    inside, sick = values[brain], bool(lesion.any())
    return slices.SliceScores(
        id=str(record.id),
        subject=str(record.subject),
        size=metrics.size_group(float(lesion.sum()), values.shape),
        kind=(record.lesion_kind or "unknown") if sick else "",
        lesion=int(lesion.sum()),
        dice=None,
        brain_above=np.zeros(0, np.int64),
        n_brain=int(brain.sum()),
        brain_max=float(inside.max()) if inside.size else 0.0,
        brain_mean=float(inside.mean()) if inside.size else 0.0,
        positive=values[lesion],
        negative=values[kept & ~lesion],
        brain=None if sick else inside,
    )
