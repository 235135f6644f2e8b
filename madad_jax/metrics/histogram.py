"""Pooled figures from a histogram of scores, for sets whose pixels do not fit in memory.

Scores in [0, 1] are counted, lesion and other pixels apart, in bins that are even in sqrt(score):
finer near 0, where reconstruction errors crowd. Exactly 0 and exactly 1 have bins of their own,
because clipped maps hold many of both and their ties are true ties.

Within a bin the order of pixels is lost. What that can do is bounded from the counts themselves
(T, F lesion and other pixels above the bin, p, q inside it, of n_pos and n_neg):

* AUROC counts the pairs inside a bin as half won:  error <= sum p q / (2 n_pos n_neg).
* AP takes the bin as one tie, precision (T+p)/(T+p+F+q). The true precision at its pixels lies
  between (T+i)/(T+i+F+q), i = 1..p (concave in i, so its sum is at least p times the mean of
  its ends), and (T+p)/(T+p+F).
* Dice is exact at the bins' edges; inside, it is at most 2(T+p)/(T+p+F+n_pos).

The bounds are reported beside the values (`Pooled.*_bound`) and hold for every input, by test.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int

from madad_jax.metrics import finite, pixel_pool

# Sixteen inner bins to one of the 4,096 of a subject (`bootstrap`), so that one follows from
# the other and each pixel is placed once.
COARSE_BINS = 4096
_FOLD = 16
N_BINS = _FOLD * (COARSE_BINS - 2) + 2
# Scores that are added one by one faster than through a histogram of N_BINS.
_FEW = 1 << 14


def bin_of(scores: Float32[np.ndarray, "..."], n_bins: int) -> Int[np.ndarray, "..."]:
    """The bin of each score: 0 for s <= 0, `n_bins - 1` for s >= 1, even in sqrt(s) between.

    Raises UserError for NaN.
    """
    finite.check(scores, "scores")
    # float64, so that edges lie where `lower_edge` says.
    root = np.sqrt(np.clip(scores, 0.0, 1.0).astype(np.float64))
    inner = 1 + np.minimum((root * (n_bins - 2)).astype(np.int64), n_bins - 3)
    return np.where(scores <= 0.0, 0, np.where(scores >= 1.0, n_bins - 1, inner))


def lower_edge(index: int, n_bins: int) -> float:
    """The smallest score that falls in bin `index`."""
    if index <= 0:
        return 0.0
    return 1.0 if index >= n_bins - 1 else ((index - 1) / (n_bins - 2)) ** 2


def fine_bins(scores: Float32[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """`bin_of` with `N_BINS`, in float32, which moves an edge by less than 1/100 of its bin."""
    place = (np.sqrt(np.clip(scores, 0.0, 1.0)) * np.float32(N_BINS - 2)).astype(np.int32)
    inner = np.minimum(place + 1, N_BINS - 2)
    return np.where(scores <= 0.0, 0, np.where(scores >= 1.0, N_BINS - 1, inner))


@dataclasses.dataclass(frozen=True)
class Placed:
    """Scores by their place among `N_BINS`: `bins` of those above 0, and how many others there are.

    A slice has fewer scores than a histogram has bins, so that it is added to sums of slices and
    never has a histogram of its own: for eight rows of 20,000 slices those were most of the work.
    """

    bins: Int[np.ndarray, "n"]
    zeros: int

    def add_to(self, counts: Int[np.ndarray, "bins"]) -> None:
        """Adds these scores to a histogram of `N_BINS`, in place."""
        if self.bins.size < _FEW:
            np.add.at(counts, self.bins, 1)
        else:
            counts += np.bincount(self.bins, minlength=N_BINS)
        counts[0] += self.zeros

    def coarse(self) -> Int[np.ndarray, "coarse"]:
        """The histogram of `COARSE_BINS`: `fold` of that of `N_BINS`."""
        # Bins from 1 on are even in sixteens, and the last is alone.
        counts = np.bincount((self.bins + (_FOLD - 1)) // _FOLD, minlength=COARSE_BINS)
        counts[0] += self.zeros
        return counts


def place_fine(scores: Float32[np.ndarray, "n"]) -> Placed:
    """`fine_bins`, in a quarter of its time: zeros, which all is outside the brain, are counted
    and not placed. Raises UserError for NaN."""
    finite.check(scores, "scores")
    some = scores[scores > 0.0]
    place = (np.sqrt(np.minimum(some, 1.0)) * np.float32(N_BINS - 2)).astype(np.int32)
    # Bin 0 is exactly 0, so that the scores above it start at bin 1; scores just below 1 may have
    # been rounded into the bin of 1.
    bins = np.minimum(place + 1, N_BINS - 2)
    bins[some >= 1.0] = N_BINS - 1
    return Placed(bins, scores.size - some.size)


def count_fine(scores: Float32[np.ndarray, "n"]) -> Int[np.ndarray, "bins"]:
    """How many scores fall in each of `fine_bins`. Raises UserError for NaN."""
    counts = np.zeros(N_BINS, np.int64)
    place_fine(scores).add_to(counts)
    return counts


def fold(counts: Int[np.ndarray, "bins"]) -> Int[np.ndarray, "coarse"]:
    """The histogram of `COARSE_BINS` that a fine one holds."""
    inner = counts[1:-1].reshape(-1, _FOLD).sum(axis=1)
    return np.concatenate([counts[:1], inner, counts[-1:]])


def pooled(histogram: Int[np.ndarray, "2 bins"]) -> pixel_pool.Pooled:
    """AUROC, AP and pooled maximum Dice of a histogram, each with its error bound."""
    p, q = histogram[:, ::-1].astype(np.float64)  # descending scores from here on
    n_pos, n_neg = p.sum(), q.sum()
    if not n_pos or not n_neg:
        return pixel_pool.NO_FIGURES
    inner = np.ones(len(p))
    inner[[0, -1]] = 0.0  # exactly 1 and exactly 0: true ties, no order was lost
    above_p, above_q = p.cumsum() - p, q.cumsum() - q
    roc = (q * (above_p + 0.5 * p)).sum() / (n_pos * n_neg)
    roc_bound = (inner * p * q).sum() / (2.0 * n_pos * n_neg)
    has = p > 0
    inner, p, q, above_p, above_q = (a[has] for a in (inner, p, q, above_p, above_q))
    tp, fp = above_p + p, above_q + q
    tied = tp / (tp + fp)
    low = 0.5 * ((above_p + 1.0) / (above_p + 1.0 + fp) + tied)
    high = tp / (tp + above_q)
    ap = (p * tied).sum() / n_pos
    dice = 2.0 * tp / (tp + fp + n_pos)
    best = int(dice.argmax())
    ceiling = np.where(inner > 0, 2.0 * tp / (tp + above_q + n_pos), dice).max()
    index = len(has) - 1 - int(np.flatnonzero(has)[best])
    return pixel_pool.Pooled(
        auroc=float(roc),
        ap=float(ap),
        max_dice=float(dice[best]),
        threshold=lower_edge(index, len(has)),
        auroc_bound=float(roc_bound),
        ap_bound=float(
            max((inner * p * (high - tied)).sum(), (inner * p * (tied - low)).sum()) / n_pos
        ),
        max_dice_bound=float(max(0.0, ceiling - dice[best])),
    )


def ap_and_max_dice(
    histograms: Float[np.ndarray, "draws 2 bins"],
) -> tuple[Float[np.ndarray, "draws"], Float[np.ndarray, "draws"]]:
    """AP and pooled maximum Dice of many (weighted) histograms at once; NaN without lesions."""
    tp = histograms[:, 0, ::-1].cumsum(axis=1)
    fp = histograms[:, 1, ::-1].cumsum(axis=1)
    n_pos = tp[:, -1:]
    # 0 / 0 above the highest score: nothing is predicted there, and precision counts as 0. And
    # without lesions, which the last line turns into NaN.
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nan_to_num(tp / (tp + fp))
        ap = (precision * histograms[:, 0, ::-1]).sum(axis=1) / n_pos[:, 0]
        dice = (2.0 * tp / (tp + fp + n_pos)).max(axis=1)
    return ap, np.where(n_pos[:, 0] > 0, dice, np.nan)
