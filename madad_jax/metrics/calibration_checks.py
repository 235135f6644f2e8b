"""What the arrays of a calibration must be before a threshold follows from them.

Files come from other machines, people and programs: negative, empty or NaN counts would give
thresholds of 0 or 1 without a word. Every check raises ValueError, which the reader turns into a
message with the file's name.
"""

from typing import Any

import numpy as np


def check_scores(scores: np.ndarray, count: int) -> None:
    """Scores of `count` scans: numbers in [0, 1]."""
    _check(scores, "scores", "f", (count,))
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: found a number outside [0, 1]")


def check_histograms(histograms: np.ndarray, count: int, bins: int, *, eroded: bool) -> None:
    """Counts of voxels: [count, bins], none below 0; all 0 only where masks were `eroded`."""
    _check(histograms, "histograms", "iu", (count, bins))
    if histograms.size and histograms.min() < 0:
        raise ValueError("histograms: found a count below 0")
    if not eroded and not histograms.any(axis=1).all():
        raise ValueError("histograms: found a scan without a voxel")


def check_curves(ends: np.ndarray, levels: np.ndarray, counts: np.ndarray, scans: int) -> None:
    """Curves that lie end to end: cut by rising `ends`, falling levels in [0, 1], counts."""
    _check(ends, "ends", "iu", (scans,))
    _check(levels, "levels", "f", (int(ends[-1]),))
    _check(counts, "counts", "iu", (int(ends[-1]),))
    if (np.diff(ends, prepend=0) < 0).any():
        raise ValueError("ends: found them falling")
    if counts.size and counts.min() < 0:
        raise ValueError("counts: found a number below 0")
    if not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError("levels: found a number outside [0, 1]")
    # Only from one scan to the next may a level rise.
    rises = np.flatnonzero(np.diff(levels) > 0) + 1
    if set(rises.tolist()) - set(ends.tolist()):
        raise ValueError("levels: found them rising within a scan")


def check_looks(deciles: np.ndarray, likeness: np.ndarray, mean: np.ndarray) -> None:
    """Looks of scans: rows of nine deciles in [0, 1], likeness in [-1, 1], cells in [0, 1]."""
    _check(deciles, "look_deciles", "f", (len(likeness), 9))
    _check(likeness, "look_likeness", "f", (len(deciles),))
    if mean.dtype.kind != "f" or mean.ndim != 3 or not len(likeness):
        raise ValueError("look_mean: found no stack of cells")
    known = mean[np.isfinite(mean)]  # A cell without brain is NaN.
    for name, array, least in (
        ("deciles", deciles, 0),
        ("likeness", likeness, -1),
        ("mean", known, 0),
    ):
        # A mean of ones may pass 1 by rounding.
        if array.size and not (array.min() >= least - 1e-6 and array.max() <= 1 + 1e-6):
            raise ValueError(f"look_{name}: found a number outside [{least}, 1]")
    if np.isinf(mean).any():
        raise ValueError("look_mean: found infinity")


def check_facts(facts: Any) -> None:
    """`spacing` and `numbers`, where they are there: three numbers each."""
    if not isinstance(facts, dict):
        raise ValueError("facts: found no object")
    spacing = facts.get("spacing", [1.0, 1.0, 1.0])
    if len(spacing) != 3 or not all(0.0 < float(mm) < 1000.0 for mm in spacing):
        raise ValueError("spacing: found no three lengths in mm")
    numbers = facts.get("numbers", [0, 0, 1])
    whole = len(numbers) == 3 and all(
        isinstance(n, int) and not isinstance(n, bool) for n in numbers
    )
    if not whole or numbers[2] < 1 or not 0 <= (numbers[1] - numbers[0]) // numbers[2] < 10_000:
        raise ValueError("numbers: found no first, last and step of slices")


def check_names(names: Any) -> list[str]:
    """Subjects: a list of text, at least one."""
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ValueError("subjects: found no list of names")
    return names


def _check(array: np.ndarray, name: str, kinds: str, shape: tuple[int, ...]) -> None:
    if array.dtype.kind not in kinds or array.shape != shape:
        wanted = "floats" if kinds == "f" else "whole numbers"
        raise ValueError(
            f"{name}: found {array.dtype} {list(array.shape)}, accepted: {wanted} {list(shape)}"
        )
    if kinds == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: found NaN or infinity")
