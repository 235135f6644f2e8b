"""The DICOM files of a .zip, in a private folder for as long as they are read.

What an archive says of itself is not believed: names in it never become paths, links are not
made, and bytes are counted as they come out. Files get numbers in the order of the archive.
"""

import contextlib
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from etils import epath

from madad_jax.core import errors, messages
from madad_jax.scans import dicom_files

ENDING = ".zip"
_MOST_FILES = 20_000
_MOST_BYTES = 8 * 2**30
# Deflate packs a thousand to one, heads about two to one; small files may hold anything.
_MOST_TIMES, _ALWAYS = 100, 2**26
_PIECE = 2**20
_MOST_PEEKED = 64


def is_archive(path: epath.Path) -> bool:
    """Whether a file is a .zip, by its name."""
    return path.name.lower().endswith(ENDING)


def holds_dicom(path: epath.Path) -> bool:
    """Whether one of an archive's first files begins as DICOM does; False where it is damaged."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            for member in [one for one in archive.infolist() if not one.is_dir()][:_MOST_PEEKED]:
                with archive.open(member) as stream:
                    if dicom_files.begins_as_dicom(stream.read(256)):
                        return True
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError):
        return False  # NotImplementedError is a RuntimeError.
    return False


@contextlib.contextmanager
def unpacked(path: epath.Path) -> Iterator[epath.Path]:
    """A private folder with the DICOM files of an archive; it is removed at the end.

    Raises:
      UserError: the archive is damaged, encrypted, holds odd names or links, unpacks to too much,
        or has no DICOM file. Within the block the archive's name stands for the folder's.
    """
    with tempfile.TemporaryDirectory(prefix="madad_jax-") as place:  # mode 700
        folder = epath.Path(place)
        try:
            _unpack(path, folder)
            yield folder
        except errors.UserError as error:
            text = str(error).replace(place, str(path)).replace(folder.name, path.name)
            raise type(error)(text) from error


def _unpack(path: epath.Path, folder: epath.Path) -> None:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if not one.is_dir()]
            if len(members) > _MOST_FILES:
                raise _refuse(path, f"{len(members)} files; accepted: at most {_MOST_FILES}")
            left = min(_MOST_BYTES, max(_ALWAYS, _MOST_TIMES * path.stat().length))
            for number, member in enumerate(members):
                _check(member, path)
                left -= _write(archive, member, folder / f"{number:06d}", left, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        why = messages.shorten(type(error).__name__)
        raise _refuse(path, f"damage, or a packing that is not read ({why})") from error
    except RuntimeError as error:  # What zipfile raises without a password.
        raise _refuse(path, "encrypted files; accepted: none") from error
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if not any(folder.iterdir()):
        raise _refuse(path, "no DICOM file; accepted: the files of DICOM series")


def _check(member: zipfile.ZipInfo, path: epath.Path) -> None:
    """Refuses names and kinds that no honest archive of files has."""
    parts = member.filename.replace("\\", "/").split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        raise _refuse(path, "a name that leads out of the archive")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refuse(path, "a link or a device")


def _write(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    target: epath.Path,
    left: int,
    path: epath.Path,
) -> int:
    """Unpacks a member if it begins as DICOM does; how many bytes came out."""
    with archive.open(member) as stream:
        start = stream.read(_PIECE)
        if not dicom_files.begins_as_dicom(start):
            return len(start)
        count = len(start)
        with target.open("wb") as out:
            while start:
                if count > left:
                    raise _refuse(path, "files that unpack to far more than the archive weighs")
                out.write(start)
                start = stream.read(_PIECE)
                count += len(start)
    return count


def _refuse(path: epath.Path, found: str) -> errors.UserError:
    return errors.UserError(f"'{path}': the archive holds {found}")
