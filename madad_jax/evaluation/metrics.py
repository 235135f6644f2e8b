"""Detection figures from anomaly maps: per-slice Dice, pooled Dice, AUROC, average precision.

Two statistics are both called "max Dice" in the literature; here they have two names:

* `max_dice`: at each of 201 thresholds the Dice of every slice, averaged over slices, then the
  largest of the 201 means (the official code's "max Dice"). With P = (A > th) or (A >= 1):

      Dice = 2 |P ∩ G| / (|P| + |G| + 1e-6);   G empty: 1 if P is empty, else 0

  The `A >= 1` part is a quirk of the official code (a pixel at 1 is positive even at th = 1)
  and is kept; thresholds are compared in float32, as numpy 1.26 did there.
* `pooled_max_dice`: all pixels of all slices in one pool, the largest Dice (= F1) over all
  distinct scores, P = (A >= score) (anomalib's F1Max, the official "Global max Dice"):
  max 2PR / (P + R + 1e-10), with P precision and R recall.

Both choose their threshold with the truth in hand: they are oracle figures.

AUROC and average precision are exact over the pooled pixels, ties counted as sklearn does.
Source: official code and anomalib/sklearn definitions; equal to both within 1e-6 by test.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

N_THRESHOLDS = 201
THRESHOLDS = np.linspace(0.0, 1.0, N_THRESHOLDS)
_TH32 = THRESHOLDS.astype(np.float32)
_DICE_EPS = 1e-6
_F1_EPS = 1e-10
_CHUNK_PIXELS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Figures of one pool of pixels; all `None` when it holds no lesion (or nothing else).

    `threshold` is the score s at which `max_dice` is reached, predicting positive at A >= s.
    `*_bound` bound the distance to the exact value (0 when the value is exact).
    """

    auroc: float | None
    ap: float | None
    max_dice: float | None
    threshold: float | None
    auroc_bound: float = 0.0
    ap_bound: float = 0.0
    max_dice_bound: float = 0.0


NO_FIGURES = Pooled(None, None, None, None)


class ThresholdCounts:
    """Per-slice counts of positives and true positives at the 201 thresholds.

    Keeps `2 * 201` integers per slice and forgets the pixels; `Evaluator` takes one a batch.
    """

    def __init__(self):
        self._positives: list[np.ndarray] = []
        self._true_positives: list[np.ndarray] = []
        self._lesion: list[np.ndarray] = []

    def add(
        self,
        maps: Float32[np.ndarray, "n H W"],
        segmentations: Bool[np.ndarray, "n H W"],
        inside: Bool[np.ndarray, "n H W"] | None = None,
    ) -> None:
        """Counts `n` slices; with `inside`, only the pixels where it is true."""
        n = len(maps)
        step = max(1, _CHUNK_PIXELS // max(1, math.prod(maps.shape[1:])))
        for i in range(0, n, step):
            part = slice(i, i + step)
            self._add(maps[part], segmentations[part], None if inside is None else inside[part])

    def _add(self, maps: np.ndarray, truth: np.ndarray, inside: np.ndarray | None) -> None:
        n, n_bins = len(maps), N_THRESHOLDS + 1
        bins = _below(maps.reshape(n, -1))
        bins += (np.arange(n, dtype=np.int32) * n_bins)[:, None]
        truth = truth.reshape(n, -1)
        lesion = truth if inside is None else truth & inside.reshape(n, -1)
        kept = bins.ravel() if inside is None else bins[inside.reshape(n, -1)]
        for chosen, out in ((kept, self._positives), (bins[lesion], self._true_positives)):
            histogram = np.bincount(chosen, minlength=n * n_bins).reshape(n, n_bins)
            out.append(histogram[:, :0:-1].cumsum(axis=1)[:, ::-1])
        self._lesion.append(lesion.sum(axis=1))

    @property
    def positives(self) -> Int[np.ndarray, "n k"]:
        """|P| of each slice at each threshold."""
        return self._stack(self._positives)

    @property
    def true_positives(self) -> Int[np.ndarray, "n k"]:
        """|P ∩ G| of each slice at each threshold."""
        return self._stack(self._true_positives)

    @property
    def lesion(self) -> Int[np.ndarray, "n"]:
        """|G| of each slice."""
        return np.concatenate([np.zeros(0, np.int64), *self._lesion])

    def _stack(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((0, N_THRESHOLDS), np.int64), *parts])

    def dice(self) -> Float[np.ndarray, "n k"]:
        """Dice of each slice at each threshold, the official conventions."""
        return slice_dice(self.positives, self.true_positives, self.lesion[:, None])

    def max_dice(self) -> tuple[float | None, float | None]:
        """(max over thresholds of the mean over slices, the threshold); `None`s without slices."""
        return best_of_curve(self.dice(), THRESHOLDS)

    def pooled_max_dice(self) -> float | None:
        """Largest pooled Dice on this grid; `None` when no pixel is lesion."""
        lesion = int(self.lesion.sum())
        if not lesion:
            return None
        tp, p = self.true_positives.sum(axis=0), self.positives.sum(axis=0)
        return float((2.0 * tp / (p + lesion)).max())


def _below(values: Float32[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """How many of the thresholds are below each score, in float32: it is positive at threshold k
    exactly when k is less. All 201 for scores of 1 and more, the official code's quirk.

    The grid is even, so the place is a product; rounding may leave it one short, which two
    comparisons mend, at a third of the time of a binary search. Zeros, which all is outside the
    brain, are above nothing and left out.
    """
    bins = np.zeros(values.shape, np.int32)
    some = values > 0.0
    bins[some] = _place(values[some])
    return bins


def _place(values: Float32[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """`_below` of scores above 0."""
    place = np.clip(values * np.float32(N_THRESHOLDS - 1), 0.0, N_THRESHOLDS - 1).astype(np.int32)
    bins = place + (_TH32[place] < values)
    np.minimum(place + 1, N_THRESHOLDS - 1, out=place)
    bins += (_TH32[place] < values) & (bins == place)
    bins[values >= 1.0] = N_THRESHOLDS
    return bins.astype(np.int32, copy=False)


def slice_dice(
    positives: np.ndarray, true_positives: np.ndarray, lesion: np.ndarray
) -> Float[np.ndarray, "..."]:
    """Official per-slice Dice from counts (any shapes that broadcast)."""
    dice = 2.0 * true_positives / (positives + lesion + _DICE_EPS)
    return np.where(lesion > 0, dice, (positives == 0).astype(np.float64))


def best_of_curve(
    dice: Float[np.ndarray, "n k"], thresholds: Float[np.ndarray, "k"]
) -> tuple[float | None, float | None]:
    """(largest mean over slices, its threshold); `(None, None)` for no slices.

    Of equally good thresholds the lowest is returned, as a strict `>` over a loop would.
    """
    if not len(dice):
        return None, None
    mean = dice.mean(axis=0)
    best = int(mean.argmax())
    return float(mean[best]), float(thresholds[best])


def pooled(
    scores: Float32[np.ndarray, "n"] | Float32[np.ndarray, "n H W"],
    labels: Bool[np.ndarray, "n"] | Bool[np.ndarray, "n H W"],
) -> Pooled:
    """Exact pooled AUROC, AP and maximum Dice of `scores` against `labels`."""
    return pooled_split(scores[labels], scores[~labels])


def pooled_split(positive: Float32[np.ndarray, "p"], negative: Float32[np.ndarray, "q"]) -> Pooled:
    """`pooled` from the scores of lesion pixels and of all others.

    All three figures need the curve at the distinct *lesion* scores only: recall changes
    nowhere else, and adding non-lesion pixels alone never raises Dice. So two float32 sorts do,
    with no index arrays, at 4 bytes a pixel.
    """
    n_pos, n_neg = len(positive), len(negative)
    if not n_pos or not n_neg:
        return NO_FIGURES
    negative = np.sort(negative)
    score, count = np.unique(positive, return_counts=True)
    below = np.searchsorted(negative, score, side="left")
    tied = np.searchsorted(negative, score, side="right") - below
    auroc = float((count * (below + 0.5 * tied)).sum() / (n_pos * n_neg))
    tp = count[::-1].cumsum()[::-1]  # lesion pixels at or above each distinct score
    fp = n_neg - below
    precision = tp / (tp + fp)
    recall = tp / n_pos
    dice = 2.0 * precision * recall / (precision + recall + _F1_EPS)
    best = int(dice.argmax())
    return Pooled(
        auroc=auroc,
        ap=float((precision * count).sum() / n_pos),
        max_dice=float(dice[best]),
        threshold=float(score[best]),
    )


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Exact area under the ROC curve; `None` when one class is missing."""
    return pooled(_flat32(scores), np.asarray(labels, bool).ravel()).auroc


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Exact average precision (sum of precision x recall step); `None` when a class is missing."""
    return pooled(_flat32(scores), np.asarray(labels, bool).ravel()).ap


def f1_max(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """Exact pooled maximum Dice = F1 over all distinct scores; `None` without two classes."""
    return pooled(_flat32(scores), np.asarray(labels, bool).ravel()).max_dice


def max_dice_exact(
    maps: list[Float32[np.ndarray, "_"]], labels: list[Bool[np.ndarray, "_"]]
) -> float | None:
    """Mean per-slice Dice maximised over *every* distinct score of the set, one list item a slice.

    The mean over slices is a step function of the common threshold that moves only where some
    pixel enters. Each entering pixel changes its slice's Dice by a known amount, so one sort of
    all pixels and one running sum give the whole curve. P = (A >= score), or nothing at all.
    Costs about 30 bytes a pixel; the 201 thresholds of `ThresholdCounts` do for large sets.
    """
    if not maps:
        return None
    scores, steps, start = [], [], 0.0
    for values, truth in zip(maps, labels, strict=True):
        order = np.argsort(-values, kind="stable")
        lesion, entered = int(truth.sum()), np.arange(1, len(values) + 1)
        dice = slice_dice(entered, truth[order].cumsum(), np.array(lesion))
        before = 0.0 if lesion else 1.0  # nothing predicted
        start += before
        scores.append(values[order])
        steps.append(np.diff(dice, prepend=before))
    score = np.concatenate(scores)
    order = np.argsort(-score, kind="stable")
    curve = start + np.concatenate(steps)[order].cumsum()
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    return float(max(start, curve[last_of_tie].max()) / len(maps))


def size_group(area: int | float, image_shape: tuple[int, ...]) -> str:
    """THOR's lesion-size group of a slice with `area` lesion pixels.

    The groups are defined at 128 x 128 (small 3 < s <= 71, medium 71-570, large > 570 px), so
    areas are scaled by 128^2 / (H W). "tiny" (s <= 3) is what THOR leaves out; "" is no lesion.
    """
    if area <= 0:
        return ""
    scaled = area * 128.0**2 / (image_shape[0] * image_shape[1])
    for name, top in (("tiny", 3.0), ("small", 71.0), ("medium", 570.0)):
        if scaled <= top:
            return name
    return "large"


SIZE_GROUPS = ("tiny", "small", "medium", "large")


def _flat32(scores: Any) -> np.ndarray:
    return np.asarray(scores, np.float32).ravel()
