"""The one way to a scan's voxels, whatever it lies in: image file, DICOM folder, or .zip of one.

`scans.volumes` reads files and series. Here stand the choice among several series, archives, and
the converter of others. Preparation, prediction and checks come through `read`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

from etils import epath

from madad_jax.core import atomic_files, errors
from madad_jax.data import zip_archive
from madad_jax.scans import volumes


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a person or a model wants of a scan's folder; see `dicom_series.choose`.

    Attributes:
      contrast: T1, T2, ...; "" = any.
      series: number or SeriesInstanceUID; "" = found by the rules.
      dcm2niix: whether dcm2niix converts what is not read here.
    """

    contrast: str = ""
    series: str = ""
    dcm2niix: bool = False


def read(path: epath.PathLike, wish: Wish = Wish()) -> volumes.Volume:
    """Reads a scan.

    Args:
      path: image file (NIfTI, MGH, NRRD, MHA), folder of DICOM files, or .zip of them.
      wish: says which series, where there are several.

    Raises:
      UserError: the scan is unusable, or nothing says which of several series it is.
    """
    path = epath.Path(path)
    if not is_dicom(path):
        if wish.series:
            raise errors.UserError(f"--series={wish.series}: '{path.name}' is no DICOM folder")
        return volumes.read(path)
    with opened(path) as folder:
        volume = _read_folder(folder, wish)
    if folder == path:
        return volume
    # Of the archive: its files were unpacked for a moment.
    return dataclasses.replace(volume, source=str(path), sha256=atomic_files.sha256(path))


def is_dicom(path: epath.Path) -> bool:
    """Whether a scan's path is a folder or an archive of DICOM files."""
    return path.is_dir() or zip_archive.is_archive(path)


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[epath.Path]:
    """The folder of a scan's DICOM files; of an archive it is there within the block alone.

    Raises:
      UserError: the archive cannot be unpacked.
    """
    if path.is_dir():
        yield path
        return
    with zip_archive.unpacked(path) as folder:
        yield folder


def _read_folder(folder: epath.Path, wish: Wish) -> volumes.Volume:
    # pydicom only for those who have series.
    from madad_jax.data import converter, dicom_series
    from madad_jax.scans import dicom_files

    series, notes = dicom_series.choose(folder, wish.contrast, wish.series)
    try:
        volume = volumes.read(folder, series)
    except dicom_files.NotCarried as error:
        if not wish.dcm2niix:
            raise
        found = dicom_series.list_series(folder)
        if not series and len(found) != 1:
            raise
        (one,) = [one for one in found if one.uid == series or not series]
        why = str(error).replace(f"{folder}/", "").partition("; ")[0]
        with converter.converted(one.paths, str(folder)) as made:
            volume = dataclasses.replace(volumes.read(made), source=str(folder))
        volume = dataclasses.replace(
            volume,
            sha256=dicom_files.digest(folder),
            warnings=(*volume.warnings, f"converted by dcm2niix, as it is not read here: {why}"),
        )
    return dataclasses.replace(volume, warnings=(*notes, *volume.warnings))


def list_files(path: epath.PathLike) -> list[epath.Path]:
    """The files that a scan's path stands for.

    Raises:
      UserError: a folder cannot be read.
    """
    path = epath.Path(path)
    if not path.is_dir():
        return [path]
    from madad_jax.scans import dicom_files

    return dicom_files.list_files(path)


def digest(path: epath.PathLike) -> str:
    """What `Volume.sha256` is of a scan at this path.

    Raises:
      UserError: it cannot be read.
    """
    if not epath.Path(path).is_dir():
        return atomic_files.sha256(path)
    from madad_jax.scans import dicom_files

    return dicom_files.digest(epath.Path(path))


def describe(path: epath.PathLike) -> str:
    """One line from a file's header; see `volumes.describe`.

    Raises:
      UserError: the file is missing, or its header unusable.
    """
    path = epath.Path(path)
    return "DICOM in a .zip" if zip_archive.is_archive(path) else volumes.describe(path)
