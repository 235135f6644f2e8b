"""What a scored set leaves behind for other programs: tables as CSV, and sums by subject.

subjects.npz   sums by subject and row, for paired differences with other runs (`compare`)
subjects.csv   figures of each subject by itself
sizes.csv      figures by size of lesion;   kinds.csv by kind;   rates.csv thresholds' promises
with eval.protocol=both, of whole scans:
scans.csv, froc.csv
lesions.npz           sums by scan, row and number of false positives, for paired differences
lesions.csv           each lesion: kind, volume, where it was found
false_positives.csv   thresholds by number of false positives a scan, and what they find
lesion_groups.csv     the same by volume and kind
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors
from madad_jax.evaluation import lesion_tables, tables
from madad_jax.metrics import lesion_sums, scan_figures, subject_sums, threshold_counts

SUBJECTS = "subjects.npz"
LESIONS = "lesions.npz"


def write(
    folder: epath.Path,
    rows: Sequence[Mapping[str, Any]],
    sums: Mapping[str, subject_sums.Sums],
    scans: Mapping[str, scan_figures.Scans],
    facts: Mapping[str, Any],
) -> None:
    """Writes every file of a set; `sums` and `scans` by row, `facts` JSON-able."""
    folder.mkdir(parents=True, exist_ok=True)
    # First, since the sums cannot be made again from the tables.
    atomic_files.write_bytes(folder / SUBJECTS, subject_sums.to_bytes(sums, facts))
    if scans:
        lesions = {method: mine.lesion_sums() for method, mine in scans.items()}
        atomic_files.write_bytes(folder / LESIONS, lesion_sums.to_bytes(lesions, facts))
    parts = {
        "subjects": [
            {"method": method, **one}
            for method, mine in sums.items()
            for one in subject_sums.rows(mine)
        ],
        "sizes": tables.group_rows(rows, "by_size", threshold_counts.SIZE_GROUPS),
        "kinds": tables.group_rows(rows, "by_kind"),
        "rates": [{"method": r["method"], **e} for r in rows for e in r["rates"]],
        "scans": [
            {
                "method": method,
                "scan": s.id,
                "lesion_ml": s.lesion_ml,
                "lesions": len(s.lesions),
                "dice_healthy": s.dice_healthy,
                "false_positives_healthy": s.at_healthy,
                "score": s.score,
            }
            for method, mine in scans.items()
            for s in mine.scans
        ],
        "froc": [
            {"method": r["method"], "threshold": t, "false_positives_per_scan": f, "sensitivity": s}
            for r in rows
            if "volumes" in r
            # The dict's order is thresholds, false positives, sensitivity (`scan_figures`).
            for t, f, s in zip(*r["volumes"]["froc"].values(), strict=True)
        ],
        "lesions": [e for m, mine in scans.items() for e in lesion_tables.list_lesions(m, mine)],
        "false_positives": list(lesion_tables.list_points(rows)),
        "lesion_groups": list(lesion_tables.list_groups(rows)),
    }
    for name, entries in parts.items():
        # An empty table has no columns to write, and a file with nothing in it explains nothing.
        if entries:
            atomic_files.write_text(folder / f"{name}.csv", _csv(entries))


def _csv(entries: Iterable[Mapping[str, Any]]) -> str:
    # An interval is two columns: spreadsheets cannot read a list.
    entries = [
        {k: v for k, v in e.items() if k != "interval"}
        | (dict(zip(("low", "high"), e["interval"], strict=True)) if "interval" in e else {})
        for e in entries
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(entries[0]), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(entries)
    return out.getvalue()


def read_lesions(workdir: epath.Path, name: str) -> dict[str, lesion_sums.LesionSums]:
    """Sums of lesions by row of a run's set; empty where whole scans were not judged.

    Raises:
      UserError: the file is damaged.
    """
    path = workdir / "eval" / name / LESIONS
    # Written together with the sums by subject, whose facts the reader has checked.
    return lesion_sums.from_bytes(path.read_bytes(), str(path))[0] if path.exists() else {}


def read_sums(
    workdir: epath.Path, name: str
) -> tuple[dict[str, subject_sums.Sums], dict[str, Any]]:
    """(sums by row, facts) of a run's set.

    Raises:
      UserError: the run has not scored that set, or the file is damaged.
    """
    path = workdir / "eval" / name / SUBJECTS
    if not path.exists():
        raise errors.UserError(
            f"{path}: no such file; score the set first: --mode=evaluate on that run"
        )
    return subject_sums.from_bytes(path.read_bytes(), str(path))
