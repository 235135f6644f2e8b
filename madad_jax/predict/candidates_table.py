"""`candidates.tsv`: the places above the threshold of all scans of a run, a line each.

For people who count: tab-separated, a header, numbers as plain numbers, nothing that a spreadsheet
would compute. What a column means stands in docs/dicom.md.
"""

import csv
import io
import math
from collections.abc import Iterable
from typing import Any

from etils import epath

from madad_jax.core import atomic_files
from madad_jax.data import scan_names

NAME = scan_names.CANDIDATES
COLUMNS = (
    "scan",
    "candidate",
    "volume_ml",
    "peak",
    "mean",
    "x_mm",
    "y_mm",
    "z_mm",
    "mni_x_mm",
    "mni_y_mm",
    "mni_z_mm",
    "region",
    "slice",
)


def list_rows(scan: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A row of the table for each candidate of a result.

    Args:
      scan: its name in `scans.csv`.
      summary: of `summary.json`, which may be of an older version or changed by somebody.

    Raises:
      ValueError, KeyError, TypeError: it is no summary of ours.
    """
    rows = []
    for place in summary["candidates"]:
        x, y, z = (_finite(v) for v in place["centre_mm"])
        # With a template of the user's own there are none.
        mni = place["centre_mni_mm"]
        mni_x, mni_y, mni_z = ("",) * 3 if mni is None else (_finite(v) for v in mni)
        # Results of older versions do not say it.
        slice_ = int(place["file_voxel"][2]) if "file_voxel" in place else ""
        values = (
            scan,
            int(place["number"]),
            _finite(place["volume_ml"]),
            _finite(place["max_score"]),
            _finite(place["mean_score"]),
            *(x, y, z, mni_x, mni_y, mni_z),
            str(place["region"]["name"]),
            slice_,
        )
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def _finite(value: Any) -> float:
    if isinstance(value, (bool, str)) or not math.isfinite(value):
        raise ValueError(f"no number: {value!r}")
    return float(value)


def write(path: epath.Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes the table, by scan and candidate; a header alone where nothing was found.

    Raises:
      UserError: the folder cannot be written.
    """
    content = io.StringIO()
    writer = csv.DictWriter(content, COLUMNS, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: (row["scan"], int(row["candidate"]))):
        writer.writerow({key: scan_names.make_cell(value) for key, value in row.items()})
    atomic_files.write_bytes(path, content.getvalue().encode())


def read(path: epath.Path) -> list[dict[str, Any]]:
    """The rows of a table that `write` made; [] where there is none."""
    if not path.exists():
        return []
    return list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t"))
