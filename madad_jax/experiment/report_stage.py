"""`report.md` of a run, and its main table on standard output."""

import logging
from typing import Any

import jax
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import reader
from madad_jax.core import errors, messages
from madad_jax.evaluation import report, tables
from madad_jax.experiment import healthy_only
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import startup

_LOG = logging.getLogger(__name__)

SYNTHETIC = (
    "All slices are synthetic: the embedded cohort is drawn from a brain template. These figures "
    "show that the program works; they say nothing about patients."
)


def write_report(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> None:
    """`report.md` from what the run has left behind, and the curves.

    Without a set to score it holds the training and the calibration.

    Raises UserError when nothing was scored that could have been.
    """
    if not workdir.primary:
        return
    folder = workdir.folder
    rows = report.read_results(folder / "results.jsonl")
    notes = []
    if not rows and healthy_only.is_one(parts):
        notes = [healthy_only.explain(parts), healthy_only.explain_calibration(folder)]
    elif not rows:
        raise errors.UserError(f"{folder} has no results.jsonl; run --mode=evaluate first")
    _warn_of_other_weights(workdir, rows)
    # Imported late: matplotlib takes a second that a training job need not wait for.
    from madad_jax.evaluation import pictures

    curves = folder / "curves.png"
    drawn = pictures.training_curves(curves, workdir.trained / "metrics.jsonl")
    names = ("dice_over_thresholds.png", "froc.png")
    of_sets = [p for name in names for p in sorted((folder / "eval").glob(f"*/{name}"))]
    with report.explain_rows(folder / "results.jsonl"):
        _write(parts, workdir, rows, [*([curves] if drawn else []), *of_sets], notes)
    for line in notes:
        _LOG.info("%s", line)
    _LOG.info("report: %s", folder / "report.md")


def _warn_of_other_weights(workdir: workdir_lib.Workdir, rows: list[dict[str, Any]]) -> None:
    """Says which rows were scored with weights that are not there any more."""
    try:
        known = reader.weights_digests(workdir.checkpoints("denoiser")).values()
    except errors.UserError:
        return  # weights may be elsewhere by now; the rows stand
    today = {digest[:16] for digest in known}
    old = [row for row in rows if row.get("learns") and row.get("weights", "") not in ("", *today)]
    if old:
        _LOG.warning(
            "report: %d rows of results.jsonl are of other weights than those of today, as %s on "
            "%s; evaluate that set again, or remove the rows",
            len(old),
            messages.shorten(old[0].get("method")),
            messages.shorten(old[0].get("set")),
        )


def _write(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    rows: list[dict[str, Any]],
    curves: list[epath.Path],
    notes: list[str],
) -> None:
    folder = workdir.folder
    report.write_report(
        folder / "report.md",
        title=parts.title,
        rows=rows,
        panels=sorted((folder / "eval").glob("*/panels/*.png")),
        curves=curves,
        config_summary={
            "preset": parts.preset,
            "changed (the preset says)": "; ".join(parts.preset_changes) or "nothing",
            **parts.summary,
            "denoiser steps": int(workdir.number_here("denoiser", "steps")),
            "machine": startup.device_line(),
        },
        cohort_note=SYNTHETIC if parts.data.synthetic else "",
        notes=[*notes, *_name_missing(rows), *([parts.note] if parts.note else [])],
    )


def _name_missing(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each set that was scored without some of the run's contrasts."""
    found = {str(row["set"]): row for row in rows if row.get("missing")}
    return [
        f"Set {name}: scored without {', '.join(row['missing'])}; shown was "
        f"{', '.join(row['contrasts'])}. Rows without learning look at {row['contrasts'][0]} alone."
        for name, row in found.items()
    ]


def print_table(folder: str) -> None:
    """The main table of every set on standard output."""
    if jax.process_index():
        return
    path = epath.Path(folder) / "results.jsonl"
    rows = report.read_results(path)
    with report.explain_rows(path):
        _print_rows(rows)
    print(f"report: {epath.Path(folder) / 'report.md'}")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    for name in dict.fromkeys(str(row["set"]) for row in rows):
        part = [row for row in rows if row["set"] == name]
        kind = "synthetic, embedded cohort" if part[0].get("synthetic") else "slices from disk"
        print(f"\nset {name} ({kind}), preset {part[0]['preset']}, seed {part[0]['run_seed']}")
        print(tables.markdown(report.put_baselines_first(part), tables.MAIN))
