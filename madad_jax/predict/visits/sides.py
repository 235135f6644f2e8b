"""The sides of a comparison: scans that are still to be scored, and results that are there."""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, messages
from madad_jax.data import discovery
from madad_jax.metrics import change_spread
from madad_jax.predict.visits import halfway
from madad_jax.predict.visits import visit as visit_lib

_COLUMNS = ("first", "second")
_SCANS = ("first_scan", "second_scan")
_MOST_PAIRS = 1000
_HEALTHY = "healthy"  # the folder of pairs' results below the output


@dataclasses.dataclass(frozen=True)
class Side:
    """One visit as a user names it.

    Attributes:
      path: a scan, or the folder of a result.
      scan: of a result; "" looks for it.
      name: for messages: a flag, or a line of a table.
      folder: below the output, where a scan is scored into.
      scored: whether `path` is a result.
    """

    path: epath.Path
    scan: str
    name: str
    folder: str
    scored: bool


def open_side(path: str, scan: str, name: str, folder: str) -> Side:
    """Looks what a path is.

    Args:
      path: a scan, or the folder of a result.
      scan: of a result.
      name, folder: as `Side` has them.

    Raises:
      UserError: nothing there, or a scan that is named twice.
    """
    place = epath.Path(path)
    if not place.exists():
        raise errors.UserError(
            f"{name}={path}: no such file or folder; accepted: a scan, or a folder that madad-jax "
            "predict wrote for one scan"
        )
    scored = visit_lib.is_result(place)
    if scan and not scored:
        raise errors.UserError(f"{name}_scan={scan}: found for a scan; accepted: with a result")
    return Side(place, scan, name, folder, scored)


def read_pairs(table: str) -> list[tuple[Side, Side]]:
    """The healthy pairs of a table.

    Raises:
      UserError: no table of this kind, or a path in it that there is not.
    """
    path = epath.Path(table)
    try:
        content = atomic_files.read_bytes(path).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(content), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise errors.UserError(f"'{table}': no table (CSV): {messages.shorten(error)}") from error
    if not rows or len(rows) > _MOST_PAIRS:
        raise errors.UserError(f"'{table}': found {len(rows)} pairs; accepted: 1 to {_MOST_PAIRS}")
    unknown = sorted({str(k) for row in rows for k in row} - {*_COLUMNS, *_SCANS})
    if unknown or not all(row.get(name) for row in rows for name in _COLUMNS):
        raise errors.UserError(
            f"'{table}': columns: found {messages.shorten(', '.join(map(str, rows[0])))}; accepted:"
            f" {', '.join(_COLUMNS)}, each filled, and {', '.join(_SCANS)}"
        )
    pairs = []
    for line, row in enumerate(rows, start=2):
        sides = []
        for name, scan in zip(_COLUMNS, _SCANS, strict=True):
            place = path.parent / row[name]
            own = str(path.parent / row[scan]) if row.get(scan) else ""
            folder = f"{_HEALTHY}/{line:04d}_{name}"
            sides.append(open_side(str(place), own, f"{path.name} line {line} {name}", folder))
        pairs.append((sides[0], sides[1]))
    return pairs


def score(
    sides: Sequence[Side], out: epath.Path, load: Callable[[], Any]
) -> Mapping[str, epath.Path]:
    """{folder of the side: folder of its result}; scores the scans among them.

    Args:
      sides: all sides.
      out: scans are scored into folders below it.
      load: gives the detector; called when there is a scan at all.

    Raises:
      UserError: a scan that cannot be scored, or a folder with several.
    """
    found, scans = {}, {}
    for side in sides:
        found[side.folder] = side.path if side.scored else out / side.folder
        if not side.scored:
            # Before the model is opened, which takes longest.
            scans[side.folder] = _find_scan(side)
    if scans:
        from madad_jax.predict import scan_folder

        detector = load()
        for folder, scan in scans.items():
            discovery.keep_contrast([scan], detector.preparation.modality, asked=True)
            print(f"scoring {scan.path.name} into {out / folder}", flush=True)
            scan_folder.predict_scans(detector, [scan], out / folder, single=True, report=False)
    return found


def _find_scan(side: Side) -> discovery.Scan:
    scans, single = discovery.discover(str(side.path))
    if not single:
        raise errors.UserError(
            f"{side.name}={side.path}: found {len(scans)} scans; accepted: one scan a visit"
        )
    return scans[0]


def read(side: Side, folders: Mapping[str, epath.Path]) -> visit_lib.Visit:
    """The visit of a side, once it is scored. Raises UserError as `visit.read` does."""
    scan = side.scan if side.scored else side.path
    flag = f"{side.name}_scan"
    return visit_lib.read(folders[side.folder], scan, flag)


def measure_spread(
    pairs: Sequence[tuple[Side, Side]],
    folders: Mapping[str, epath.Path],
    *,
    allow_unlike: bool = False,
) -> change_spread.Spread:
    """The healthy spread of pairs whose sides are scored.

    Raises:
      UserError: a pair that cannot be compared, or was scored otherwise than the first.
    """
    measured, identity = [], None
    for sides in pairs:
        visits = [read(side, folders) for side in sides]
        names = sides[0].name, sides[1].name
        if identity is not None:
            visit_lib.check_alike(identity, visits[0].identity, (pairs[0][0].name, names[0]))
        identity = visits[0].identity
        comparison = halfway.compare(*visits, names, allow_unlike=allow_unlike)
        measured.append(comparison.to_spread())
        print(f"{sides[0].name}: {measured[-1].new} new, {measured[-1].gone} gone", flush=True)
    return change_spread.Spread(identity, tuple(measured))
