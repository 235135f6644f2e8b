"""Paired differences between rows of one or several runs on the same test set.

    python -m madad_jax compare --run=runs/a --run=runs/b --set=test

Every learned row of every run is compared with the first run's first learned row (or with `--to`),
over the same draws of subjects: AP, pooled max Dice and max Dice per slice, with 95 % bootstrap
intervals of the difference. Where whole scans were judged (`eval.protocol=both`) so is the share of
lesions found at each number of false positives a scan. Runs must have scored the same slices; a
run that did not is refused. Other contrasts of the same slices are the same slices; a run's set of
another name, as of a subset of its contrasts, is `--run=runs/both@test-T1`.
"""

import sys
from collections.abc import Sequence

from absl import flags

from madad_jax.core import command_line


def _options() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this.", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show the traceback of errors.", flag_values=values)
    flags.DEFINE_multi_string(
        "run", [], "Folder of a run, or FOLDER@SET; often.", flag_values=values
    )
    flags.DEFINE_string("set", "test", "The set that they scored.", flag_values=values)
    text = "Row to compare with, of the first run; default: its first learned one."
    flags.DEFINE_string("to", "", text, flag_values=values)
    flags.DEFINE_integer("draws", 1000, "Of subjects.", lower_bound=1, flag_values=values)
    return values


def _run(argv: Sequence[str]) -> int:
    options = _options()
    if not command_line.parsed(options, argv, __doc__, ("run",)):
        return 0
    # Here and not above: `--help` needs no numpy.
    from madad_jax.evaluation import paired, tables

    found = paired.differences(options.run, options.set, to=options.to, draws=options.draws)
    reference, rows = found[0], found[1:]
    print(f"Difference to {reference['method']} of {reference['run']}, set {options.set}, points;")
    print("brackets: 95 % bootstrap interval over subjects, the same draws for both.\n")
    columns = [tables.Column("run", "Run", "text", ""), tables.METHOD]
    columns += [tables.Column(key, label, better="") for key, label in paired.FIGURES]
    asked = {
        key.removeprefix(paired.FOUND)
        for row in rows
        for key in row
        if key.startswith(paired.FOUND)
    }
    columns += [
        tables.Column(paired.FOUND + a, f"Lesions found at {a} false positives a scan", better="")
        for a in sorted(asked, key=float)
    ]
    print(tables.markdown(rows, columns))
    return 0


def main() -> None:
    """Entry point of `python -m madad_jax compare`."""
    sys.exit(command_line.status("madad_jax compare", _run, sys.argv))


if __name__ == "__main__":
    main()
