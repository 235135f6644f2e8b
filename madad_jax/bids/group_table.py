"""The analysis level `group`: one table of all images of a derived data set, read from its records.

Starts no JAX and reads no image. Records may have been changed by anybody since: one that is none
of ours is a failed row.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable
from typing import Any

from etils import epath

from madad_jax.bids import derivative, entities, raw_dataset
from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.data import scan_names

_LOG = logging.getLogger(__name__)
DONE, FAILED, MISSING = "done", "failed", "missing"
UNKNOWN = "n/a"  # BIDS's word for it
COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "The person"},
    "session_id": {"Description": "The session; n/a in a data set without sessions"},
    "image": {"Description": "Name of the image in the source data set, without its ending"},
    "status": {
        "Description": "Whether there is a result",
        "Levels": {
            DONE: "scored",
            FAILED: "could not be scored; the column reason says why",
            MISSING: "in the source data set, and not tried so far",
        },
    },
    "score": {"Description": "Mean of the map over its highest 1 % of scored brain voxels"},
    "percentile": {"Description": "Of the score among the healthy scans of the calibration"},
    "threshold": {"Description": "Of the mask, on the map's scale of 0 to 1"},
    "candidates": {"Description": "Places above the threshold"},
    "candidates_ml": {"Description": "Their volume in all", "Units": "mL"},
    "largest_ml": {"Description": "Volume of the largest", "Units": "mL"},
    "largest_region": {"Description": "Side, tissue and nearest region of the largest"},
    "brain_ml": {"Description": "Volume of the brain mask", "Units": "mL"},
    "brain_scored": {"Description": "Share of the brain mask that was scored"},
    "warnings": {"Description": "What a person should know before trusting the row"},
    "reason": {"Description": "Why there is no result"},
    "settings": {
        "Description": "First digits of a digest of model, calibration and options: rows that "
        "differ in it cannot be compared"
    },
}


def collect_rows(out: epath.Path, images: Iterable[raw_dataset.Image]) -> list[dict[str, Any]]:
    """A row for each image of the source and for each result, by name; None stands for unknown.

    Args:
      out: the derived data set.
      images: all of the source that are of its contrast.
    """
    rows: dict[str, dict[str, Any]] = {}
    together: dict[str, str] = {}  # {image: that under whose name it is scored}
    for image in images:
        rows[str(image.name)] = _start_row(image.name)
        together |= {str(other.name): str(image.name) for other in image.beside}
    for name, path, kind in _find_records(out):
        here = str(name) in rows
        # A result stands before the record of a failure: where both are, the failure is older.
        if here and rows[str(name)]["status"] == DONE:
            continue
        row = _start_row(name) | _read_record(path, kind)
        if not here:
            about = "the image is not in the source data set any more"
            if first := together.get(str(name)):
                about = f"of before {first} came, with which the image is scored now"
            row["warnings"] = [*row["warnings"], about]
        rows[str(name)] = row
    found = [rows[name] for name in sorted(rows)]
    settings = {row["settings"] for row in found if row["status"] == DONE}
    if len(settings) > 1:
        _LOG.warning(
            "results of %d different settings (%s): do not compare them; unless they are different "
            "sets of contrasts, run the level 'participant' again for all",
            *(len(settings), ", ".join(sorted(settings))),
        )
    return found


def _start_row(name: entities.Name) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS)
    return row | {
        "participant_id": name.person,
        "session_id": name.session or None,
        "image": str(name),
        "status": MISSING,
        "warnings": [],
        "reason": None,
        "name": name,
    }


def _find_records(out: epath.Path) -> list[tuple[entities.Name, epath.Path, str]]:
    """(image, record, its kind), results first; a name that does not belong there is passed by."""
    found = []
    for kind in (derivative.SUMMARY, derivative.FAILED):
        for depth in ("sub-*/anat", "sub-*/ses-*/anat"):
            for path in sorted(out.glob(f"{depth}/*_{kind}.json")):
                name = entities.parse(path.name.removesuffix(f"_{kind}.json"))
                if name is not None and path == derivative.record_path(out, name, kind):
                    found.append((name, path, kind))
    return found


def _read_record(path: epath.Path, kind: str) -> dict[str, Any]:
    try:
        record = json_file.read_object(path)
        if kind == derivative.FAILED:
            reason = messages.shorten(str(record["message"]), 2000)
            return {"status": FAILED, "reason": reason}
        return _read_summary(record)
    except (errors.UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {
            "status": FAILED,
            "reason": f"{path.name} is no record of this program ({messages.shorten(error)}); run "
            "the level 'participant' again",
        }


def _read_summary(summary: dict[str, Any]) -> dict[str, Any]:
    score, places = summary["scan_score"], summary["candidates"]
    volumes = [_number(place["volume_ml"]) for place in places]
    return {
        "status": DONE,
        "score": _number(score["score"]),
        "percentile": None if score["percentile"] is None else _number(score["percentile"]),
        "threshold": _number(summary["operating_point"]["threshold"]),
        "candidates": len(places),
        "candidates_ml": round(sum(volumes), 3),
        "largest_ml": volumes[0] if volumes else None,
        "largest_region": str(places[0]["region"]["name"]) if places else None,
        "brain_ml": _number(summary["scan"]["brain_ml"]),
        "brain_scored": _number(summary["scan"]["brain_scored"]),
        "warnings": [str(text) for text in summary["warnings"]],
        "settings": str(summary["settings_sha256"])[:12],
    }


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(value):
        raise ValueError(f"no number: {messages.shorten(value)}")
    return float(value)


def to_tsv(rows: list[dict[str, Any]]) -> str:
    """The table as BIDS writes tables: tabs, `n/a`, and nothing that a spreadsheet computes."""
    content = io.StringIO()
    writer = csv.DictWriter(
        content, list(COLUMNS), delimiter="\t", extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(row[key]) for key in COLUMNS})
    return content.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(value)
    return UNKNOWN if value is None or value == "" else scan_names.make_cell(value)


def write(out: epath.Path, rows: list[dict[str, Any]], suffix: str) -> epath.Path:
    """Writes `group_<suffix>.tsv` and what its columns mean; the table's path.

    Raises:
      UserError: the folder cannot be written.
    """
    path = out / f"group_{suffix}.tsv"
    atomic_files.write_text(out / f"group_{suffix}.json", json.dumps(COLUMNS, indent=1) + "\n")
    atomic_files.write_text(path, to_tsv(rows))
    return path
