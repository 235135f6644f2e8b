"""Volumes in and out: NIfTI files and DICOM series, always seen in canonical order.

Whatever the file's axis order, voxel size or angle, a `Volume` has x to the subject's right, y to
the front and z up (RAS+, to the nearest axes), and `affine` says where its voxels lie. The file's
own grid and header are kept, so that a map made from the volume can be written back onto it.
"""

import dataclasses
import gzip
import hashlib
import io
import math
import zlib
from typing import Any

import nibabel as nib
import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Float64

from madad_jax.core import atomic_files, errors

_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_ACCEPTED = "accepted: NIfTI (.nii, .nii.gz) of three dimensions, or a folder with one DICOM series"
# 4 GiB as float32: beyond any head scan, well within what a damaged header may claim.
_MOST_VOXELS = 2**30
# Localizers and crops of a few voxels are no scans: no mask or registration works on them.
_LEAST_SIDE = 8
# Headers in metres or micrometres fall outside.
_VOXEL_MM = (0.02, 25.0)
# What nibabel raises at headers that make no sense.
_UNREADABLE = (
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    nib.filebasedimages.ImageFileError,
    OverflowError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Native:
    """A file's own grid: array shape, voxel -> mm matrix, and its NIfTI header.

    For a DICOM series the header is a new one, and the axes are (column, row, slice).
    """

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]
    header: Any


@dataclasses.dataclass(frozen=True)
class Volume:
    """One scan in canonical order.

    Attributes:
      data: intensities, finite.
      affine: from voxel indices of `data` to scanner mm.
      source: path, for messages.
      native: the file's own grid.
      sha256: of the file's bytes (of a series: of its files' digests, sorted).
      missing: where the file held NaN or infinity (0 in `data`); None: nowhere.
      warnings: what a person should know, one sentence each.
    """

    data: Float32[np.ndarray, "X Y Z"]
    affine: Float64[np.ndarray, "4 4"]
    source: str
    native: Native
    sha256: str = ""
    missing: Bool[np.ndarray, "X Y Z"] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def voxel_mm(self) -> Float64[np.ndarray, " 3"]:
        """Voxel sides along x, y and z, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def read(path: epath.PathLike) -> Volume:
    """Reads a NIfTI file or a folder with one DICOM series.

    Raises:
      UserError: the file is missing, damaged, not three-dimensional, without a usable grid, or
        has no value other than 0.
    """
    path = epath.Path(path)
    if path.is_dir():
        from madad_jax.scans import dicom  # pydicom only for those who have series.

        array, affine, digest, warnings = dicom.read_series(path)
        return from_array(array, affine, source=str(path), sha256=digest, warnings=warnings)
    content = atomic_files.read_bytes(path)
    image = _parse(content, path)
    header = image.header
    shape = _shape(header, path)
    # float32 from the start: get_fdata's float64 doubles a scan's memory. Values that overflow
    # become infinite, which `from_array` reports.
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged")).reshape(shape)
    affine, warnings = _affine(header, path)
    digest = hashlib.sha256(content).hexdigest()
    return from_array(array, affine, source=str(path), header=header, sha256=digest,
                      warnings=warnings)  # fmt: skip


def from_array(
    array: np.ndarray,
    affine: Float64[np.ndarray, "4 4"],
    *,
    source: str,
    header: nib.Nifti1Header | None = None,
    sha256: str = "",
    warnings: tuple[str, ...] = (),
) -> Volume:
    """A `Volume` from an array in any axis order and its voxel -> mm (RAS+) matrix.

    Raises:
      UserError: the matrix is singular or its voxels are not of a head scan, or the array has no
        finite value other than 0.
    """
    _check_grid(array.shape, affine, source)
    native = Native(tuple(array.shape), np.asarray(affine, np.float64), header)
    finite = np.isfinite(array)
    missing = None
    if not finite.all():
        share = 1.0 - finite.mean()
        warnings = (*warnings, f"{share:.2%} of the voxels are NaN or infinite; they count as 0")
        # 0 and not a neighbour's value: a mask by `nonzero` must take a hole for no tissue.
        array, missing = np.where(finite, array, 0), to_canonical(~finite, native)
    if not array.any():
        what = "no finite value other than 0" if missing is not None else "0 everywhere"
        raise errors.UserError(f"'{source}' is empty: {what}")
    canonical = to_canonical(array, native)
    order = nib.orientations.ornt_transform(_orientation(native.affine), _RAS)
    affine = native.affine @ nib.orientations.inv_ornt_aff(order, native.shape)
    return Volume(
        data=np.ascontiguousarray(canonical, np.float32),
        affine=affine,
        source=source,
        native=native,
        sha256=sha256,
        missing=missing,
        warnings=tuple(warnings),
    )


def to_canonical(array: np.ndarray, native: Native) -> np.ndarray:
    """An array on the file's own grid -> canonical order (axes swapped and flipped, no more)."""
    order = nib.orientations.ornt_transform(_orientation(native.affine), _RAS)
    return nib.orientations.apply_orientation(array, order)


def to_native(array: np.ndarray, volume: Volume) -> np.ndarray:
    """An array on the volume's canonical grid -> the file's own axis order, losslessly.

    Raises:
      ValueError: another shape than the volume's.
    """
    if array.shape != volume.data.shape:
        raise ValueError(f"array of shape {array.shape} for a volume of {volume.data.shape}")
    order = nib.orientations.ornt_transform(_RAS, _orientation(volume.native.affine))
    return nib.orientations.apply_orientation(array, order)


def write_nifti(path: epath.PathLike, array: np.ndarray, *, like: Volume) -> None:
    """Writes an array on `like`'s canonical grid as a NIfTI file on the scan's own grid.

    Written beside and moved into place; the same array gives the same bytes. bool becomes uint8.

    Raises:
      UserError: the folder cannot be written, or the name does not end in .nii or .nii.gz.
    """
    path = epath.Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise errors.UserError(f"'{path}' cannot be written; accepted: .nii or .nii.gz")
    native = to_native(array, like)
    native = native.astype(np.uint8) if native.dtype == bool else native
    image = nib.Nifti1Image(native, like.native.affine)
    codes = (0, 0)
    if isinstance(like.native.header, nib.Nifti1Header):
        codes = tuple(int(like.native.header[key]) for key in ("sform_code", "qform_code"))
    # A reader that trusts the other of the two matrices must find the map in the same place.
    image.set_sform(like.native.affine, max(codes[0], codes[1], 1))
    image.set_qform(like.native.affine, max(codes[0], codes[1], 1))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    if path.name.endswith(".gz"):
        # No time of writing in the gzip header: the same map gives the same bytes.
        content = gzip.compress(content, compresslevel=5, mtime=0)
    atomic_files.write_bytes(path, content)


def read_labels(path: epath.PathLike, like: Volume) -> Float32[np.ndarray, "X Y Z"]:
    """A mask or segmentation that must lie on the grid of `like`, in canonical order.

    Raises:
      UserError: see `read`; another shape than the scan's, or it lies elsewhere in space.
    """
    path = epath.Path(path)
    content = atomic_files.read_bytes(path)
    image = _parse(content, path)
    shape = _shape(image.header, path)
    # Sorted: tools store a mask's axes in another order than its scan's, and the header says so.
    if sorted(shape) != sorted(like.native.shape):
        raise errors.UserError(
            f"'{path}' has the shape {_by(shape)}, its scan '{like.source}' "
            f"{_by(like.native.shape)}; both must be of one grid"
        )
    array = np.nan_to_num(np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged")))
    array = array.reshape(shape)
    stated = int(image.header["sform_code"]) or int(image.header["qform_code"])
    # Without an orientation of its own, a mask of the scan's shape lies on the scan's voxels.
    if not stated and shape == like.native.shape:
        return np.ascontiguousarray(to_canonical(array, like.native))
    affine, _ = _affine(image.header, path)
    native = Native(shape, affine, None)
    canonical = to_canonical(array, native)
    order = nib.orientations.ornt_transform(_orientation(affine), _RAS)
    distance = math.inf
    if canonical.shape == like.data.shape:
        moved = affine @ nib.orientations.inv_ornt_aff(order, shape)
        distance = _largest_distance(moved, like.affine, like.data.shape)
    # A voxel of tolerance: headers round, and tools disagree by half a voxel about the corner.
    if distance > float(like.voxel_mm.min()):
        raise errors.UserError(
            f"'{path}' lies up to {distance:.1f} mm beside its scan '{like.source}' by the two "
            "headers; both must be of one grid"
        )
    return np.ascontiguousarray(canonical)


def describe(path: epath.PathLike) -> str:
    """One line from a file's header: voxels, their size and order; of a series, how many files.

    Raises:
      UserError: the file is missing or its header unusable.
    """
    path = epath.Path(path)
    if path.is_dir():
        return f"DICOM, {sum(p.is_file() for p in path.iterdir())} files"
    try:
        with path.open("rb") as file:
            start = file.read(2**16)
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if start[:2] == b"\x1f\x8b":
        start = zlib.decompressobj(wbits=31).decompress(start, 540)
    header, _ = _header(start, path)
    affine, warnings = _affine(header, path)
    _check_grid(_shape(header, path), affine, str(path))
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    text = (
        f"{_by(_shape(header, path))} voxels of {' x '.join(f'{mm:.2f}' for mm in sides)} mm, "
        f"{''.join(nib.aff2axcodes(affine))}"
    )
    return ", ".join([text, *warnings])


def _parse(content: bytes, path: epath.Path) -> nib.Nifti1Image:
    """The image of a NIfTI-1 or -2 file's bytes, compressed or not, checked for completeness."""
    packed = content[:2] == b"\x1f\x8b"
    stream = gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)
    try:
        start = stream.read(540)
        header, kind = _header(start, path)
        voxels = math.prod(_shape(header, path))
        end = int(header["vox_offset"]) + voxels * header.get_data_dtype().itemsize
        # No more than the header asks for: a small gzip file may unpack to terabytes.
        body = start + stream.read(max(end - len(start), 0))
        if len(body) < end:
            raise errors.UserError(
                f"'{path}' is truncated: {len(body)} of {end} bytes (the header says "
                f"{_by(_shape(header, path))} voxels)"
            )
        stream.read(1)  # At the end of a whole file this checks gzip's checksum.
        return kind.from_bytes(body)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise errors.UserError(f"'{path}' is truncated or damaged: {error}") from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _header(start: bytes, path: epath.Path) -> tuple[nib.Nifti1Header, type[nib.Nifti1Image]]:
    """The header at the start of a file, NIfTI-1 or -2, and the class of its image."""
    # A header begins with its own size, in the byte order of the machine that wrote it.
    size = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    length = 540 if 540 in size else 348
    if len(start) < length or not {348, 540} & size:
        raise errors.UserError(f"'{path}' is no NIfTI file (no header); {_ACCEPTED}")
    kind = nib.Nifti2Image if length == 540 else nib.Nifti1Image
    try:
        header = kind.header_class.from_fileobj(io.BytesIO(start[:length]))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if bytes(header["magic"].item())[:2] != b"n+":
        raise errors.UserError(f"'{path}' is no single-file NIfTI (Analyze or a pair); {_ACCEPTED}")
    return header, kind


def _unreadable(path: epath.Path, error: Exception) -> errors.UserError:
    return errors.UserError(f"'{path}' is no readable NIfTI file: {error}; {_ACCEPTED}")


def _shape(header: nib.Nifti1Header, path: epath.Path) -> tuple[int, int, int]:
    """The three sides; trailing axes of one element are dropped."""
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise errors.UserError(
            f"'{path}' has {len(shape)} dimensions ({_by(shape)}); accepted: one volume of 3 "
            "(split a series of volumes first)"
        )
    kind = header.get_data_dtype()
    if kind.kind not in "iufb":
        raise errors.UserError(
            f"'{path}' holds {kind} (colour or complex numbers); accepted: integers and floats"
        )
    if min(shape) < _LEAST_SIDE or math.prod(shape) > _MOST_VOXELS:
        raise errors.UserError(
            f"'{path}' has {_by(shape)} voxels; accepted: at least {_LEAST_SIDE} a side and at "
            f"most {_MOST_VOXELS} in all"
        )
    return shape


def _affine(header: nib.Nifti1Header, path: epath.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxel -> mm matrix that the file means, and what is odd about it."""
    found = {}
    for name, get in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            matrix = get(coded=True)[0]
        except (nib.spatialimages.HeaderDataError, ValueError):
            continue
        if matrix is not None and np.isfinite(matrix).all() and _usable(matrix):
            found[name] = np.asarray(matrix, np.float64)
    shape = _shape(header, path)
    if len(found) == 2:
        distance = _largest_distance(found["sform"], found["qform"], shape)
        voxel = np.linalg.norm(found["sform"][:3, :3], axis=0).min()
        if distance > 0.5 * voxel:
            return found["sform"], (
                f"sform and qform disagree by up to {distance:.1f} mm; the sform is used",
            )
    # The sform first, as nibabel reads it: registrations are written there.
    for name in ("sform", "qform"):
        if name in found:
            return found[name], ()
    matrix = np.asarray(header.get_base_affine(), np.float64)
    return matrix, (
        "the header states no orientation (sform and qform codes are 0 or unusable): left and "
        "right are a guess",
    )


def _usable(matrix: np.ndarray) -> bool:
    voxel = np.linalg.norm(matrix[:3, :3], axis=0)
    upright = abs(np.linalg.det(matrix[:3, :3])) > 1e-3 * voxel.prod()
    return bool(upright and voxel.min() >= _VOXEL_MM[0] and voxel.max() <= _VOXEL_MM[1])


def _check_grid(shape: tuple[int, ...], affine: np.ndarray, source: str) -> None:
    if not np.isfinite(affine).all() or not _usable(affine):
        raise errors.UserError(
            f"'{source}' has no usable grid: voxel -> mm matrix "
            f"{np.asarray(affine)[:3].round(4).tolist()}; accepted: independent axes with voxels "
            f"of {_VOXEL_MM[0]} to {_VOXEL_MM[1]} mm"
        )
    if len(shape) != 3:
        raise errors.UserError(f"'{source}' has {len(shape)} dimensions, accepted: 3")


def _orientation(affine: np.ndarray) -> np.ndarray:
    return nib.orientations.io_orientation(affine)


def _largest_distance(first: np.ndarray, second: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far the two matrices put a corner of the box apart, mm, at most."""
    corners = np.array([[*c, 1.0] for c in np.ndindex(2, 2, 2)])
    corners[:, :3] *= np.array(shape) - 1
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
