"""Interleaved timings, and what is said of them: median and spread, ratios by round, exponents.

Rounds are interleaved (ours, rival, ours, rival, ...) so that another load on the machine falls
on both sides. The ratio of two sides is the median over the rounds of the ratio within a round.
While one side runs the other lies idle and loses its caches, and on a virtual machine its free
memory to the host; in use it loses neither, so each runs once unseen before the run that counts
(`settle`).
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run: seconds on the wall and of the process on all cores."""

    seconds: float
    cpu_seconds: float


def timed(run: Callable[[], Any]) -> Sample:
    """One call of `run`, which returns when its work is done."""
    cpu, start = time.process_time(), time.perf_counter()
    run()
    return Sample(time.perf_counter() - start, time.process_time() - cpu)


def interleave(
    sides: Mapping[str, Callable[[], Sample]],
    *,
    repeats: int,
    warmup: int = 1,
    settle: int = 0,
    limit: float = 0.0,
) -> dict[str, list[Sample]]:
    """`repeats` rounds over all sides after `warmup` rounds that do not count.

    Args:
      sides: {name: one run}.
      repeats: rounds, at least 1.
      warmup: rounds before them.
      settle: runs of a side just before each of its runs, not counted.
      limit: seconds after which no further round begins, once one has counted; 0: none.
    """
    taken: dict[str, list[Sample]] = {name: [] for name in sides}
    start = time.perf_counter()
    for number in range(warmup + repeats):
        counted = number - warmup
        if limit and counted > 0 and time.perf_counter() - start > limit:
            break
        for name, run in sides.items():
            for _ in range(settle):
                run()
            sample = run()
            if counted >= 0:
                taken[name].append(sample)
    return taken


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """`median`, `low` and `high` (the extremes) and `runs` of at least one value."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": len(values),
    }


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Spread of the seconds, and the median CPU seconds."""
    return {
        "seconds": spread([s.seconds for s in samples]),
        "cpu_seconds": statistics.median(s.cpu_seconds for s in samples),
    }


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, float | int]:
    """Spread over the rounds of our seconds over theirs; below 1: ours is faster."""
    pairs = zip(ours, theirs, strict=True)
    return spread([a.seconds / b.seconds for a, b in pairs])


def exponent(sizes: Sequence[float | int], values: Sequence[float | int]) -> float:
    """The slope of log(value) over log(size) by least squares: value ~ size ** slope.

    Raises ValueError for fewer than two sizes, or anything not positive.
    """
    if len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        raise ValueError(f"an exponent needs two positive sizes, found {sizes}, {values}")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
