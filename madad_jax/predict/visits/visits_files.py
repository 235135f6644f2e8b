"""What `madad-jax compare-visits` writes: volumes halfway, transforms, table, page, summary."""

import csv
import io
import json
import os
from typing import Any

import numpy as np
from etils import epath

from madad_jax.core import atomic_files, errors, version
from madad_jax.data import scan_names
from madad_jax.metrics import change_spread, visit_changes
from madad_jax.predict import result as result_lib
from madad_jax.predict.visits import halfway, visits_page
from madad_jax.predict.visits import visit as visit_lib
from madad_jax.scans import itk, rigid_motion, volumes

TABLE, PAGE, SUMMARY = "candidates_changes.tsv", "visits.html", result_lib.SUMMARY
SPREAD = "healthy_spread.json"
NAMES = ("first", "second")
DIFFERENCE, PLACES, BOTH, BEYOND = (
    f"{what}_in_halfway.nii.gz"
    for what in ("difference", "places", "scored_in_both", "beyond_healthy")
)
_POINTS = ("halfway_mm", "first_mm", "second_mm", "mni_mm")
RULE = (
    "Candidates of the two visits are one place when they share voxels halfway, at least "
    f"{visit_changes.SHARED:.0%} of the smaller one's. A place of one visit alone is new or gone "
    f"where the other visit scored at least {visit_changes.LEAST_SCORED:.0%} of it. Peaks and "
    "means are read from the maps as interpolated halfway: those of a thin candidate may lie below "
    "the threshold that it passed on its own grid."
)
NO_SPREAD = (
    "No healthy spread is known: how far maps of two visits of a healthy person differ was not "
    "measured, and nothing is said about whether a difference is more than chance."
)


def list_columns() -> tuple[str, ...]:
    """Columns of `candidates_changes.tsv`."""
    plain = (
        *("place", "change", "first_ml", "second_ml", "change_ml", "first_parts", "second_parts"),
        *("first_peak", "second_peak", "first_mean", "second_mean", "mean_difference"),
        *("share_beyond_healthy", "scored_in_first", "scored_in_second"),
    )
    points = [f"{name.removesuffix('mm')}{axis}_mm" for name in _POINTS for axis in "xyz"]
    return (*plain, *points, "region")


def start_over(folder: epath.Path) -> None:
    """Takes an earlier comparison away: its summary first, which says that the rest is whole."""
    if not folder.is_dir():
        return
    # The healthy spread stays: it says itself what it belongs to, and may be this call's input.
    patterns = ("*_in_halfway.nii.gz", "from-*_to-*_mode-image_xfm.tfm", "*.new")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    for path in (folder / SUMMARY, folder / PAGE, folder / TABLE, *found):
        path.unlink(missing_ok=True)


def write(
    comparison: halfway.Comparison, spread: change_spread.Spread | None, folder: epath.Path
) -> dict[str, Any]:
    """Writes a comparison, last of all its summary; gives the summary.

    Raises:
      UserError: the folder cannot be written.
    """
    rows = halfway.list_places(comparison, spread)
    summary = describe(comparison, spread, rows)
    _write_volumes(comparison, spread, folder)
    _write_transforms(comparison, folder)
    atomic_files.write_text(folder / TABLE, _table(rows))
    atomic_files.write_text(folder / PAGE, visits_page.render(comparison, summary))
    text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    atomic_files.write_text(folder / SUMMARY, text)
    return summary


def write_spread(spread: change_spread.Spread, folder: epath.Path) -> None:
    """Writes `healthy_spread.json`. Raises UserError: the folder cannot be written."""
    text = json.dumps(spread.to_dict(), allow_nan=False) + "\n"
    atomic_files.write_text(folder / SPREAD, text)


def describe(
    c: halfway.Comparison, spread: change_spread.Spread | None, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The summary, JSON-able. Of the scans it has their names, and nothing of their headers."""
    both, difference = c.both, c.difference
    values = np.abs(difference[both])
    beyond = None if spread is None else change_spread.share_beyond(values, spread.quantile())
    changes = {}
    for change in visit_changes.CHANGES:
        of_it = [row for row in rows if row["change"] == change]
        changes[change] = {
            "places": len(of_it),
            **{k: round(sum(r[k] for r in of_it), 4) for k in ("first_ml", "second_ml")},
        }
    return {
        "kind": "comparison of two visits",
        "visits": dict(zip(NAMES, map(_describe_visit, c.visits), strict=True)),
        "model": c.visits[0].identity,
        "registration": _describe_registration(c),
        "grid": {
            "space": "halfway between the visits, mm (RAS+)",
            "side_mm": c.side,
            "shape": list(c.grid.shape),
            "affine": c.grid.affine.tolist(),
        },
        "difference": {
            "is": "map of the second - map of the first, where both were scored",
            "scored_in_both_ml": round(float(both.sum()) * c.voxel_ml, 1),
            "mean": round(float(difference[both].mean(dtype=np.float64)), 5) if both.any() else 0.0,
            "size_99.9_percent": round(float(np.quantile(values, 0.999)), 4) if both.any() else 0.0,
            "share_beyond_healthy": None if beyond is None else round(beyond, 6),
        },
        "healthy_spread": None if spread is None else spread.to_summary(),
        "healthy_spread_note": NO_SPREAD if spread is None else "",
        "rule": RULE,
        "changes": changes,
        "places": rows,
        "warnings": c.warnings,
        "version": version.VERSION,
        "not_a_medical_device": result_lib.NOT_A_DEVICE,
    }


def _describe_visit(visit: visit_lib.Visit) -> dict[str, Any]:
    score = visit.summary.get("scan_score", {}).get("score")
    return {
        "source": scan_names.show(visit.volume.source),
        "sha256": visit.volume.sha256,
        "shape": list(visit.volume.native.shape),
        "voxel_mm": [round(float(v), 4) for v in visit.volume.voxel_mm],
        "score": score if isinstance(score, float) else None,
        "candidates": len(visit.summary.get("candidates", ())),
        "candidates_ml": round(float(visit.mask.sum()) * visit.volume.voxel_ml, 4),
        "warnings": [str(text) for text in visit.summary.get("warnings", ())],
    }


def _describe_registration(c: halfway.Comparison) -> dict[str, Any]:
    brain = np.argwhere(c.visits[0].scored)[::97]
    points = brain @ c.visits[0].volume.affine[:3, :3].T + c.visits[0].volume.affine[:3, 3]
    sizes = [int(part.scored.sum()) for part in c.maps]
    return {
        "first_to_second_mm": c.match.motion.tolist(),
        "first_to_halfway_mm": c.half.tolist(),
        "turned_degrees": round(rigid_motion.measure_angle(c.match.motion), 3),
        "brain_moved_mm": round(
            rigid_motion.measure_distance(c.match.motion, np.eye(4), points), 3
        ),
        "there_and_back_differ_mm": round(c.match.disagreement_mm, 3),
        "likeness": round(c.likeness, 4),
        "likeness_usual_from": halfway.USUAL_LIKENESS,
        "likeness_at_least": halfway.LEAST_LIKENESS,
        "brain_overlap": round(2.0 * float(c.both.sum()) / max(1, sum(sizes)), 4),
    }


def _write_volumes(
    c: halfway.Comparison, spread: change_spread.Spread | None, folder: epath.Path
) -> None:
    like = volumes.from_array(np.ones(c.grid.shape, np.float32), c.grid.affine, source="halfway")
    top = max(float(part.anomaly.max()) for part in c.maps) or 1.0
    most = float(np.abs(c.difference).max()) or 1.0
    arrays: dict[str, tuple[np.ndarray, tuple[float, float] | None]] = {}
    for name, scan, scale, part in zip(NAMES, c.scans, c.scales, c.maps, strict=True):
        arrays[f"{name}_in_halfway.nii.gz"] = scan, (scale.low, scale.high)
        arrays[f"{name}_anomaly_in_halfway.nii.gz"] = part.anomaly, (0.0, top)
        arrays[f"{name}_mask_in_halfway.nii.gz"] = part.mask, None
    arrays[DIFFERENCE] = c.difference, (-most, most)
    arrays[PLACES] = c.numbers.astype(np.int32), None
    arrays[BOTH] = c.both, None
    if spread is not None:
        arrays[BEYOND] = np.abs(c.difference) > np.float32(spread.quantile()), None
    for name, (array, limits) in arrays.items():
        volumes.write_nifti(folder / name, array, like=like, limits=limits)


def _write_transforms(c: halfway.Comparison, folder: epath.Path) -> None:
    """ITK files that resample both visits onto the space halfway, and the first onto the second."""
    ways = {
        ("first", "halfway"): c.half,
        ("second", "halfway"): rigid_motion.invert(c.half),
        ("first", "second"): c.match.motion,
    }
    for (source, target), motion in ways.items():
        what = f"Resamples the {source} visit onto {target}; points go from there to it (LPS, mm)."
        path = folder / f"from-{source}_to-{target}_mode-image_xfm.tfm"
        atomic_files.write_text(path, itk.write_matrix(motion, what))


def _table(rows: list[dict[str, Any]]) -> str:
    """The rows, tab-separated: what is not known is empty, nothing that a spreadsheet computes."""
    content, columns = io.StringIO(), list_columns()
    writer = csv.DictWriter(content, columns, delimiter="\t", lineterminator="\n",
                            extrasaction="ignore")  # fmt: skip
    writer.writeheader()
    for row in rows:
        cells = dict(row)
        for name in _POINTS:
            for axis, value in zip("xyz", row[name] or [None] * 3, strict=True):
                cells[f"{name.removesuffix('mm')}{axis}_mm"] = value
        writer.writerow(
            {k: "" if cells[k] is None else scan_names.make_cell(cells[k]) for k in columns}
        )
    return content.getvalue()


def check_output(folder: epath.Path, inputs: list[epath.Path]) -> None:
    """An output folder must be none of the inputs, whose summary it would take away.

    Raises:
      UserError: it is one, or holds the result of one scan.
    """
    real = os.path.realpath(folder)
    if real in {os.path.realpath(path) for path in inputs}:
        raise errors.UserError(f"--output={folder}: found one of the visits; accepted: another one")
    if (folder / "anomaly.nii.gz").exists():
        raise errors.UserError(
            f"--output={folder}: holds a result of madad-jax predict; accepted: another folder"
        )
