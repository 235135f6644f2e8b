"""Confidence intervals of a mean over people, where a few people have most of it.

False positives of a detector are spread unevenly: one healthy brain in ten has as many as the
others together. The percentile bootstrap of a dozen such values is too narrow (95 % intervals
held the rate of everybody 85 times in 100 where these held it 91 times, as `python -m
benchmarks.prediction --parts=coverage` printed). Here it is the t interval of the mean's
logarithm by the delta method,

    mean * exp(-+ t[n-1] * s / (mean * sqrt(n)))

with s the standard deviation over people, which is lopsided as such means are.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import special

LEVEL = 0.95
# For one scan to come: nine people are enough for it, 95 % would need nineteen.
NEXT_CHANCE = 0.9


def mean_interval(
    values: Float[np.ndarray, "people"], at_most: float = math.inf
) -> tuple[float, float] | None:
    """95 % interval of the mean of values of at least 0; None for fewer than two people.

    Args:
      values: one a person.
      at_most: largest value that a person can have, 1 for a share.

    With no value above 0 the upper end is what people could have unseen: for shares the bound
    of the share of people who have any (Clopper and Pearson), for counts Poisson's.
    """
    values = np.asarray(values, np.float64)
    n, mean = len(values), values.mean()
    if n < 2:
        return None
    # Two-sided, also at 0, so that all intervals of a table are of one kind.
    tail = (1 - LEVEL) / 2
    if mean == 0:
        # exp(-n r) = tail for counts, (1 - p)^n = tail for shares: the largest rate at which seeing
        # none in n people is no surprise.
        none_seen = -math.log(tail) / n if math.isinf(at_most) else 1 - tail ** (1 / n)
        return 0.0, float(min(none_seen, at_most))
    reach = special.stdtrit(n - 1, 1 - tail) * _log_error(values)
    return float(mean * math.exp(-reach)), float(min(mean * math.exp(reach), at_most))


def fresh_mean_interval(
    fresh: Float[np.ndarray, "people"], known: Float[np.ndarray, "others"]
) -> tuple[float, float] | None:
    """95 % interval for the mean of `fresh` people above a threshold that `known` people chose.

    Both groups are a draw: the fresh mean's own error, and the error of the threshold, which is
    that of the known people's mean at it. Degrees of freedom after Welch. None where a group has
    fewer than two people or no value above 0.
    """
    groups = [np.asarray(v, np.float64) for v in (fresh, known)]
    if any(len(v) < 2 or v.mean() == 0 for v in groups):
        return None
    squares = np.array([_log_error(v) ** 2 for v in groups])
    total = squares.sum()
    if total == 0:
        return float(groups[0].mean()), float(groups[0].mean())
    # Welch and Satterthwaite: the smaller or noisier group has most of the say.
    freedom = total**2 / (squares**2 / [len(v) - 1 for v in groups]).sum()
    reach = special.stdtrit(freedom, (1 + LEVEL) / 2) * math.sqrt(total)
    mean = groups[0].mean()
    return float(mean * math.exp(-reach)), float(mean * math.exp(reach))


def bound_next_value(
    values: Float[np.ndarray, "people"], chance: float = NEXT_CHANCE
) -> float | None:
    """What the value of one more person does not pass, at a `chance` of at least so much.

    The order statistic of rank ceil(chance * (n + 1)), whatever the distribution: a person to come
    has every rank among n + 1 people alike. None where n is too small to have it. A threshold that
    was chosen on the same people is not counted, which matters less the more they are.
    """
    # The tolerance keeps 0.9 * 10 at rank 9.
    rank = math.ceil(chance * (len(values) + 1) - 1e-9)
    return float(np.sort(values)[rank - 1]) if rank <= len(values) else None


def _log_error(values: np.ndarray) -> float:
    """Standard error of the logarithm of the mean."""
    return float(values.std(ddof=1) / (values.mean() * math.sqrt(len(values))))
