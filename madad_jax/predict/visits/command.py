"""Two visits of one person: what is new, what is gone, and how far the maps differ.

    madad-jax compare-visits FIRST SECOND --output=OUT
    madad-jax compare-visits --first=out/a --second=out/b --first_scan=a.nii.gz \
        --second_scan=b.nii.gz --output=OUT --healthy_spread=healthy_spread.json
    madad-jax compare-visits --healthy_pairs=pairs.csv --output=OUT

FIRST and SECOND are scans (a NIfTI file, or a folder with one DICOM series), which are scored into
OUT/first and OUT/second, or folders that `madad-jax predict` wrote for one scan. Of a result the
scan itself is read too: --first_scan, --second_scan, where it does not lie beside the result.

Both scans are registered rigidly, and scans, maps and masks are compared in the space halfway.

--healthy_pairs is a table with the columns first and second (and first_scan, second_scan), a line
a healthy person with two visits, paths below the table's folder. It gives the spread of the
difference, which OUT/healthy_spread.json keeps for --healthy_spread of later calls. Without either
nothing is said about whether a difference is more than chance.

OUT: visits.html, candidates_changes.tsv, summary.json, volumes *_in_halfway.nii.gz, and ITK
transforms *.tfm. Research software, not a medical device.

Exit status: 0 done; 2 bad input, one line; 130 and 143 stopped.
"""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import command_line, errors, folder_lock

_RATES = ("voxel_fpr", "false_positives_per_scan", "threshold")


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    text = {
        "first": "Scan or result of the first visit; also the first word.",
        "second": "Scan or result of the second visit; also the second word.",
        "output": "Folder to write.",
        "first_scan": "The scan of a result that is given as --first.",
        "second_scan": "The scan of a result that is given as --second.",
        "healthy_pairs": "Table (CSV) of healthy pairs: first,second[,first_scan,second_scan].",
        "healthy_spread": "healthy_spread.json of an earlier call.",
        "checkpoint": "Name of a shipped model, or folder; the default model when left out.",
        "calibration": "As for madad-jax predict.",
        "brain_mask": "How the brain is found; as in training when left out.",
        "postprocess": "none | min_volume | pddpm | dae; none when left out.",
    }
    for name, meaning in text.items():
        flags.DEFINE_string(name, "", meaning, flag_values=values)
    numbers = {
        "voxel_fpr": "Share of healthy brain voxels above the threshold.",
        "false_positives_per_scan": "Candidates that a healthy scan may have.",
        "threshold": "The threshold itself, 0 to 1.",
    }
    for name, meaning in numbers.items():
        flags.DEFINE_float(name, None, meaning, flag_values=values)
    flags.DEFINE_bool(
        "allow_unlike",
        False,
        "Compare heads that do not match, with a warning.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("output",), words=("first", "second")):
        return 0
    if options.healthy_pairs and options.healthy_spread:
        raise errors.UserError(
            "--healthy_pairs and --healthy_spread: found both; accepted: one of them"
        )
    if options.first or options.second or not options.healthy_pairs:
        command_line.require(options, ("first", "second"))
    # Here and not above: `--help` and mistyped flags answer without numpy.
    from etils import epath

    from madad_jax.predict.visits import sides, visits_files

    visits, pairs = _list_inputs(options)
    every = [side for pair in (visits, *pairs) for side in pair]
    out = epath.Path(options.output)
    visits_files.check_output(out, [side.path for side in every])
    spread = None
    if options.healthy_spread:
        from madad_jax.core import json_file
        from madad_jax.metrics import change_spread

        known = json_file.read_object(options.healthy_spread)
        spread = change_spread.from_dict(known, options.healthy_spread)
    with folder_lock.hold(options.output, "--output"):
        visits_files.start_over(out)
        folders = sides.score(every, out, lambda: _load(options))
        if pairs:
            spread = sides.measure_spread(pairs, folders, allow_unlike=options.allow_unlike)
            visits_files.write_spread(spread, out)
            print(f"{out / visits_files.SPREAD}: {len(pairs)} healthy pair(s)")
        if visits:
            _compare(options, visits, folders, spread, out)
    return 0


def _list_inputs(options: flags.FlagValues) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """(the two visits, or none; healthy pairs)."""
    from madad_jax.predict.visits import sides

    visits = ()
    if options.first:
        visits = (
            sides.open_side(options.first, options.first_scan, "--first", "first"),
            sides.open_side(options.second, options.second_scan, "--second", "second"),
        )
    pairs = sides.read_pairs(options.healthy_pairs) if options.healthy_pairs else []
    return visits, pairs


def _load(options: flags.FlagValues) -> Any:
    """The detector, for visits that are scans."""
    from madad_jax.predict import api, model_names
    from madad_jax.runtime import startup

    where = model_names.locate(options.checkpoint)
    startup.start()
    return api.load(
        where,
        **{name: options[name].value for name in _RATES},
        postprocess=options.postprocess or "none",
        brain_mask=options.brain_mask,
        calibration=options.calibration,
    )


def _compare(options: flags.FlagValues, visits, folders, spread, out) -> None:
    from madad_jax.predict.visits import halfway, sides, visit, visits_files

    first, second = (sides.read(side, folders) for side in visits)
    if spread is not None:
        names = "the visits", options.healthy_spread or options.healthy_pairs
        visit.check_alike(first.identity, spread.identity, names)
    names = tuple(side.name for side in visits)
    comparison = halfway.compare(first, second, names, allow_unlike=options.allow_unlike)
    summary = visits_files.write(comparison, spread, out)
    for warning in summary["warnings"]:
        print(f"warning: {warning}")
    counts = ", ".join(
        f"{found['places']} {change}"
        for change, found in summary["changes"].items()
        if found["places"] or change in ("new", "gone", "persisting")
    )
    print(f"{out / visits_files.PAGE}: candidates: {counts}")
    if spread is None:
        print(visits_files.NO_SPREAD)
    print("Research software: not a medical device.")


def main() -> None:
    """Entry point of `madad-jax compare-visits`."""
    command_line.show_log()
    sys.exit(command_line.status("madad_jax compare-visits", run, sys.argv))


if __name__ == "__main__":
    main()
