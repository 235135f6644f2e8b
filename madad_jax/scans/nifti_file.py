"""NIfTI files: their bytes to a header and an array, nothing believed that the length denies.

A header's claims (where the image begins, how many voxels of which type) are held against the
file's length before room is made for them (`file_bytes.py`).
"""

import dataclasses
import gzip
import hashlib
import io
import math
import zlib

import nibabel as nib
import numpy as np
from etils import epath
from jaxtyping import Float32, Float64

from madad_jax.core import atomic_files, errors, messages
from madad_jax.scans import file_bytes

_ACCEPTED = (
    "accepted: NIfTI (.nii, .nii.gz), MGH (.mgz, .mgh), NRRD or MHA of three dimensions, or a "
    "folder or .zip of DICOM files"
)
# Extensions hold whole DICOM headers or connectome tables; a damaged offset claims gigabytes.
_MOST_BEFORE = 2**26
# Padding of tapes and block devices. A header that lost a slice leaves more than this.
_MOST_AFTER = 2**16
# What nibabel raises at headers that make no sense.
UNREADABLE = (
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    nib.filebasedimages.ImageFileError,
    OverflowError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds, in its own axis order.

    Attributes:
      header: as it stands in the file, nothing mended; None: the file is no NIfTI.
      array: values with the header's slope and intercept; may hold NaN and infinity.
      sha256: of the file's bytes.
      warnings: what is odd about the file, one sentence each.
      affine: voxel -> mm (RAS+) of a file that is no NIfTI.
    """

    header: nib.Nifti1Header | None
    array: Float32[np.ndarray, "I J K"]
    sha256: str
    warnings: tuple[str, ...]
    affine: Float64[np.ndarray, "4 4"] | None = None


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Where a file's image lies: bytes from `start` to `end` of what is unpacked."""

    header: nib.Nifti1Header
    mended: nib.Nifti1Header
    shape: tuple[int, int, int]
    start: int
    end: int


def read(path: epath.Path) -> Content:
    """Reads a NIfTI-1 or -2 file, compressed or not, to its end.

    Raises:
      UserError: the file is missing, damaged, longer or shorter than its header says, or not one
        volume of numbers.
    """
    layout = _read_layout(path)
    content = atomic_files.read_bytes(path)
    try:
        with file_bytes.guard(path):
            body, after = _unpack(content, layout, path)
        _check_extensions(body, layout, path)
        slope, inter = layout.mended.get_slope_inter()
        scaling = (1.0, 0.0) if slope is None else (slope, inter)
        spec = (layout.shape, layout.mended.get_data_dtype(), layout.start, *scaling)
        proxy = nib.arrayproxy.ArrayProxy(io.BytesIO(body), spec)
        # float32 from the start: float64 doubles a scan's memory. Values that overflow become
        # infinite, which readers of scans report.
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(proxy, dtype=np.float32)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    digest = hashlib.sha256(content).hexdigest()
    return Content(layout.header, array, digest, _find_oddities(layout, after, path))


def read_header(path: epath.Path) -> tuple[nib.Nifti1Header, tuple[int, int, int]]:
    """The header of a file as it stands there, and the image's three sides.

    Raises:
      UserError: as `read`, as far as the file's first bytes and its length tell.
    """
    layout = _read_layout(path)
    return layout.header, layout.shape


def check_packed(path: epath.Path) -> None:
    """Reads a file that is packed by gzip to its end, keeping nothing.

    Raises:
      UserError: it is damaged.
    """
    try:
        with file_bytes.guard(path), path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = gzip.GzipFile(fileobj=file)
            while packed and stream.read(2**20):
                pass
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def read_numbers(image: nib.spatialimages.SpatialImage, name: str) -> np.ndarray:
    """The values of an image that nibabel opened, as float32.

    Raises:
      UserError: they are no plain numbers, or nibabel cannot read them.
    """
    kind = np.dtype(getattr(image.dataobj, "dtype", np.float32))
    if kind.kind not in "iufb":
        raise file_bytes.no_numbers(name, kind)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except (EOFError, zlib.error, OSError, *UNREADABLE) as error:
        raise errors.UserError(
            f"'{name}' cannot be read: {messages.shorten(str(error), 200)}"
        ) from error


def _read_layout(path: epath.Path) -> _Layout:
    """Header and place of the image, held against the file's length."""
    start = file_bytes.read_start(path, 544)
    layout = _parse_header(start.content, path)
    file_bytes.check_length(
        path,
        start.size,
        layout.end,
        layout.shape,
        packed=start.packed,
        most_after=_MOST_AFTER,
    )
    return layout


def _parse_header(start: bytes, path: epath.Path) -> _Layout:
    """What the first bytes of a file say, NIfTI-1 or -2."""
    # A header begins with its own size, in the byte order of the machine that wrote it.
    orders = {int.from_bytes(start[:4], order): order for order in ("big", "little")}
    length = 540 if 540 in orders else 348
    if start[128:132] == b"DICM":
        raise errors.UserError(f"'{path}' is a DICOM file; accepted: the folder of its series")
    if len(start) < length or length not in orders:
        raise errors.UserError(f"'{path}' is no NIfTI file (no header); {_ACCEPTED}")
    kind = nib.Nifti2Header if length == 540 else nib.Nifti1Header
    order = "<" if orders[length] == "little" else ">"
    try:
        header = kind(start[:length], endianness=order, check=False)
        if bytes(header["magic"].item())[:2] != b"n+":
            raise errors.UserError(_name_pair(bytes(header["magic"].item()), path))
        offset = _check_offset(header, length, path)
        _check_codes(header, path)
        mended = kind(start[:length], endianness=order)
        shape = _check_shape(mended, path)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    end = offset + math.prod(shape) * mended.get_data_dtype().itemsize
    return _Layout(header, mended, shape, offset, end)


def _name_pair(magic: bytes, path: epath.Path) -> str:
    """Why a header without an image in its own file is refused."""
    if magic[:2] == b"ni":
        what = "is no single-file NIfTI (a pair, .hdr and .img); accepted: both as one .nii"
    else:
        # SPM and FSL disagreed about its left and right, and the file cannot tell.
        what = (
            "is no single-file NIfTI but Analyze, which does not state its orientation: left and "
            "right would be a guess; accepted: the NIfTI file or DICOM series that it came from"
        )
    return f"'{path}' {what}"


def _check_offset(header: nib.Nifti1Header, length: int, path: epath.Path) -> int:
    """Where the image begins; 0 is taken for the least, which some programs mean by it."""
    stated, least = header["vox_offset"].item(), length + 4
    if stated == 0:
        return least
    if not (float(stated).is_integer() and least <= stated <= _MOST_BEFORE):
        raise errors.UserError(
            f"'{path}': the header puts the image at byte {stated:g} (vox_offset); accepted: whole "
            f"numbers from {least} to {_MOST_BEFORE}"
        )
    return int(stated)


def _check_codes(header: nib.Nifti1Header, path: epath.Path) -> None:
    """Refuses what nibabel reads in some way of its own, or says on the screen itself."""
    axes, kind = int(header["dim"][0]), int(header["datatype"])
    if not 1 <= axes <= 7:
        raise errors.UserError(f"'{path}' has {axes} dimensions (dim[0]); accepted: 3")
    if (header["dim"][1 : axes + 1] < 1).any():
        shape = file_bytes.by(tuple(int(n) for n in header["dim"][1 : axes + 1]))
        raise errors.UserError(
            f"'{path}' has {shape} voxels; accepted: at least {file_bytes.LEAST_SIDE}"
        )
    known = nib.nifti1.data_type_codes
    if kind not in known.value_set() or known.dtype[kind].itemsize == 0:
        raise errors.UserError(
            f"'{path}' holds numbers of type {kind} (datatype), which no program here reads; "
            "accepted: integers and floats of 8 to 64 bits"
        )


def _check_shape(header: nib.Nifti1Header, path: epath.Path) -> tuple[int, int, int]:
    """The three sides; trailing axes of one element are dropped."""
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        file_bytes.check_sides(path, shape)
    kind = header.get_data_dtype()
    if kind.kind not in "iufb":
        raise file_bytes.no_numbers(str(path), kind)
    file_bytes.check_sides(path, shape)
    return shape


def _unpack(content: bytes, layout: _Layout, path: epath.Path) -> tuple[bytes, int]:
    """The bytes up to the image's end, and how many follow."""
    stream = file_bytes.open_plain(content)
    body, after = file_bytes.take(stream, layout.end, path, layout.shape, _MOST_AFTER)
    if any(after):
        raise file_bytes.too_long(path, layout.end, layout.shape, _MOST_AFTER)
    return body, len(after)


def _check_extensions(body: bytes, layout: _Layout, path: epath.Path) -> None:
    """Walks the blocks between header and image; each says how long it is."""
    length = int(layout.header["sizeof_hdr"])
    at, order = length + 4, ">" if layout.header.endianness == ">" else "<"
    while body[length] and layout.start - at >= 8:
        size = int(np.frombuffer(body, f"{order}i4", 1, at)[0])
        if not size and not any(body[at : layout.start]):
            return  # Padding.
        if not 8 <= size <= layout.start - at:
            raise errors.UserError(
                f"'{path}': a header extension at byte {at} claims {size} bytes, "
                f"{layout.start - at} are there; the header is damaged"
            )
        at += size


def _find_oddities(layout: _Layout, after: int, path: epath.Path) -> tuple[str, ...]:
    """Sentences about a file whose image is whole all the same."""
    odd = []
    if layout.header["vox_offset"].item() == 0:
        # Only where the length proves it: else the image may begin anywhere.
        if after:
            raise errors.UserError(
                f"'{path}': the header puts the image at byte 0 (vox_offset), and the file's "
                f"length does not fit the {layout.start} that this usually means"
            )
        odd.append(f"the header puts the image at byte 0; read from byte {layout.start}")
    if after:
        odd.append(f"{after} zeros follow the image; they are ignored")
    stated, bits = int(layout.header["bitpix"]), 8 * layout.mended.get_data_dtype().itemsize
    if stated != bits:
        odd.append(f"the header says {stated} bits a voxel, its data type has {bits}, which count")
    return tuple(odd)


def _unreadable(path: epath.Path, error: Exception) -> errors.UserError:
    reason = messages.shorten(str(error), 200)
    return errors.UserError(f"'{path}' is no readable NIfTI file: {reason}; {_ACCEPTED}")
