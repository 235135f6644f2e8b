"""The files of a folder as DICOM images: what is read, what is no scan, what is damaged.

People's folders come from CDs and archives: an index (DICOMDIR), reports, segmentations and
pictures of screens lie among the slices. Each is left out with a line that names it.
"""

import contextlib
import dataclasses
import hashlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator

import pydicom
from etils import epath
from pydicom import uid

from madad_jax.core import atomic_files, errors, messages

# pydicom's warnings quote values as they are: names of persons, and escapes for the terminal.
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_PREAMBLE, _MAGIC = 128, b"DICM"  # The standard, part 10: bytes of anything, then these four.
_ENDINGS = (".dcm", ".ima")
_SCANS = frozenset(
    (
        uid.MRImageStorage,
        uid.EnhancedMRImageStorage,
        uid.LegacyConvertedEnhancedMRImageStorage,
        uid.CTImageStorage,
        uid.EnhancedCTImageStorage,
        uid.LegacyConvertedEnhancedCTImageStorage,
    )
)
_MODALITIES = ("MR", "CT")
CAPTURE = uid.SecondaryCaptureImageStorage.name.removesuffix(" Storage")
BARE = "image without pixels"
TRY_CONVERTER = "--dcm2niix has dcm2niix convert it, where that is installed"
_DEEPEST = 12  # Folders below; a link that leads in a circle ends there.
# What is packed unpacks to at most so many times its size. Images of heads need about 4.
_MOST_TIMES = 100
_ALWAYS_BYTES = 64 * 2**20  # So much may come out of any file: black slices pack to nothing.


class NotCarried(errors.UserError):
    """DICOM of a kind that is not read here; dcm2niix may convert it."""


@dataclasses.dataclass(frozen=True, eq=False)
class File:
    """A file that pydicom could open.

    Attributes:
      path: of the file, for messages.
      dataset: its elements; values are parsed when they are asked for and may raise anything.
      kind: "" for an image of a scan, else what it is.
      series, uid: what names its series and itself; "" where it does not say.
      title: number and description of its series, for a person.
    """

    path: epath.Path
    dataset: pydicom.Dataset
    kind: str
    series: str
    uid: str
    title: str


@dataclasses.dataclass(frozen=True)
class Folder:
    """What lies in a folder.

    Attributes:
      files: DICOM files; of equal bytes the first alone.
      unreadable: (file, its bytes, why): they begin as DICOM and cannot be opened.
      count: files of any kind.
      sha256: of the digests of all files, sorted.
      notes: sentences on what was left out.
    """

    files: list[File]
    unreadable: list[tuple[epath.Path, bytes, str]]
    count: int
    sha256: str
    notes: list[str]


@contextlib.contextmanager
def guard(path: epath.Path) -> Iterator[None]:
    """Whatever pydicom raises over a damaged file becomes one line that names the file."""
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:  # pydicom names no set of exceptions for damaged values.
        raise errors.UserError(
            f"'{path}' is a damaged DICOM file ({type(error).__name__}: {messages.shorten(error)})"
        ) from error


def list_files(folder: epath.Path) -> list[epath.Path]:
    """Files of a scan's folder: those in it, or where none of them is an image, all below it.

    A CD has its index and a viewer on top and its series below; a series may have notes below.

    Raises:
      UserError: the folder cannot be read from its disk.
    """
    try:
        inside = sorted(folder.iterdir())
        below = [p for p in inside if p.is_dir()]
        files = [p for p in inside if p.is_file()]
        if below and not any(may_hold_scan(path) for path in files):
            files += [path for inner in below for path in _walk(inner, 1)]
    except OSError as error:
        raise errors.UserError(f"'{folder}' cannot be read: {error.strerror or error}") from error
    return files


def _walk(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif depth < _DEEPEST and path.is_dir():
            yield from _walk(path, depth + 1)


def digest(folder: epath.Path) -> str:
    """Of the digests of all files of a folder (`list_files`), sorted: that of `read_folder`.

    Raises:
      UserError: the folder or a file cannot be read from its disk.
    """
    return _join_digests(atomic_files.sha256(path) for path in list_files(folder))


def _join_digests(every: Iterable[str]) -> str:
    return hashlib.sha256("".join(sorted(every)).encode()).hexdigest()


def read_folder(folder: epath.Path, series: str = "") -> Folder:
    """All files of a folder (`list_files`).

    Args:
      folder: of the files.
      series: SeriesInstanceUID; images of others are left out, unread. "" = all.

    Raises:
      UserError: the folder or a file cannot be read from its disk.
    """
    files, unreadable, digests, copies, others = [], [], {}, [], []
    paths, unread = list_files(folder), 0
    # Shorter names first: "IM1.dcm" stays and "IM1 (1).dcm" is its copy.
    paths.sort(key=lambda path: (len(path.name), path.name))
    for path in paths:
        if not begins_as_dicom(_start(path)):
            digests.setdefault(atomic_files.sha256(path), []).append(path)
            if path.name.lower().endswith(_ENDINGS):
                others.append(path)
            continue
        if series and (header := read_header(path)) is not None:
            other = str(header.get("SeriesInstanceUID") or "")
            # What does not say its series may be a damaged slice.
            if other and other != series:
                digests.setdefault(atomic_files.sha256(path), []).append(path)
                unread += 1
                continue
        content = atomic_files.read_bytes(path)
        mark = hashlib.sha256(content).hexdigest()
        digests.setdefault(mark, []).append(path)
        if len(digests[mark]) > 1:
            copies.append(path)
            continue
        try:
            with guard(path):
                files.append(_describe(path, _parse(content)))
        except errors.UserError as error:
            unreadable.append((path, content, str(error)))
    notes = []
    if unread:
        notes.append(f"left out, of other series: {unread} files")
    if copies:
        notes.append(f"left out, copies of other files: {names(copies)}")
    if others:
        notes.append(f"left out, no DICOM inside: {names(others)}")
    sha256 = _join_digests(one for one, same in digests.items() for _ in same)
    return Folder(files, unreadable, len(paths), sha256, notes)


def read_header(path: epath.Path) -> pydicom.Dataset | None:
    """The elements of a file before its pixels; None: it is no DICOM, or is damaged."""
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE + len(_MAGIC))
            if not begins_as_dicom(start):
                return None
            if not _has_preamble(start):
                return _parse(start + file.read())
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            if dataset.file_meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
                file.seek(0)
                dataset = _parse(file.read())
            dataset.walk(lambda inside, element: element.value, recursive=False)
            return dataset
    except Exception:  # Whoever reads the whole file says what is wrong with it.
        return None


def find_study(folder: epath.Path) -> str:
    """StudyInstanceUID of the first image in a folder; "" where none says it."""
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        if may_hold_scan(path) and (header := read_header(path)) is not None:
            return str(header.get("StudyInstanceUID") or "")
    return ""


def digest_pixels(path: epath.Path) -> str | None:
    """Of the pixels of a file as they are packed; None: it cannot be read."""
    try:
        return hashlib.sha256(_parse(path.read_bytes()).PixelData).hexdigest()
    except Exception:  # Then nobody knows whether it is a copy.
        return None


def is_image(header: pydicom.Dataset) -> bool:
    """Whether a header is of an image of MR or CT; of a localizer too."""
    sop = str(header.get("SOPClassUID") or "")
    modality = str(header.get("Modality") or "").strip().upper()
    return not _known_as_other(sop) and modality in ("", *_MODALITIES) and "Rows" in header


def names(paths: list[epath.Path]) -> str:
    """A count and up to three names, for a message: 2 ('a.dcm', 'b.dcm')."""
    shown = ", ".join(f"'{messages.shorten(path.name)}'" for path in paths[:3])
    return f"{len(paths)} ({shown}{', ...' if len(paths) > 3 else ''})"


def may_hold_scan(path: epath.Path) -> bool:
    """Whether a file is DICOM and not of a kind that is no scan; reads its first bytes alone."""
    try:
        with path.open("rb") as file:
            start = io.BytesIO(file.read(2**14))
    except OSError:
        return path.name.lower().endswith(_ENDINGS)
    if not begins_as_dicom(start.getvalue()):
        return path.name.lower().endswith(_ENDINGS)
    if not _has_preamble(start.getvalue()):
        return True
    try:
        sop = str(_read_meta(start).get("MediaStorageSOPClassUID", "") or "")
    except Exception:  # Damaged: whoever reads it says so.
        return True
    return not _known_as_other(sop)


def check_unpacked(path: epath.Path, claimed: int, packed: int) -> None:
    """Refuses what would unpack to far more than it weighs, both in bytes.

    Raises:
      UserError: more than 64 MiB and more than 100 times the packed size.
    """
    most = max(_ALWAYS_BYTES, _MOST_TIMES * packed)
    if claimed > most:
        raise errors.UserError(
            f"'{path}' unpacks from {packed} to {claimed} bytes or more; accepted: at most {most}"
        )


def _start(path: epath.Path) -> bytes:
    """The first bytes, so that a film beside the slices is not read whole."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + len(_MAGIC))
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def _has_preamble(start: bytes) -> bool:
    return start[_PREAMBLE:].startswith(_MAGIC)


def begins_as_dicom(start: bytes) -> bool:
    """Whether a file's first bytes are those of DICOM, with or without the preamble."""
    # Some archives hand out files without the preamble: they begin with an element of group 8.
    bare = start[:2] == b"\x08\x00" and start[3:4] == b"\x00"
    return _has_preamble(start) or _begins_with_meta(start) or bare


def _begins_with_meta(start: bytes) -> bool:
    """Whether the preamble alone is missing, as scripts that take names out leave it."""
    return start[:2] == b"\x02\x00" and start[3:6] in (b"\x00UL", b"\x00OB", b"\x00UI")


def _parse(content: bytes) -> pydicom.Dataset:
    """The elements of a file; deflated ones are unpacked here, within bounds."""
    if not _has_preamble(content) and _begins_with_meta(content):
        content = bytes(_PREAMBLE) + _MAGIC + content
    file = io.BytesIO(content)
    if not _has_preamble(content):
        dataset = pydicom.dcmread(file, force=True)
        implicit, little = dataset.original_encoding
        plain = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = plain if little else uid.ExplicitVRBigEndian
        return dataset
    meta = _read_meta(file)
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return pydicom.dcmread(io.BytesIO(content))
    plain = io.BytesIO(_inflate(content[file.tell() :]))
    dataset = pydicom.filereader.read_dataset(plain, is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = meta
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return dataset


def _read_meta(file: io.BytesIO) -> pydicom.dataset.FileMetaDataset:
    """Group 2 of a file, which says how the rest is written; leaves `file` behind it."""
    file.seek(_PREAMBLE + len(_MAGIC))
    meta = pydicom.filereader.read_dataset(
        file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2
    )
    return pydicom.dataset.FileMetaDataset(meta)


def _inflate(packed: bytes) -> bytes:
    most = max(_ALWAYS_BYTES, _MOST_TIMES * len(packed))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = stream.decompress(packed, most)
    # A raw stream has no checksum: its end mark is all that it says of its completeness.
    if not stream.eof:
        found = f"more than {most} bytes" if len(plain) >= most else "no end"
        raise ValueError(f"the deflated part has {found}")
    return plain


def _describe(path: epath.Path, dataset: pydicom.Dataset) -> File:
    def text(name: str) -> str:
        return str(dataset.get(name) or "")

    number = messages.shorten(text("SeriesNumber"), 16) or "?"
    return File(
        path=path,
        dataset=dataset,
        kind=_kind(dataset),
        series=text("SeriesInstanceUID"),
        uid=text("SOPInstanceUID"),
        title=f"series {number} '{messages.shorten(text('SeriesDescription'), 40)}'",
    )


def _kind(dataset: pydicom.Dataset) -> str:
    """ "" for an image of a scan, else the standard's name of the object."""
    sop = str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if _known_as_other(sop):
        return uid.UID(sop).name.removesuffix(" Storage")
    if "PixelData" not in dataset:
        if sop and sop not in _SCANS:
            return "object of a class of its maker's"
        if not dataset.get("SeriesInstanceUID"):
            raise ValueError("no pixels")  # What a file cut short has become.
        return BARE
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality and modality not in _MODALITIES:
        return f"object of Modality {messages.shorten(modality, 16)}"
    image_type = dataset.get("ImageType") or ()
    words = [image_type] if isinstance(image_type, str) else image_type
    return "localizer" if {"LOCALIZER", "SCOUT"} & {str(w).upper() for w in words} else ""


def _known_as_other(sop: str) -> bool:
    """A class of the standard that is no scan; private and missing ones may be."""
    return sop not in _SCANS and uid.UID(sop).type != ""


def notes_on(files: list[File]) -> list[str]:
    """A sentence for each kind among `files`, none of which is a scan."""
    kinds = sorted({file.kind for file in files})
    of = {kind: [file.path for file in files if file.kind == kind] for kind in kinds}
    return [f"left out, no scan: {k}: {names(of[k])}" for k in kinds]
