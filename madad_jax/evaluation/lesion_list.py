"""A CSV table of lesions, placed in the slices that a set was cut into.

Columns: `id` (of the scan, as the slices are named), `kind`, `volume_ml`, and the centre `x_mm`,
`y_mm`, `z_mm` in the scanner's millimetres (RAS+) of the scan as it was prepared; others are left
alone. `transforms/{id}.json`, which `prepare` writes beside the slices, takes centres to the
template's space.
"""

import csv
import io
import logging
import math
from collections.abc import Mapping

import numpy as np
from etils import epath

from madad_jax.core import atomic_files, errors, file_names, messages
from madad_jax.metrics import lesion_names
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import registration

_LOG = logging.getLogger(__name__)

FILE = "lesions.csv"
TRANSFORMS = "transforms"
_CENTRE = ("x_mm", "y_mm", "z_mm")
_COLUMNS = ("id", "kind", "volume_ml", *_CENTRE)

Lesions = Mapping[str, tuple[lesion_names.Named, ...]]  # by scan


def read(path: epath.PathLike, root: epath.PathLike, geometry: geometry_lib.Geometry) -> Lesions:
    """The lesions of each scan.

    Args:
      path: the table.
      root: folder of the slices, which has `transforms/`.
      geometry: where slices lie.

    Raises:
      UserError: no such file, a column that is missing, a value that cannot be, or no transform
        for any scan.
    """
    path, root = epath.Path(path), epath.Path(root)
    if not path.exists():
        raise errors.UserError(f"eval.lesions: found '{path}', which is no file; accepted: a CSV")
    to_slices = np.linalg.inv(geometry.affine())
    transforms: dict[str, np.ndarray | None] = {}
    out: dict[str, list[lesion_names.Named]] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        scan, volume_ml = row["id"], _number(row, "volume_ml", where)
        centre = [_number(row, key, where) for key in _CENTRE]
        if volume_ml <= 0:
            raise errors.UserError(f"{where}: volume_ml: found {volume_ml:g}, accepted: above 0")
        if scan not in transforms:
            transforms[scan] = _read_transform(root, scan, where)
        matrix = transforms[scan]
        if matrix is not None:
            place = to_slices @ matrix @ [*centre, 1.0]
            named = lesion_names.Named(row["kind"], volume_ml, tuple(map(float, place[:3])))
            out.setdefault(scan, []).append(named)
    missing = [scan for scan, matrix in transforms.items() if matrix is None]
    if missing and not out:
        raise errors.UserError(
            f"{path}: found no '{root / TRANSFORMS}/{messages.shorten(missing[0])}.json', nor that "
            "of any other scan of it; accepted: slices made by madad_jax prepare of these scans"
        )
    if missing:
        # A scan whose preparation failed stands in no set either.
        _LOG.warning("%s: %d scans without a transform are left out", path, len(missing))
    return {scan: tuple(lesions) for scan, lesions in out.items()}


def _rows(path: epath.Path) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, values by column)."""
    try:
        reader = csv.DictReader(io.StringIO(atomic_files.read_bytes(path).decode("utf-8-sig")))
        rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(f"{path}: no CSV in UTF-8 ({messages.shorten(error)})") from error
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise errors.UserError(
            f"{path}: found no column {', '.join(missing)}; accepted: {', '.join(_COLUMNS)}"
        )
    for line, row in rows:
        empty = [name for name in _COLUMNS if not row[name]]
        if empty:
            raise errors.UserError(f"{path}, line {line}: found nothing in {', '.join(empty)}")
    return rows


def _number(row: Mapping[str, str], key: str, where: str) -> float:
    try:
        value = float(row[key])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        found = messages.shorten(repr(row[key]))
        raise errors.UserError(f"{where}: {key}: found {found}, accepted: a number")
    return value


def _read_transform(root: epath.Path, scan: str, where: str) -> np.ndarray | None:
    path = file_names.check_inside(root / TRANSFORMS, f"{scan}.json", where)
    return registration.load(path).matrix if path.exists() else None
