"""The headers that a DICOM object made from a scan refers to, as its writer and its readers need.

An object (segmentation, parametric map) says of each frame which image of the scan it shows. It
takes person, study and place in space from those images. What readers make of its place depends on
digits (findings/dicom_seg_spacing_of_one.sh): at rounded positions SimpleITK gives up the spacing,
and a rounded step moves slices in dcm2niix. So the headers get even positions and the true step.
They are copies: no file of the scan is touched.
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator

import numpy as np
import pydicom
from etils import epath
from jaxtyping import Float64, Shaped
from pydicom import uid, valuerep

from madad_jax.core import errors
from madad_jax.scans import dicom

# Between the scan's place and the rectangular grid that objects have. A sheared series (a tilted
# gantry) is centimetres off; positions with one decimal are 0.07 mm off.
_MOST_MM = 0.1
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality")
# Empty where the scan has none: the standard wants them, and allows that they are not known.
_MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
)
_SINGLE = (uid.MRImageStorage, uid.CTImageStorage, uid.SecondaryCaptureImageStorage)
_MULTI = (
    uid.EnhancedMRImageStorage,
    uid.LegacyConvertedEnhancedMRImageStorage,
    uid.EnhancedCTImageStorage,
    uid.LegacyConvertedEnhancedCTImageStorage,
)
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "madad_jax: objects made from a scan")


@dataclasses.dataclass(frozen=True)
class Sources:
    """What an object is made from.

    Attributes:
      images: headers without pixels: one a slice in the stack's order, or one multi-frame image.
      order: of each slice of the stack, its number among the frames that an object is given.
      affine: of the object's grid, from (column, row, slice) to mm (RAS+).
      notes: what a person should know of the object, a sentence each.
    """

    images: list[pydicom.Dataset]
    order: list[int]
    affine: Float64[np.ndarray, "4 4"]
    notes: tuple[str, ...]

    def to_frames(
        self, array: Shaped[np.ndarray, "columns rows slices"]
    ) -> Shaped[np.ndarray, "slices rows columns"]:
        """An array on the scan's own grid in the order in which an object takes its frames."""
        frames = np.empty(array.shape[::-1], array.dtype)
        frames[self.order] = array.transpose(2, 1, 0)
        return frames


def read(folder: epath.Path, sha256: str, series: str = "") -> Sources:
    """The headers of the scan in a folder, chosen and ordered as `volumes.read` does.

    Args:
      folder: of the scan's files.
      sha256: of the files when the scan was read; "" = the caller knows that they are the same.
      series: SeriesInstanceUID, where the folder holds several.

    Raises:
      UserError: the folder has changed since, or no object can be made from its series.
    """
    stack = dicom.find_stack(folder, series)
    if sha256 and stack.sha256 != sha256:
        raise errors.UserError(f"'{folder}' has changed since the scan was read; predict again")
    frames = stack.frames
    files = list(dict.fromkeys(frame.file for frame in frames))
    if len(files) != len(frames) and len(files) > 1:
        raise _refuse(folder, f"its {len(frames)} slices lie in {len(files)} multi-frame files")
    images = [file.dataset for file in files]
    with guard(folder):
        for image in images:
            _check(image, folder, _MULTI if len(images) == 1 else _SINGLE)
    if len({image.SOPInstanceUID for image in images}) < len(images):
        raise _refuse(folder, "several of its images share one SOPInstanceUID")
    if len(images) == 1 and frames[0].layout.frames != len(frames):
        raise _refuse(folder, "its multi-frame file holds frames beside the scan")
    affine, positions, step = _make_even(stack, folder)
    notes = []
    with guard(folder):
        if _fill(images, folder, stack.sha256):
            notes.append(
                "the scan names no frame of reference; the DICOM objects have one of their own, "
                "and lie in space by their source images alone"
            )
        order = [frame.number for frame in frames] if len(images) == 1 else list(range(len(images)))
        _place(images, order, positions, affine, step)
    return Sources(images, order, affine, tuple(notes))


def derive_uid(*words: str) -> str:
    """A UID that is the same for the same words: the UUID of their digest, as the standard has it
    (part 5, B.2)."""
    return f"2.25.{uuid.uuid5(_SPACE, chr(0).join(words)).int}"


@contextlib.contextmanager
def guard(folder: epath.Path) -> Iterator[None]:
    """Whatever is raised over a header's odd value becomes one line, without the value: it may
    name a person."""
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:  # Neither pydicom nor highdicom names a set of exceptions.
        kind = type(error).__name__
        raise _refuse(
            folder, f"a value of its headers is not as the standard wants it ({kind})"
        ) from error


def _refuse(folder: epath.Path, why: str) -> errors.UserError:
    return errors.UserError(f"'{folder.name}': no DICOM object can be made from it: {why}")


def _check(image: pydicom.Dataset, folder: epath.Path, classes: tuple[str, ...]) -> None:
    """Refuses what an object cannot refer to, and takes the pixels away."""
    missing = [name for name in _NEEDED if not image.get(name)]
    if missing:
        raise _refuse(
            folder, f"its images lack {', '.join(missing)}, which nobody may invent for them"
        )
    if image.SOPClassUID not in classes:
        name = uid.UID(image.SOPClassUID).name
        raise _refuse(folder, f"its images are of the class '{name}'")
    if str(image.get("PatientSex") or "") not in ("", "M", "F", "O"):
        raise _refuse(folder, "PatientSex is neither M, F, O nor empty")
    del image.PixelData


def _make_even(
    stack: dicom.Stack, folder: epath.Path
) -> tuple[Float64[np.ndarray, "4 4"], Float64[np.ndarray, "slices 3"], float]:
    """The rectangular grid nearest to the stack: its matrix (RAS+), positions (LPS), and step.

    Raises:
      UserError: the stack is sheared.
    """
    row, column = stack.orientation[:3], stack.orientation[3:]
    # Both turned by the same angle: readers refuse directions that are no right angle to 4 digits.
    slant = float(row @ column) / 2
    row, column = row - slant * column, column - slant * row
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    count = len(stack.positions)
    whole = float((stack.positions[-1] - stack.positions[0]) @ normal)
    step = float(f"{whole / (count - 1):.9g}")
    middle = (stack.positions[0] + stack.positions[-1]) / 2
    positions = middle + np.outer((np.arange(count) - (count - 1) / 2) * step, normal)
    even = dataclasses.replace(
        stack, orientation=np.concatenate([row, column]), positions=positions
    )
    rows, columns = stack.frames[0].layout.size
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * [
        columns - 1,
        rows - 1,
        count - 1,
        1,
    ]
    apart = np.linalg.norm(corners @ (even.affine - stack.affine).T, axis=1).max()
    if apart > _MOST_MM:
        raise _refuse(
            folder,
            f"its slices are sheared (each lies aside of the one before, not straight above it), "
            f"and readers of objects would place it up to {apart:.1f} mm off; the NIfTI files are "
            "in place",
        )
    return even.affine, positions, step


def _fill(images: list[pydicom.Dataset], folder: epath.Path, sha256: str) -> bool:
    """What the scan lacks and the standard wants; whether the frame of reference is new.

    Raises:
      UserError: the images disagree about their frame of reference.
    """
    known = {str(image.get("FrameOfReferenceUID") or "") for image in images}
    if len(known) > 1:
        raise _refuse(folder, "its images are of several frames of reference")
    new = known == {""}
    for image in images:
        if new:
            image.FrameOfReferenceUID = derive_uid("frame of reference", sha256)
        for name in _MAY_BE_EMPTY:
            if name not in image:
                setattr(image, name, "")
    return new


def _place(
    images: list[pydicom.Dataset],
    order: list[int],
    positions: Float64[np.ndarray, "slices 3"],
    affine: Float64[np.ndarray, "4 4"],
    step: float,
) -> None:
    """Writes one orientation, even positions and the step into the headers."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :2]
    spacing = np.linalg.norm(lps, axis=0)
    orientation = [_number(v) for v in (lps / spacing).T.ravel()]
    texts = [[_number(v) for v in position] for position in positions]
    measures = pydicom.Dataset()
    measures.PixelSpacing = [_number(spacing[1]), _number(spacing[0])]
    measures.SpacingBetweenSlices = _number(step)
    if len(images) > 1:
        for image, position in zip(images, texts, strict=True):
            image.ImageOrientationPatient, image.ImagePositionPatient = orientation, position
            image.update(measures)
            if not image.get("SliceThickness"):
                image.SliceThickness = _number(step)
        return
    (image,) = images
    if not image.get("SharedFunctionalGroupsSequence"):
        image.SharedFunctionalGroupsSequence = [pydicom.Dataset()]
    shared, frames = image.SharedFunctionalGroupsSequence[0], image.PerFrameFunctionalGroupsSequence
    known = [g.PixelMeasuresSequence[0] for g in (shared, *frames) if "PixelMeasuresSequence" in g]
    measures.SliceThickness = next((m.SliceThickness for m in known if m.get("SliceThickness")),
                                   _number(step))  # fmt: skip
    plane = pydicom.Dataset()
    plane.ImageOrientationPatient = orientation
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    for number, position in zip(order, texts, strict=True):
        frame = frames[number]
        # What the shared group says holds for all; a frame's own would be read before it.
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            if name in frame:
                del frame[name]
        place = pydicom.Dataset()
        place.ImagePositionPatient = position
        frame.PlanePositionSequence = [place]


def _number(value: float) -> valuerep.DSfloat:
    """A decimal string of at most 16 characters, which is all that the standard allows."""
    return valuerep.DSfloat(float(value), auto_format=True)
