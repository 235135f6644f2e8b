"""Paired differences between rows of one or several runs on the same test set.

Every learned row of every run is compared with the first run's first learned row, or with a named
one, over the same draws of subjects. Runs must have scored the same slices; a run that did not is
refused.
"""

import os
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import errors
from madad_jax.evaluation import set_files, tables
from madad_jax.metrics import bootstrap, lesion_sums, subject_sums

FIGURES = (
    ("ap", "AP"),
    ("pooled_max_dice", "Pooled max Dice" + tables.ORACLE_MARK),
    ("max_dice", "Max Dice per slice" + tables.ORACLE_MARK),
)
FOUND = "found_at_"


def differences(
    runs: list[str], name: str, *, to: str = "", draws: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """One entry a row: `run`, `method`, and for each figure its difference and interval.

    Lesions found at a number of false positives a scan are `found_at_2` and the like.

    Raises:
      UserError: a run without that set (`FOLDER@SET` names another one of it), other slices than
        the first run's, or no row `to`.
    """
    places = {run: _place(run, name) for run in runs}
    loaded = [(run, *set_files.read_sums(*places[run])) for run in runs]
    if not loaded:
        raise errors.UserError("--run is missing; give the folders of runs")
    first_run, first, facts = loaded[0]
    for run, _, other in loaded[1:]:
        # Same names are not enough: a set that was prepared again has the same subjects and other
        # pixels. Another contrast of the same slices has the same brains and lesions.
        same_truth = facts.get("truth") and other.get("truth") == facts["truth"]
        if other["fingerprint"] != facts["fingerprint"] and not same_truth:
            raise errors.UserError(
                f"{run}: set '{places[run][1]}' holds other slices than that of {first_run}; "
                "only the same slices can be compared in pairs"
            )
    # Rows without sums had no known segmentation and cannot be compared.
    learned = [m for m in first if first[m] and m not in facts.get("floor", ())]
    reference = to or (learned[0] if learned else next(iter(first)))
    if reference not in first:
        raise errors.UserError(
            f"--to: found {reference!r}, accepted: {', '.join(first)} (rows of {first_run})"
        )
    out = []
    found = {run: set_files.read_lesions(*places[run]) for run in runs}
    theirs = found[first_run].get(reference)
    for run, rows, _ in loaded:
        for method, mine in rows.items():
            if (run, method) != (first_run, reference):
                entry = _difference(mine, first[reference], draws, seed)
                if theirs is not None and method in found[run]:
                    _add_lesions(entry, found[run][method], theirs, draws, seed)
                out.append(
                    {"run": os.path.basename(os.path.normpath(run)), "method": method} | entry
                )
    return [{"run": first_run, "method": reference, "reference": True}, *out]


def _place(run: str, name: str) -> tuple[epath.Path, str]:
    """(folder, set) of `FOLDER`, or of `FOLDER@SET` where a run's set has another name."""
    folder, at, own = run.rpartition("@")
    if at and not epath.Path(run).exists():
        return epath.Path(folder), own
    return epath.Path(run), name


def _difference(
    mine: subject_sums.Sums, theirs: subject_sums.Sums, draws: int, seed: int
) -> dict[str, Any]:
    # People in both alone: a difference is a matter of pairs.
    names = sorted(mine.keys() & theirs.keys())
    # The value is the draw that takes everybody once: it shares its bins with the interval.
    once = np.ones((1, len(names)))
    one = bootstrap.draw_figures([mine[n] for n in names], once)
    two = bootstrap.draw_figures([theirs[n] for n in names], once)
    found = bootstrap.paired_difference(mine, theirs, draws=draws, seed=seed)
    values = {k: float(one[k][0] - two[k][0]) for k in one}
    return {"n_subjects": len(names), "intervals": found, **values}


def _add_lesions(
    entry: dict[str, Any],
    mine: lesion_sums.LesionSums,
    theirs: lesion_sums.LesionSums,
    draws: int,
    seed: int,
) -> None:
    gaps = lesion_sums.list_differences(mine, theirs, draws=draws, seed=seed)
    for asked, groups in gaps.items():
        if lesion_sums.ALL in groups:
            gap = groups[lesion_sums.ALL]
            entry[f"{FOUND}{asked:g}"] = gap["sensitivity"]
            if gap["interval"] is not None:
                entry["intervals"][f"{FOUND}{asked:g}"] = gap["interval"]
