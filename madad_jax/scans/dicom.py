"""One DICOM series as an array: single-frame files or one enhanced multi-frame file.

Slices are ordered by their position along the normal of the image plane, never by file name or
instance number. Positions must be evenly spaced: a missing slice would shift all anatomy behind
it. Nothing that identifies a person is kept.
"""

import hashlib
import io

import numpy as np
import pydicom
from etils import epath
from jaxtyping import Float32, Float64

from madad_jax.core import atomic_files, errors

_UNEVEN = 0.1  # Of the slice distance; positions are written with few digits.
_PARALLEL = 1e-3
# DICOM's x grows to the subject's left and its y to the back; ours to the right and the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read_series(
    folder: epath.Path,
) -> tuple[Float32[np.ndarray, "columns rows slices"], Float64[np.ndarray, "4 4"], str]:
    """The series whose files lie in `folder` (not below it).

    Returns:
      Values with slope and intercept applied, the matrix from (column, row, slice) to mm (RAS+),
      and a digest of all files.

    Raises:
      UserError: no DICOM images, several series, several images at one position (a series of
        volumes), uneven positions, colour, or a compression that cannot be read.
    """
    images, sha256 = _read_images(folder)
    frames = [frame for image in images for frame in _list_frames(image, folder)]
    if len(frames) < 2:
        raise errors.UserError(
            f"'{folder}' has {len(frames)} DICOM image; accepted: a whole series"
        )
    positions, orientation, spacing = _geometry(frames, folder)
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.argsort(positions @ normal, kind="stable")
    heights = (positions @ normal)[order]
    _check_even(heights, folder)
    # Pixels are [row, column]; the first axis of a volume is the column, as in NIfTI.
    array = np.stack([frames[i]["pixels"]().T for i in order], axis=-1)
    affine = np.eye(4)
    # PixelSpacing is (between rows, between columns): the second belongs to the first axis.
    affine[:3, 0] = _LPS_TO_RAS @ orientation[:3] * spacing[1]
    affine[:3, 1] = _LPS_TO_RAS @ orientation[3:] * spacing[0]
    # Over the whole stack: single steps carry the rounding of positions with few digits.
    first, last = positions[order[0]], positions[order[-1]]
    affine[:3, 2] = _LPS_TO_RAS @ (last - first) / (len(frames) - 1)
    affine[:3, 3] = _LPS_TO_RAS @ first
    return array, affine, sha256


def _read_images(folder: epath.Path) -> tuple[list[pydicom.Dataset], str]:
    """The images of the folder, which must be of one series, and the digest of all its files."""
    images, digests = [], []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        content = atomic_files.read_bytes(path)
        digests.append(hashlib.sha256(content).hexdigest())
        try:
            dataset = pydicom.dcmread(io.BytesIO(content))
        except (pydicom.errors.InvalidDicomError, EOFError, ValueError, KeyError, TypeError):
            continue  # A note or a thumbnail beside the series.
        if "PixelData" in dataset and path.name != "DICOMDIR":
            images.append(dataset)
    if not images:
        raise errors.UserError(
            f"'{folder}' has no DICOM images among its {len(digests)} files; accepted: a NIfTI "
            "file or a folder with one DICOM series"
        )
    series = sorted({str(image.get("SeriesInstanceUID", "")) for image in images})
    if len(series) > 1:
        raise errors.UserError(
            f"'{folder}' has {len(series)} DICOM series; accepted: one a folder (found "
            f"{', '.join(series[:3])})"
        )
    return images, hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _list_frames(image: pydicom.Dataset, folder: epath.Path):
    """{position, orientation, spacing, pixels()} of every frame of an image."""
    if int(image.get("SamplesPerPixel", 1)) != 1:
        raise errors.UserError(f"'{folder}' holds colour images; accepted: grey ones")
    count = int(image.get("NumberOfFrames", 1))
    for number in range(count):
        try:
            yield _frame(image, number, count)
        except (AttributeError, IndexError, TypeError, ValueError, KeyError) as error:
            raise errors.UserError(
                f"'{folder}': a DICOM image lacks its place in space ({error}); position, "
                "orientation and pixel spacing are needed"
            ) from error


def _frame(image: pydicom.Dataset, number: int, count: int) -> dict:
    groups = _functional_groups(image, number)

    def value(sequence: str, name: str):
        for group in groups:
            if sequence in group and name in group[sequence][0]:
                return group[sequence][0].get(name)
        found = image.get(name)
        if found is None:
            raise AttributeError(name)
        return found

    def rescale(name: str, default: float) -> float:
        try:
            return float(value("PixelValueTransformationSequence", name))
        except AttributeError:
            return default

    # MR series often state neither: then stored values are the values.
    slope, intercept = rescale("RescaleSlope", 1.0), rescale("RescaleIntercept", 0.0)

    def pixels() -> np.ndarray:
        array = _decode(image)
        plane = array[number] if count > 1 else array
        return plane.astype(np.float32) * np.float32(slope) + np.float32(intercept)

    return {
        "position": np.array(value("PlanePositionSequence", "ImagePositionPatient"), np.float64),
        "orientation": np.array(
            value("PlaneOrientationSequence", "ImageOrientationPatient"), np.float64
        ),
        "spacing": np.array(value("PixelMeasuresSequence", "PixelSpacing"), np.float64),
        "size": (int(image.Rows), int(image.Columns)),
        "pixels": pixels,
    }


def _functional_groups(image: pydicom.Dataset, number: int) -> list[pydicom.Dataset]:
    """Where an enhanced image says things about a frame: its own group, then the shared one."""
    groups = []
    if "PerFrameFunctionalGroupsSequence" in image:
        groups.append(image.PerFrameFunctionalGroupsSequence[number])
    if "SharedFunctionalGroupsSequence" in image:
        groups.append(image.SharedFunctionalGroupsSequence[0])
    return groups


def _decode(image: pydicom.Dataset) -> np.ndarray:
    """The stored values; pydicom keeps them after the first call."""
    try:
        return image.pixel_array
    except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        syntax = getattr(image.file_meta, "TransferSyntaxUID", None)
        name = getattr(syntax, "name", "no transfer syntax")
        raise errors.UserError(
            f"series {image.get('SeriesInstanceUID', '')}: pixels cannot be decoded ({name}: "
            f"{' '.join(str(error).split())[:200]}); convert it to an uncompressed series, or "
            "install 'pylibjpeg[all]'"
        ) from error


def _geometry(
    frames: list[dict], folder: epath.Path
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, " 6"], Float64[np.ndarray, " 2"]]:
    """Positions of all frames and the orientation and spacing that they must share."""
    first = frames[0]
    for frame in frames[1:]:
        same = (
            frame["size"] == first["size"]
            and np.allclose(frame["orientation"], first["orientation"], atol=_PARALLEL)
            and np.allclose(frame["spacing"], first["spacing"], rtol=_PARALLEL)
        )
        if not same:
            raise errors.UserError(
                f"'{folder}' holds images of different size, spacing or orientation (a localizer?)"
                "; accepted: parallel slices of one grid"
            )
    positions = np.stack([frame["position"] for frame in frames])
    return positions, first["orientation"], first["spacing"]


def _check_even(heights: Float64[np.ndarray, " n"], folder: epath.Path) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    if (steps < 1e-3).any():
        raise errors.UserError(
            f"'{folder}' has {int((steps < 1e-3).sum()) + 1} or more images at one position; "
            "accepted: one volume (split echoes, b-values and time points into folders)"
        )
    if np.abs(steps - usual).max() > _UNEVEN * usual:
        worst = int(np.abs(steps - usual).argmax())
        raise errors.UserError(
            f"'{folder}': slices {worst + 1} and {worst + 2} of {len(heights)} lie "
            f"{steps[worst]:.2f} mm apart, the others {usual:.2f} mm: a slice is missing"
        )
