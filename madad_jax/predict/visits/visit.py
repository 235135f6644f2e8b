"""A visit: the scan, and what `madad-jax predict` wrote of it, read back and held to belong to it.

Of a result's folder the map, the mask and the summary are read; the scan is another file, which is
the one that was scored or none: its digest stands in the summary.
"""

import csv
import dataclasses
import io
import math
import os
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32
from scipy import ndimage

from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.data import reading, scan_names
from madad_jax.predict import result as result_lib
from madad_jax.scans import head_pair, nifti_file, nifti_grid, volumes

_FROM_MODEL = ("weights", "method", "preset", "modality", "image_size")
_MOST_TABLE = 2**26  # bytes of a scans.csv


@dataclasses.dataclass(frozen=True)
class Visit:
    """One scan of a person with its result, on the scan's canonical grid [X, Y, Z].

    Attributes:
      volume: the scan.
      anomaly: the map, [0, 1]; 0 where nothing was scored.
      mask: the candidates.
      scored: where the map was made: the brain on the scored slices.
      summary: as `predict` wrote it.
      identity: what two visits must share, of model and settings.
      to_template: scan mm -> ICBM152 mm; None: results of older versions do not say it.
    """

    volume: volumes.Volume
    anomaly: Float32[np.ndarray, "X Y Z"]
    mask: Bool[np.ndarray, "X Y Z"]
    scored: Bool[np.ndarray, "X Y Z"]
    summary: dict[str, Any]
    identity: dict[str, Any]
    to_template: np.ndarray | None

    @property
    def head(self) -> head_pair.Head:
        """The scan and the brain in it, for registration."""
        return head_pair.Head(self.volume, self.scored)


def is_result(path: epath.PathLike) -> bool:
    """Whether a path is the folder of a result, and no scan."""
    return (epath.Path(path) / result_lib.SUMMARY).exists()


def read(folder: epath.PathLike, scan: epath.PathLike, name: str) -> Visit:
    """Reads a visit.

    Args:
      folder: that `madad-jax predict` wrote for one scan.
      scan: that it scored; "" looks for it (see `find_scan`).
      name: of the flag that names the scan, for messages.

    Raises:
      UserError: no such result, another scan than the one that was scored, or files that do not
        lie on the scan's grid.
    """
    folder = epath.Path(folder)
    summary = json_file.read_object(folder / result_lib.SUMMARY)
    identity = read_identity(summary, str(folder / result_lib.SUMMARY))
    scan = epath.Path(scan) if os.fspath(scan) else find_scan(folder, summary, name)
    # As `predict` chose among several series; the digest says whether it is the same one.
    volume = reading.read(scan, reading.Wish(contrast=str(identity.get("modality") or "")))
    if volume.sha256 != summary["scan"].get("sha256"):
        raise errors.UserError(
            f"{name}={scan}: not the scan that '{folder}' is the result of (the sha256 in its "
            f"{result_lib.SUMMARY} is another); accepted: that very file or series"
        )
    anomaly = _read_map(folder / "anomaly.nii.gz", volume)
    mask = volumes.read_labels(folder / "anomaly_mask.nii.gz", volume) > 0
    rebuilt = _read_map(folder / "reconstruction.nii.gz", volume)
    if not np.isfinite(anomaly).all() or anomaly.min() < 0 or anomaly.max() > 1:
        raise errors.UserError(f"'{folder / 'anomaly.nii.gz'}': accepted: values of 0 to 1")
    return Visit(
        volume=volume,
        anomaly=anomaly,
        mask=mask,
        scored=_find_scored(anomaly, rebuilt),
        summary=summary,
        identity=identity,
        to_template=_read_matrix(summary["scan"].get("to_template_mm")),
    )


def read_identity(summary: dict[str, Any], source: str) -> dict[str, Any]:
    """What decides a map and its threshold, as far as a summary tells.

    Raises:
      UserError: it is no summary of one scan.
    """
    try:
        model, scan = summary["model"], summary["scan"]
        found = {key: model.get(key) for key in _FROM_MODEL}
        found |= {"registration": scan.get("registration"), "signal": summary["signal"]}
        found |= {f"postprocess {k}": v for k, v in sorted(summary["postprocess"].items())}
        found["threshold"] = float(summary["operating_point"]["threshold"])
        known = isinstance(found["weights"], str) and math.isfinite(found["threshold"])
        flat = all(isinstance(v, (str, int, float, type(None))) for v in found.values())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        known = flat = False
    if not (known and flat and isinstance(summary["scan"], dict)):
        raise errors.UserError(
            f"'{source}' is no result of one scan; accepted: the {result_lib.SUMMARY} that "
            "madad-jax predict writes beside anomaly.nii.gz"
        )
    return found


def check_alike(one: dict[str, Any], other: dict[str, Any], names: tuple[str, str]) -> None:
    """Maps of two models or settings have no difference that means anything.

    Raises:
      UserError: the identities differ; says in what.
    """
    differ = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
    if differ:
        shown = "; ".join(
            f"{key} {messages.shorten(one.get(key), 24)} and {messages.shorten(other.get(key), 24)}"
            for key in differ[:4]
        )
        raise errors.UserError(
            f"{names[0]} and {names[1]} were scored otherwise ({shown}); accepted: one model, "
            "contrast and setting for all visits and healthy pairs; score them anew alike"
        )


def find_scan(folder: epath.Path, summary: dict[str, Any], name: str) -> epath.Path:
    """The scan of a result: beside it under the name in the summary, or where scans.csv says.

    Raises:
      UserError: neither; says which flag names it.
    """
    source = summary["scan"].get("source")
    places = []
    # A name out of a file: never more than a name.
    if isinstance(source, str) and source and os.path.basename(source) == source:
        places += [folder / source, folder.parent / source]
    places += _list_sources(folder)
    for place in places:
        if place.exists():
            return place
    raise errors.UserError(
        f"'{folder}' does not hold its scan '{messages.shorten(source)}', and no "
        f"{scan_names.TABLE} beside it says where that lies; name it: {name}=FILE"
    )


def _list_sources(folder: epath.Path) -> list[epath.Path]:
    """Where the table of a folder of results says that this one's scan lies."""
    table = folder.parent / scan_names.TABLE
    if not table.exists() or table.stat().length > _MOST_TABLE:
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(atomic_files.read_bytes(table).decode())))
    except (csv.Error, UnicodeDecodeError):
        return []
    found = [row.get("source") for row in rows if row.get("scan") == folder.name]
    return [epath.Path(source) for source in found if source]


def _read_map(path: epath.Path, volume: volumes.Volume) -> Float32[np.ndarray, "X Y Z"]:
    """An image that lies voxel for voxel on the scan, in canonical order."""
    content = nifti_file.read(path)
    shape, wanted = content.array.shape, volume.native.shape
    if shape == wanted:
        affine = nifti_grid.read_affine(content.header, shape)
        apart = nifti_grid.largest_distance(affine, volume.native.affine, shape)
        if apart < 0.5 * float(volume.voxel_mm.min()):
            return np.ascontiguousarray(volumes.to_canonical(content.array, volume.native))
    raise errors.UserError(
        f"'{path}' does not lie on the grid of its scan '{volume.source}'; accepted: the files as "
        "madad-jax predict wrote them"
    )


def _find_scored(anomaly: np.ndarray, rebuilt: np.ndarray) -> Bool[np.ndarray, "X Y Z"]:
    """The brain that was scored: a reconstruction or a map stands there, and what they enclose."""
    some = (anomaly > 0) | (rebuilt != 0)
    # Fluid may be rebuilt as 0: it lies inside, or opens to the outside by a narrow gap.
    closed = ndimage.binary_closing(some, iterations=2) | some
    filled = [ndimage.binary_fill_holes(closed[:, :, k]) for k in range(closed.shape[2])]
    return np.stack(filled, axis=2)


def _read_matrix(values: Any) -> np.ndarray | None:
    """A matrix of a summary; None where it says none or nonsense."""
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    usable = matrix.shape == (4, 4) and np.isfinite(matrix).all()
    return matrix if usable and abs(np.linalg.det(matrix)) > 1e-6 else None
