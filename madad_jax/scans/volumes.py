"""Volumes in and out: image files and DICOM series, always seen in canonical order.

Whatever the file's axis order, voxel size or angle, a `Volume` has x to the subject's right, y to
the front and z up (RAS+, to the nearest axes), and `affine` says where its voxels lie. The file's
own grid and header are kept, so that a map made from the volume can be written back onto it.
"""

import dataclasses
import gzip
import math
from typing import Any

import nibabel as nib
import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Float64

from madad_jax.core import atomic_files, errors
from madad_jax.scans import file_bytes, itk_file, label_values, mgh_file, nifti_file, nifti_grid

_RAS = np.array([[0, 1], [1, 1], [2, 1]])


@dataclasses.dataclass(frozen=True)
class Native:
    """A file's own grid: array shape, voxel -> mm matrix, and its NIfTI header as it stands there.

    Of a file that is no NIfTI the header is None; the axes of a series are (column, row, slice).
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
      series: SeriesInstanceUID of a scan that came as DICOM files; None: it did not.
    """

    data: Float32[np.ndarray, "X Y Z"]
    affine: Float64[np.ndarray, "4 4"]
    source: str
    native: Native
    sha256: str = ""
    missing: Bool[np.ndarray, "X Y Z"] | None = None
    warnings: tuple[str, ...] = ()
    series: str | None = None

    @property
    def voxel_mm(self) -> Float64[np.ndarray, " 3"]:
        """Voxel sides along x, y and z, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def read(path: epath.PathLike, series: str = "") -> Volume:
    """Reads an image file (NIfTI, MGH, NRRD, MHA) or the one DICOM series of a folder.

    Args:
      path: of the file or folder.
      series: SeriesInstanceUID, where a folder holds several.

    Raises:
      UserError: the file is missing, damaged, not three-dimensional, without a usable grid, or
        has no value other than 0.
    """
    path = epath.Path(path)
    if path.is_dir():
        from madad_jax.scans import dicom  # pydicom only for those who have series.

        stack = dicom.find_stack(path, series)
        array, about = dicom.read_values(stack), {"sha256": stack.sha256, "warnings": stack.notes}
        volume = from_array(array, stack.affine, source=str(path), **about)
        return dataclasses.replace(volume, series=stack.frames[0].file.series)
    content = _read_file(path)
    return from_array(
        content.array,
        _place(content),
        source=str(path),
        header=content.header,
        sha256=content.sha256,
        warnings=content.warnings,
    )


def _read_file(path: epath.Path) -> nifti_file.Content:
    name = path.name.lower()
    if name.endswith(mgh_file.ENDINGS):
        return mgh_file.read(path)
    if name.endswith(itk_file.DETACHED):
        raise itk_file.refuse_detached(path)
    if name.endswith((itk_file.NRRD, itk_file.MHA)):
        return itk_file.read(path)
    return nifti_file.read(path)


def _place(content: nifti_file.Content) -> Float64[np.ndarray, "4 4"]:
    """Where a file's voxels lie."""
    if content.header is None:
        return content.affine
    return nifti_grid.read_affine(content.header, content.array.shape)


def read_grid(
    path: epath.PathLike,
) -> tuple[tuple[int, ...], Float64[np.ndarray, "4 4"], Any]:
    """The sides of an image file, its voxel -> mm matrix, and its NIfTI header (or None).

    Raises:
      UserError: the file is missing, its header unusable, or its length denies the header.
    """
    path, header = epath.Path(path), None
    name = path.name.lower()
    if name.endswith(mgh_file.ENDINGS):
        shape, affine = mgh_file.read_grid(path)
    elif name.endswith((itk_file.NRRD, itk_file.MHA)):
        shape, affine = itk_file.read_grid(path)
    else:
        header, shape = nifti_file.read_header(path)
        affine = nifti_grid.read_affine(header, shape)
    nifti_grid.check(shape, affine, str(path), header)
    return shape, affine, header


def from_image(image: Any) -> Volume:
    """A `Volume` from a nibabel image, or one of a library that wraps it.

    Raises:
      UserError: see `read`, `from_array`; no matrix, or no plain numbers.
    """
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    name = str(image.get_filename() or "image")
    if image.affine is None:
        raise errors.UserError(f"'{name}' has no voxel -> mm matrix (affine); accepted: [4, 4]")
    affine = np.asarray(image.affine, np.float64).copy()
    affine[:3] *= nifti_grid.unit_mm(header)
    if nib.is_proxy(image.dataobj) and epath.Path(name).is_file():
        # A lazy image is read here and not by nibabel, which stops before gzip's checksum.
        single = header is not None and bytes(header["magic"].item())[:2] == b"n+"
        if single and name.lower().endswith((".nii", ".nii.gz")):
            volume = read(name)
            if volume.native.shape == image.shape[:3] and np.allclose(volume.native.affine, affine):
                return volume
        for holder in getattr(image, "file_map", {}).values():
            if holder.filename:
                nifti_file.check_packed(epath.Path(holder.filename))
    # Many programs write one volume with a fourth axis of 1.
    shape = tuple(n for i, n in enumerate(image.shape) if i < 3 or n != 1)
    return from_array(
        nifti_file.read_numbers(image, name).reshape(shape), affine, source=name, header=header
    )


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

    Args:
      array: numbers, in the file's axis order.
      affine: voxel -> mm.
      source: path, for messages.
      header: of the NIfTI file, if there is one; maps keep its geometry, and what is odd about
        it becomes a warning.
      sha256: of the file's bytes.
      warnings: sentences about the file.

    Raises:
      UserError: the matrix is singular or its voxels are not of a head scan, or the array has no
        finite value other than 0.
    """
    nifti_grid.check(array.shape, affine, source, header)
    if header is not None:
        warnings = (*warnings, *nifti_grid.find_oddities(header, array.shape))
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


def forget_header(volume: Volume) -> Volume:
    """The volume without its file's header: what is written then has one matrix alone, in mm.

    For programs that look at one of a header's two matrices, or at no unit.
    """
    return dataclasses.replace(volume, native=dataclasses.replace(volume.native, header=None))


def to_image(
    array: np.ndarray, *, like: Volume, limits: tuple[float, float] | None = None
) -> nib.Nifti1Image:
    """An array on `like`'s canonical grid as an image on the scan's own grid. bool becomes uint8.

    The scan's own matrices, codes and unit stand in the header, so that every reader puts both in
    the same place, whichever of them it trusts. Slope, intent and description are not kept: they
    do not hold for a map.

    Args:
      array: [X, Y, Z].
      like: the scan.
      limits: the range that viewers show; None: 0 to 1 for bool, else all of the array's range.
    """
    native = to_native(array, like)
    if limits is None:
        limits = (0.0, 1.0) if native.dtype == bool else (float(native.min()), float(native.max()))
    native = native.astype(np.uint8) if native.dtype == bool else native
    source = _kept_header(like)
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
    affine = like.native.affine.copy()
    affine[:3] /= nifti_grid.unit_mm(source)
    image = kind(native, affine)
    if source is None:
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units("mm")
    else:
        nifti_grid.copy_readable(source, image.header, affine)
    # Equal limits mean none.
    image.header["cal_min"] = limits[0]
    image.header["cal_max"] = limits[1] if limits[1] > limits[0] else limits[0] + 1.0
    return image


def write_nifti(
    path: epath.PathLike,
    array: np.ndarray,
    *,
    like: Volume,
    limits: tuple[float, float] | None = None,
) -> None:
    """Writes `to_image` of the same arguments.

    Written beside and moved into place; the same array gives the same bytes.

    Raises:
      UserError: the folder cannot be written, or the name does not end in .nii or .nii.gz.
    """
    path = epath.Path(path)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise errors.UserError(f"'{path}' cannot be written; accepted: .nii or .nii.gz")
    image = to_image(array, like=like, limits=limits)
    content = image.to_bytes()
    if (source := _kept_header(like)) is not None:
        # After nibabel, which mends what it finds odd: other readers judge for themselves.
        header = type(image.header)(content[: image.header.sizeof_hdr], check=False)
        nifti_grid.copy_geometry(source, header)
        content = header.binaryblock + content[header.sizeof_hdr :]
    if path.name.lower().endswith(".gz"):
        # No time of writing in the gzip header: the same map gives the same bytes.
        content = gzip.compress(content, compresslevel=5, mtime=0)
    atomic_files.write_bytes(path, content)


def read_labels(path: epath.PathLike, like: Volume) -> Float32[np.ndarray, "X Y Z"]:
    """A mask or segmentation that must lie on the grid of `like`, in canonical order.

    Raises:
      UserError: see `read`; values that are no labels (`label_values`), another shape than the
        scan's, or it lies elsewhere in space.
    """
    path = epath.Path(path)
    content = _read_file(path)
    shape = content.array.shape
    # Sorted: tools store a mask's axes in another order than its scan's, and the header says so.
    if sorted(shape) != sorted(like.native.shape):
        raise errors.UserError(
            f"'{path}' has the shape {file_bytes.by(shape)}, its scan '{like.source}' "
            f"{file_bytes.by(like.native.shape)}; both must be of one grid"
        )
    affine = _place(content)
    # A voxel of tolerance: headers round, and tools disagree by half a voxel about the corner.
    tolerance = float(like.voxel_mm.min())
    if shape == like.native.shape and _is_stored_alike(content.header, affine, like, tolerance):
        return label_values.check(to_canonical(content.array, like.native), str(path))
    nifti_grid.check(shape, affine, str(path), content.header)
    canonical = to_canonical(content.array, Native(shape, affine, None))
    order = nib.orientations.ornt_transform(_orientation(affine), _RAS)
    distance = math.inf
    if canonical.shape == like.data.shape:
        moved = affine @ nib.orientations.inv_ornt_aff(order, shape)
        distance = nifti_grid.largest_distance(moved, like.affine, like.data.shape)
    if distance > tolerance:
        raise errors.UserError(
            f"'{path}' lies up to {distance:.1f} mm beside its scan '{like.source}' by the two "
            "headers; both must be of one grid"
        )
    return label_values.check(canonical, str(path))


def describe(path: epath.PathLike) -> str:
    """One line from a file's header: voxels, their size and order; of a series, how many files.

    Raises:
      UserError: the file is missing, its header unusable, or its length denies the header.
    """
    path = epath.Path(path)
    if path.is_dir():
        return f"DICOM, {sum(p.is_file() for p in path.iterdir())} files"
    shape, affine, header = read_grid(path)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    text = (
        f"{file_bytes.by(shape)} voxels of {' x '.join(f'{mm:.2f}' for mm in sides)} mm, "
        f"{''.join(nib.aff2axcodes(affine))}"
    )
    odd = () if header is None else nifti_grid.find_oddities(header, shape)
    return ", ".join([text, *odd])


def _kept_header(volume: Volume) -> nib.Nifti1Header | None:
    """The header whose geometry maps of a volume keep; None: it has none, or was moved since."""
    header, affine = volume.native.header, volume.native.affine
    if not isinstance(header, nib.Nifti1Header):
        return None
    stated = nifti_grid.read_affine(header, volume.native.shape)
    return header if np.allclose(stated, affine, atol=1e-3) else None


def _is_stored_alike(
    header: nib.Nifti1Header | None, affine: np.ndarray, like: Volume, tolerance: float
) -> bool:
    """Whether a mask of the scan's shape lies on the scan's voxels in the file's own order."""
    # Without an orientation of its own, a mask of the scan's shape lies on the scan's voxels.
    if header is not None and not (int(header["sform_code"]) or int(header["qform_code"])):
        return True
    # Tools that read the scan by its other matrix write that one into their mask.
    places = [like.native.affine, *nifti_grid.placements(like.native.header, like.native.shape)]
    distances = [nifti_grid.largest_distance(affine, m, like.native.shape) for m in places]
    return min(distances) <= tolerance


def _orientation(affine: np.ndarray) -> np.ndarray:
    return nib.orientations.io_orientation(affine)
