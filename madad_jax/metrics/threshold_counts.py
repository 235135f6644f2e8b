"""Dice slice by slice and its largest mean over a common threshold.

Two statistics are both called "max Dice" in the literature; here they have two names:
`pooled_max_dice`, of all pixels in one pool (`pool`), and

* `max_dice`: at each of 201 thresholds the Dice of every slice, averaged over slices, then the
  largest of the 201 means (the official code's "max Dice"). With P = (A > th) or (A >= 1):

      Dice = 2 |P ∩ G| / (|P| + |G| + 1e-6);   G empty: 1 if P is empty, else 0

  The `A >= 1` part is a quirk of the official code (a pixel at 1 is positive even at th = 1)
  and is kept; thresholds are compared in float32, as numpy 1.26 did there.

Both choose their threshold with the truth in hand: they are oracle figures.
Source: official code; equal to it within 1e-6 by test.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from madad_jax.metrics import finite, pixel_pool

N_THRESHOLDS = 201
THRESHOLDS = np.linspace(0.0, 1.0, N_THRESHOLDS)
# Compared in float32: 0.005 * k in float64 is another threshold for a float32 score.
_TH32 = THRESHOLDS.astype(np.float32)
# The official code's: it moves Dice by less than 1e-6 for a lesion of one pixel.
_DICE_EPS = 1e-6
# One slice of 256 x 256: bins and scores of a chunk then stay in a cache.
_CHUNK_PIXELS = 1 << 16


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
        pool: pixel_pool.Pool | None = None,
    ) -> None:
        """Counts `n` slices; with `inside`, only the pixels where it is true.

        `pool` takes all pixels of the slices too (`pool.add`), so that they are gone through once
        for both.

        Raises:
          UserError: NaN in a map.
        """
        finite.check(maps, "slices")
        n = len(maps)
        step = max(1, _CHUNK_PIXELS // max(1, math.prod(maps.shape[1:])))
        for i in range(0, n, step):
            part = slice(i, i + step)
            chosen = None if inside is None else inside[part]
            self._add(maps[part], segmentations[part], chosen, pool)

    def _add(
        self,
        maps: np.ndarray,
        truth: np.ndarray,
        inside: np.ndarray | None,
        pool: pixel_pool.Pool | None,
    ) -> None:
        n, n_bins = len(maps), N_THRESHOLDS + 1
        lesion = truth if inside is None else truth & inside
        # Zeros, which all is outside the brain, are above nothing and left out.
        some = maps > 0.0 if inside is None else (maps > 0.0) & inside
        scores, sick = maps[some], truth[some]
        if pool is not None:
            _add_to_pool(pool, maps, truth, None if inside is not None else (scores, sick))
        bins = _place(scores)
        if n > 1:
            # One bincount for all slices of a chunk: each has a range of bins of its own.
            bins += np.repeat(np.arange(n) * n_bins, some.sum(axis=(1, 2)))
        for chosen, out in ((bins, self._positives), (bins[sick], self._true_positives)):
            histogram = np.bincount(chosen, minlength=n * n_bins).reshape(n, n_bins)
            # Bin k counts the scores above k thresholds: sums from the top down, without bin 0,
            # are how many lie above each threshold.
            out.append(histogram[:, :0:-1].cumsum(axis=1)[:, ::-1])
        self._lesion.append(lesion.sum(axis=(1, 2)))

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


def _add_to_pool(
    pool: pixel_pool.Pool,
    maps: np.ndarray,
    truth: np.ndarray,
    above: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    """All pixels of some slices; `above` are the scores above 0, and whether lesion, if known."""
    if above is None or maps.min(initial=0.0) < 0.0:
        pool.add(maps[truth], maps[~truth])
        return
    scores, sick = above
    lesion = int(np.count_nonzero(truth) - np.count_nonzero(sick))
    pool.add_above_zero(scores, sick, (maps.size - scores.size - lesion, lesion))


def _place(values: Float32[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """How many of the thresholds are below each score above 0, in float32: it is positive at
    threshold k exactly when k is less. All 201 for scores of 1 and more, the official quirk.

    The grid is even, so the place is a product. A score above a threshold is above its exact
    value too, so that the product, rounded, is never short; one comparison mends a score that
    lies at the threshold or just below.
    """
    product = np.minimum(values, np.float32(1.0))
    product *= np.float32(N_THRESHOLDS - 1)
    place = product.astype(np.intp)
    # Into the product's memory: new memory for each step costs as much as the step.
    np.take(_TH32, place, out=product, mode="clip")
    place += product < values
    ones = values >= 1.0
    if ones.any():
        place[ones] = N_THRESHOLDS
    return place


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
    for k, values in enumerate(maps):
        finite.check(values, f"slice {k}")
    scores, steps, start = [], [], 0.0
    for values, truth in zip(maps, labels, strict=True):
        # Ties enter together below (`last_of_tie`), so that their order changes nothing.
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
