"""Paired differences between rows of one or several runs on the same test set.

    python -m madad_jax compare --run=runs/a --run=runs/b --set=test

Every learned row of every run is compared with the first run's first learned row (or with `--to`),
over the same draws of subjects: AP, pooled max Dice and max Dice per slice, with 95 % bootstrap
intervals of the difference. Where whole scans were judged (`eval.protocol=both`) so is the share of
lesions found at each number of false positives a scan. Runs must have scored the same slices; a
run that did not is refused.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from madad_jax.core import command_line, errors
from madad_jax.evaluation import set_files, tables
from madad_jax.metrics import bootstrap, lesion_sums, subject_sums

_FIGURES = (
    ("ap", "AP"),
    ("pooled_max_dice", "Pooled max Dice" + tables.ORACLE_MARK),
    ("max_dice", "Max Dice per slice" + tables.ORACLE_MARK),
)
_FOUND = "found_at_"


def differences(
    runs: list[str], name: str, *, to: str = "", draws: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """One entry a row: `run`, `method`, and for each figure its difference and interval.

    Lesions found at a number of false positives a scan are `found_at_2` and the like.

    Raises:
      UserError: a run without that set, other slices than the first run's, or no row `to`.
    """
    loaded = [(run, *set_files.read_sums(epath.Path(run), name)) for run in runs]
    if not loaded:
        raise errors.UserError("--run is missing; give the folders of runs")
    first_run, first, facts = loaded[0]
    for run, _, other in loaded[1:]:
        # Same names are not enough: a set that was prepared again has the same subjects and other
        # pixels.
        if other["fingerprint"] != facts["fingerprint"]:
            raise errors.UserError(
                f"{run}: set '{name}' holds other slices than that of {first_run}; only the same "
                "slices can be compared in pairs"
            )
    # Rows without sums had no known segmentation and cannot be compared.
    learned = [m for m in first if first[m] and m not in facts.get("floor", ())]
    reference = to or (learned[0] if learned else next(iter(first)))
    if reference not in first:
        raise errors.UserError(
            f"--to: found {reference!r}, accepted: {', '.join(first)} (rows of {first_run})"
        )
    out = []
    found = {run: set_files.read_lesions(epath.Path(run), name) for run in runs}
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
            entry[f"{_FOUND}{asked:g}"] = gap["sensitivity"]
            if gap["interval"] is not None:
                entry["intervals"][f"{_FOUND}{asked:g}"] = gap["interval"]


def _options() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show the traceback of errors.", flag_values=values)
    flags.DEFINE_multi_string("run", [], "Folder of a run; as often as needed.", flag_values=values)
    flags.DEFINE_string("set", "test", "The set that they scored.", flag_values=values)
    text = "Row to compare with, of the first run; default: its first learned one."
    flags.DEFINE_string("to", "", text, flag_values=values)
    flags.DEFINE_integer("draws", 1000, "Of subjects.", lower_bound=1, flag_values=values)
    return values


def _run(argv: Sequence[str]) -> int:
    options = _options()
    if not command_line.parsed(options, argv, __doc__, ("run",)):
        return 0
    found = differences(options.run, options.set, to=options.to, draws=options.draws)
    reference, rows = found[0], found[1:]
    print(f"Difference to {reference['method']} of {reference['run']}, set {options.set}, points;")
    print("brackets: 95 % bootstrap interval over subjects, the same draws for both.\n")
    columns = [tables.Column("run", "Run", "text", ""), tables.METHOD]
    columns += [tables.Column(key, label, better="") for key, label in _FIGURES]
    asked = {key.removeprefix(_FOUND) for row in rows for key in row if key.startswith(_FOUND)}
    columns += [
        tables.Column(_FOUND + a, f"Lesions found at {a} false positives a scan", better="")
        for a in sorted(asked, key=float)
    ]
    print(tables.markdown(rows, columns))
    return 0


def main() -> None:
    """Entry point of `python -m madad_jax compare`."""
    sys.exit(command_line.status("madad_jax compare", _run, sys.argv))


if __name__ == "__main__":
    main()
