"""The place of every frame of a DICOM image, and the slope of its values."""

import dataclasses
import math

import numpy as np
import pydicom
from jaxtyping import Float32, Float64

from madad_jax.core import errors, messages
from madad_jax.scans import dicom_files, dicom_pixels

_RIGHT_ANGLE = 0.01  # Of direction vectors, which are written with few digits.
_FAR_MM = 1e5  # From the scanner's centre: beyond any table.


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A slice: where it lies, and where its pixels are.

    Attributes:
      file: that holds it.
      layout: of the file's pixels.
      number: among the file's frames.
      position: of the first pixel's centre, mm (DICOM's axes: left, back, up).
      orientation: directions of a row and of a column, unit vectors, at right angles.
      spacing: mm between rows, between columns.
      slope, intercept: from stored values to values.
    """

    file: dicom_files.File
    layout: dicom_pixels.Layout
    number: int
    position: Float64[np.ndarray, " 3"]
    orientation: Float64[np.ndarray, " 6"]
    spacing: Float64[np.ndarray, " 2"]
    slope: float
    intercept: float

    @property
    def place(self) -> tuple:
        """What two copies of a slice share, apart from their pixels."""
        arrays = (self.position, self.orientation, self.spacing)
        return (*(a.tobytes() for a in arrays), self.layout.size, self.slope, self.intercept)


def list_frames(file: dicom_files.File) -> list[Frame]:
    """All frames of a file; its pixels are not unpacked.

    Raises:
      UserError: the file is damaged, in colour, or does not say where its frames lie.
    """
    with dicom_files.guard(file.path):
        if "MOSAIC" in (file.dataset.get("ImageType") or ()):
            raise dicom_files.NotCarried(
                f"'{file.path}' is a mosaic, a volume in one picture (Siemens); accepted: an image "
                f"a slice, or enhanced multi-frame; {dicom_files.TRY_CONVERTER}"
            )
        layout = dicom_pixels.read_layout(file)
        return [_read_frame(file, layout, number) for number in range(layout.frames)]


def _read_frame(file: dicom_files.File, layout: dicom_pixels.Layout, number: int) -> Frame:
    groups = _functional_groups(file.dataset, number)

    def numbers(sequence: str, name: str, count: int) -> np.ndarray:
        found = _find(file.dataset, groups, sequence, name)
        return _finite(file, name, found, count)

    def rescale(name: str, default: float) -> float:
        found = _find(file.dataset, groups, "PixelValueTransformationSequence", name)
        # MR series often state neither: then stored values are the values.
        return default if _is_empty(found) else float(_finite(file, name, found, 1)[0])

    position = numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    slope = rescale("RescaleSlope", 1.0)
    if not (spacing > 0).all():
        raise _odd(file, "PixelSpacing", spacing.tolist(), "two lengths above 0 mm")
    if np.abs(position).max() > _FAR_MM:
        raise _odd(file, "ImagePositionPatient", position.tolist(), f"within {_FAR_MM:g} mm")
    if slope == 0:
        raise _odd(file, "RescaleSlope", slope, "a number other than 0")
    return Frame(
        file=file,
        layout=layout,
        number=number,
        position=position,
        orientation=_directions(file, orientation),
        spacing=spacing,
        slope=slope,
        intercept=rescale("RescaleIntercept", 0.0),
    )


def _directions(file: dicom_files.File, orientation: np.ndarray) -> np.ndarray:
    """Row and column direction, of length 1 each."""
    pair = orientation.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    upright = abs(float(pair[0] @ pair[1])) <= _RIGHT_ANGLE
    if not upright or np.abs(lengths - 1).max() > _RIGHT_ANGLE:
        accepted = "two unit vectors at right angles"
        raise _odd(file, "ImageOrientationPatient", orientation.tolist(), accepted)
    return (pair / lengths[:, None]).reshape(6)


def _functional_groups(image: pydicom.Dataset, number: int) -> list[pydicom.Dataset]:
    """Where an enhanced image says things about a frame: its own group, then the shared one."""
    groups = []
    if "PerFrameFunctionalGroupsSequence" in image:
        groups.append(image.PerFrameFunctionalGroupsSequence[number])
    if "SharedFunctionalGroupsSequence" in image:
        groups.append(image.SharedFunctionalGroupsSequence[0])
    return groups


def _find(image: pydicom.Dataset, groups: list[pydicom.Dataset], sequence: str, name: str):
    for group in groups:
        if sequence in group and name in group[sequence][0]:
            return group[sequence][0].get(name)
    return image.get(name)


def _is_empty(value) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _finite(file: dicom_files.File, name: str, value, count: int) -> np.ndarray:
    """`count` finite numbers, float64."""
    if _is_empty(value):
        raise dicom_files.NotCarried(
            f"'{file.path}' lacks its place in space ({name}); position, orientation and pixel "
            f"spacing are needed; {dicom_files.TRY_CONVERTER}"
        )
    many = [value] if isinstance(value, (str, int, float)) else list(value)
    accepted = f"{count} number{'s' if count > 1 else ''}"
    if len(many) != count:
        raise _odd(file, name, value, accepted)
    try:
        found = np.array([float(one) for one in many], np.float64)
    except (TypeError, ValueError) as error:
        raise _odd(file, name, value, accepted) from error
    if not all(math.isfinite(one) for one in found):
        raise _odd(file, name, value, accepted)
    return found


def _odd(file: dicom_files.File, name: str, value, accepted: str) -> errors.UserError:
    found = list(value) if isinstance(value, pydicom.multival.MultiValue) else value
    return errors.UserError(
        f"'{file.path}': {name} is {messages.shorten(found)}; accepted: {accepted}"
    )


def read_values(frame: Frame) -> Float32[np.ndarray, "rows columns"]:
    """The values of a frame, with its slope and intercept.

    Raises:
      UserError: the pixels cannot be unpacked.
    """
    stored = dicom_pixels.decode(frame.file, frame.layout)[frame.number]
    return dicom_pixels.to_values(stored, frame.layout, frame.slope, frame.intercept)
