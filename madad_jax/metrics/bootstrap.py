"""Confidence intervals by drawing subjects, not slices or pixels.

Slices of one person are alike, so the person is the unit: each draw takes as many subjects as
there are, with replacement, and computes the figures again. From per-subject histograms (4096
bins, even in sqrt(score)) and per-subject sums of slice Dice a draw is one row of a matrix
product, so 200 draws take a moment. The interval is the percentile interval.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from madad_jax.metrics import histogram

# 64 KiB a subject, so that thousands of them fit in memory.
N_BINS = histogram.COARSE_BINS
# Fewer have too few different draws: four subjects have 35.
MIN_SUBJECTS = 5
# 50 draws of 2 x 4,096 float64 are 3 MiB; a thousand at once would be 64, several times over.
_DRAWS_AT_ONCE = 50


@dataclasses.dataclass
class SubjectSums:
    """What one subject adds to a set: all figures of the bootstrap follow from sums of these.

    `scores` [2, N_BINS] histograms of lesion and other pixels; `dice` [k] the sum over its
    slices of their Dice at each threshold; `slices` their number.
    """

    scores: np.ndarray
    dice: np.ndarray
    slices: int


def draw_weights(n_subjects: int, draws: int, seed: int) -> Float[np.ndarray, "draws subjects"]:
    """How often each subject is taken in each draw. The same seed gives the same draws."""
    generator = np.random.default_rng(seed)
    # The counts of n draws with replacement, without drawing each.
    return generator.multinomial(
        n_subjects, np.full(n_subjects, 1.0 / n_subjects), size=draws
    ).astype(np.float64)


def draw_figures(
    subjects: list[SubjectSums], weights: Float[np.ndarray, "draws subjects"]
) -> dict[str, Float[np.ndarray, "draws"]]:
    """`ap`, `pooled_max_dice` and `max_dice` of each draw (NaN in a draw without lesions)."""
    scores = np.stack([s.scores for s in subjects]).astype(np.float64)
    dice = np.stack([s.dice for s in subjects])
    slices = np.array([s.slices for s in subjects], np.float64)
    n = len(subjects)
    ap, pooled = [], []
    for i in range(0, len(weights), _DRAWS_AT_ONCE):
        drawn = weights[i : i + _DRAWS_AT_ONCE] @ scores.reshape(n, -1)
        part = histogram.ap_and_max_dice(drawn.reshape(-1, 2, scores.shape[-1]))
        ap.append(part[0])
        pooled.append(part[1])
    return {
        "ap": np.concatenate(ap),
        "pooled_max_dice": np.concatenate(pooled),
        "max_dice": ((weights @ dice) / (weights @ slices)[:, None]).max(axis=1),
    }


def intervals(
    subjects: list[SubjectSums], *, draws: int = 200, seed: int = 0, level: float = 0.95
) -> dict[str, list[float]]:
    """Percentile intervals `[low, high]`; empty with fewer than five subjects.

    With three patients the interval of a bootstrap says little and looks as if it said much.
    """
    if len(subjects) < MIN_SUBJECTS or draws < 1:
        return {}
    figures = draw_figures(subjects, draw_weights(len(subjects), draws, seed))
    return _percentiles(figures, level)


def paired_difference(
    first: dict[str, SubjectSums],
    second: dict[str, SubjectSums],
    *,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, list[float]]:
    """Intervals of first - second over the subjects both hold, the same draws for both.

    Two methods scored on the same subjects share the luck of the draw; the interval of their
    difference is much narrower than the two intervals suggest.
    """
    names = sorted(first.keys() & second.keys())
    if len(names) < MIN_SUBJECTS or draws < 1:
        return {}
    # One set of weights for both: what is common to the two cancels in the difference.
    weights = draw_weights(len(names), draws, seed)
    one = draw_figures([first[n] for n in names], weights)
    two = draw_figures([second[n] for n in names], weights)
    return _percentiles({k: one[k] - two[k] for k in one}, level)


def _percentiles(figures: dict[str, np.ndarray], level: float) -> dict[str, list[float]]:
    tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]
    out = {}
    for name, values in figures.items():
        # A draw without any lesion has no AP; it is left out and not counted as 0.
        values = values[np.isfinite(values)]
        if len(values):
            out[name] = [float(v) for v in np.percentile(values, tails)]
    return out


def empty_sums(n_thresholds: int) -> SubjectSums:
    """A subject that has added nothing yet."""
    return SubjectSums(np.zeros((2, N_BINS), np.int64), np.zeros(n_thresholds), 0)


def add_slice(sums: SubjectSums, scores: np.ndarray, dice: np.ndarray) -> None:
    """Adds one slice's histograms [2, N_BINS] and Dice curve, in place."""
    sums.scores += scores
    sums.dice += dice
    sums.slices += 1
