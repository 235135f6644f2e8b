"""Many scans: finding them, one after another or a few at a time, and what each became.

One bad scan is a line in `scans.csv` and never the end of the others. The same command again
skips scans whose `summary.json` is of the same file and settings.
"""

import concurrent.futures
import csv
import dataclasses
import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import tqdm
from etils import epath

from madad_jax.core import atomic_files, errors, json_digest, json_file, messages
from madad_jax.data import discovery, scan_names
from madad_jax.predict import candidates_table, dicom_objects, spaces
from madad_jax.predict import detector as detector_lib
from madad_jax.predict import result as result_lib
from madad_jax.scans import volumes

_LOG = logging.getLogger(__name__)

TABLE = scan_names.TABLE
_COLUMNS = (
    "scan",
    "status",
    "score",
    "percentile",
    "candidates",
    "candidates_ml",
    "seconds",
    "source",
    "message",
)
_MOST_MESSAGE = 2000


@runtime_checkable
class Place(Protocol):
    """Where the files of a scan's result lie: a folder, or names in a data set.

    `summary` is their last file: while it is missing, the set is not complete.
    """

    @property
    def summary(self) -> epath.Path:
        """The file that holds `Result.summary`."""

    def is_whole(self) -> bool:
        """Whether what is asked for beside the summary is there."""

    def start_over(self) -> None:
        """Takes an earlier result away, its summary first."""

    def save(self, result: result_lib.Result) -> None:
        """Writes a result, its summary last. Raises UserError where it cannot be written."""


def predict_scans(
    detector: detector_lib.Detector,
    found: list[discovery.Scan],
    out: epath.Path,
    *,
    single: bool,
    brain_mask: str = "",
    report: bool = True,
    output_format: str = "",
    space: str = "",
    workers: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    process: int | None = None,
) -> list[dict[str, Any]]:
    """Scores scans into `out/<name>/` (`single`: `out/` itself); rows of `scans.csv`.

    `output_format` and `space` are those of `Result.save`; `process` is this one's number among
    several, whose tables `merge_tables` joins.

    Raises:
      UserError: `out` cannot be written, or the scan is unusable (`single`).
    """
    plain = settings_digest(detector)
    objects = dicom_objects.choose(output_format)
    # Before anything is scored: a mistyped one, or one that the model's scans are not brought to.
    if spaces.choose(space) and detector.preparation.template:
        spaces.check_template(detector.preparation.template[0].file)
    table = TABLE if process is None else table_name(process)
    places = candidates_table.NAME if process is None else table_name(process, places=True)
    for path in (*_list_tables(out), out / places):
        path.unlink(missing_ok=True)  # what a killed run left of the tables
    if not (output_format or dicom_objects.installed()) and any(s.path.is_dir() for s in found):
        _LOG.info("no DICOM objects are made; %s brings what writes them", dicom_objects.INSTALL)
    listed: dict[str, list[dict[str, Any]]] = {}

    def predict(scan: discovery.Scan) -> dict[str, Any]:
        folder, mask = out if single else out / scan.name, scan.brain_mask or brain_mask
        dicom_objects.check(scan.path, folder, objects)
        place = result_lib.Folder(folder, report, output_format, space)
        row = score_scan(detector, scan, place, plain, mask)
        listed[scan.name] = row["places"]
        return row

    try:
        return for_each_scan(
            predict, found, out, single=single, workers=workers, stopped=stopped, table=table
        )
    finally:
        # Once, and after a signal too: many scans have thousands of places.
        if listed or not single:
            rows = [row for name in sorted(listed) for row in listed[name]]
            candidates_table.write(out / places, rows)


def score_scan(
    detector: detector_lib.Detector,
    scan: discovery.Scan,
    place: Place,
    settings: str,
    brain_mask: str = "",
) -> dict[str, Any]:
    """Scores a scan into its place, unless an earlier result is there; the row of a table.

    Args:
      detector: of the model.
      scan: to be read.
      place: of its files.
      settings: from `settings_digest`.
      brain_mask: path of a mask on the scan's grid; "" finds the brain.

    Raises:
      UserError: the scan is unusable, or its place cannot be written.
    """
    if brain_mask:
        # Another mask is another result, whatever its file is called.
        settings = json_digest.json_digest([settings, atomic_files.sha256(brain_mask)])
    done = _read_row(place, scan, settings, detector.beside)
    if done is not None:
        return {**done, "status": "done before"}
    # Before the scan is scored: if it fails now, no earlier result may pass for this one.
    place.start_over()
    result = detector(scan.path, brain_mask=brain_mask)
    result.summary["settings_sha256"] = settings
    place.save(result)
    return {**_row(scan, result.summary), "status": "done"}


def predict_for_mood(
    detector: detector_lib.Detector,
    found: list[discovery.Scan],
    out: epath.Path,
    task: str,
    **options: Any,
) -> list[dict[str, Any]]:
    """The MOOD challenge's interface: `out/<file>` with a map, or `out/<file>.txt` with a score.

    `sample` writes one number in [0, 1] a scan, `pixel` a map of the scan's shape.
    """

    # The challenge's names are those of the files, without their folders.
    names = [scan.path.name.casefold() for scan in found]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise errors.UserError(
            f"two scans are called '{messages.shorten(repeated[0])}'; rename one"
        )

    def predict(scan: discovery.Scan) -> dict[str, Any]:
        result = detector(scan.path, brain_mask=scan.brain_mask)
        if task == "sample":
            text = f"{min(max(result.score, 0.0), 1.0)}"
            atomic_files.write_bytes(out / f"{scan.path.name}.txt", text.encode())
        else:
            volumes.write_nifti(out / scan.path.name, result.anomaly, like=result.volume)
        return {**_row(scan, result.summary), "status": "done"}

    return for_each_scan(predict, found, None, single=False, **options)


def for_each_scan(
    work: Callable[[discovery.Scan], dict[str, Any]],
    found: list[discovery.Scan],
    out: epath.Path | None,
    *,
    single: bool,
    workers: int = 1,
    stopped: Callable[[], bool] = lambda: False,
    table: str = TABLE,
    note: Callable[[discovery.Scan, dict[str, Any]], None] = lambda scan, row: None,
) -> list[dict[str, Any]]:
    """Runs `work` on every scan, `workers` at a time; at most so many are in memory.

    What a scan cannot do is its row's message; `out` (None: nowhere) gets the `table`, and `note`
    each scan's row as it comes. After `stopped` no further scan is begun.
    """
    # One scan raises its own error; one of many becomes a line of the table.
    if single:
        return [work(found[0])]
    rows: list[dict[str, Any]] = []
    # Threads: there is one set of weights on the device, and reading and resampling release the
    # interpreter's lock.
    with concurrent.futures.ThreadPoolExecutor(max(1, workers)) as pool:
        futures = {pool.submit(_run_guarded, work, scan, stopped): scan for scan in found}
        bar = tqdm.tqdm(
            concurrent.futures.as_completed(futures), total=len(found), desc="scans", unit="scan"
        )
        for future in bar:
            row = future.result()
            if row is None:
                continue
            rows.append(row)
            note(futures[future], row)
            if row["status"] == "failed":
                tqdm.tqdm.write(f"{row['scan']}: {row['message']}")
            if out is not None:
                # After every scan: a run that is killed leaves the table of what it did.
                _write_table(out / table, rows)
    return sorted(rows, key=lambda row: row["scan"])


def _run_guarded(work, scan: discovery.Scan, stopped: Callable[[], bool]) -> dict[str, Any] | None:
    if stopped():
        return None
    start = time.monotonic()
    try:
        if scan.fault:
            raise errors.UserError(scan.fault)
        row = work(scan)
    except errors.UserError as error:
        row = {"status": "failed", "message": messages.shorten(error, _MOST_MESSAGE)}
    except Exception as error:  # A defect of ours on one scan must not cost the night's others.
        _LOG.exception("%s: unexpected", scan.name)
        what = f"unexpected {type(error).__name__}: {error}"
        row = {"status": "failed", "message": messages.shorten(what, _MOST_MESSAGE)}
    seconds = round(time.monotonic() - start, 2)
    return {"scan": scan.name, "source": str(scan.path), "seconds": seconds, **row}


def _row(scan: discovery.Scan, summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "scan": scan.name,
        "source": str(scan.path),
        "score": summary["scan_score"]["score"],
        "percentile": summary["scan_score"]["percentile"],
        "candidates": len(summary["candidates"]),
        "candidates_ml": round(sum(p["volume_ml"] for p in summary["candidates"]), 3),
        "message": "; ".join(summary["warnings"]),
        "places": candidates_table.list_rows(scan.name, summary),
    }


def describe_row(row: dict[str, Any]) -> str:
    """A line on a scan that was scored: score, percentile, candidates."""
    known = row["percentile"] is not None
    percentile = f", percentile {row['percentile']:.0f}" if known else ""
    return (
        f"{row['scan']}: score {row['score']:.4f}{percentile}, {row['candidates']} "
        f"candidate(s), {row['candidates_ml']:.2f} ml ({row['status']})"
    )


def table_name(process: int, *, places: bool = False) -> str:
    """The table of one process among several; `places`: that of candidates."""
    return f"{candidates_table.NAME if places else TABLE}.process_{process}"


def _list_tables(out: epath.Path) -> list[epath.Path]:
    """Tables that are half written."""
    names = (TABLE, candidates_table.NAME)
    return [p for name in names for p in out.glob(f"{name}*.new")] if out.is_dir() else []


def merge_tables(out: epath.Path, processes: int) -> list[dict[str, str]]:
    """Makes one table of those that `processes` processes left, and removes them; its rows."""
    rows, parts = [], [out / table_name(k) for k in range(processes)]
    place_parts = [out / table_name(k, places=True) for k in range(processes)]
    for part in parts:
        if part.exists():  # one without scans writes none
            rows += csv.DictReader(io.StringIO(part.read_text()))
    if rows:
        _write_table(out / TABLE, rows)
        places = [row for part in place_parts for row in candidates_table.read(part)]
        candidates_table.write(out / candidates_table.NAME, places)
    for part in (*parts, *place_parts):
        part.unlink(missing_ok=True)
    return sorted(rows, key=lambda row: row["scan"])


def _write_table(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in sorted(rows, key=lambda row: row["scan"]):
        writer.writerow({key: scan_names.make_cell(value) for key, value in row.items()})
    atomic_files.write_bytes(path, content.getvalue().encode())


def settings_digest(detector: detector_lib.Detector) -> str:
    """Of everything that decides what comes out for a scan."""
    s, wish = detector.setting, detector.wish
    # Only where it was given: results of before stay what they are.
    asked = {"series": wish.series} if wish.series else {}
    return json_digest.json_digest(
        {
            "facts": detector.facts,
            "preparation": detector.preparation.to_dict(),
            "numbers": list(detector.numbers),
            "signal": s.signal,
            "options": dataclasses.asdict(s.options),
            "point": None if s.point is None else dataclasses.asdict(s.point),
            **asked,
        }
    )


def _read_row(
    place: Place, scan: discovery.Scan, settings: str, beside: Mapping[str, str]
) -> dict[str, Any] | None:
    """The row of an earlier result for the same files under the same settings, if it is there."""
    # A series has no single file to compare; it is scored again.
    paths = [scan.path, *map(epath.Path, beside.values())]
    if any(p.is_dir() for p in paths) or not place.summary.exists() or not place.is_whole():
        return None
    try:
        found = json_file.read_object(place.summary)
        known = {name: one["sha256"] for name, one in found["scan"].get("beside", {}).items()}
        same = found["settings_sha256"] == settings and [*known] == [*beside]
        digests = [found["scan"]["sha256"], *known.values()]
        if same and digests == [atomic_files.sha256(str(path)) for path in paths]:
            return _row(scan, found)
    # A summary that somebody changed is none: the scan is scored again.
    except (errors.UserError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None
