"""One DICOM series as an array: single-frame files or one enhanced multi-frame file.

Slices are ordered by their position along the normal of the image plane, never by file name or
instance number. Positions must be evenly spaced on a line: a missing slice would shift all anatomy
behind it. Nothing that identifies a person is kept.
"""

import collections
import dataclasses
import itertools
import math

import numpy as np
from etils import epath
from jaxtyping import Float32, Float64

from madad_jax.core import errors, messages
from madad_jax.scans import dicom_files, dicom_frames, dicom_pixels

# So many parallel images make a series a scan; a localizer has fewer in each direction.
_LEAST = 8
_MOST_GROUPS = 256  # Series and orientations in a folder; each image is held against each.
_UNEVEN = 0.1  # Of the slice distance, between neighbours; positions are written with few digits.
_BESIDE = 0.25  # Of a voxel, from the line of first and last: less than a resampling moves.
_PARALLEL = 1e-3
_MOST_VOXELS = 2**30  # As for NIfTI: beyond any head scan.
# DICOM's x grows to the subject's left and its y to the back; ours to the right and the front.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

_Frames = list[dicom_frames.Frame]


@dataclasses.dataclass(frozen=True)
class Stack:
    """The slices of the one scan in a folder; their pixels are not unpacked.

    Attributes:
      frames: ordered along the normal of the image plane (row x column).
      orientation: directions of a row and of a column, unit vectors, of all frames.
      spacing: mm between rows, between columns.
      positions: of each frame's first pixel, mm (DICOM's axes: left, back, up).
      sha256: of the digests of all files in the folder, sorted.
      notes: a sentence for each kind of file that was left out.
    """

    frames: list[dicom_frames.Frame]
    orientation: Float64[np.ndarray, " 6"]
    spacing: Float64[np.ndarray, " 2"]
    positions: Float64[np.ndarray, "slices 3"]
    sha256: str
    notes: tuple[str, ...]

    @property
    def affine(self) -> Float64[np.ndarray, "4 4"]:
        """The matrix from (column, row, slice) to mm (RAS+)."""
        matrix = np.eye(4)
        # PixelSpacing is (between rows, between columns): the second belongs to the first axis.
        matrix[:3, 0] = _LPS_TO_RAS @ self.orientation[:3] * self.spacing[1]
        matrix[:3, 1] = _LPS_TO_RAS @ self.orientation[3:] * self.spacing[0]
        # Over the whole stack: single steps carry the rounding of positions with few digits.
        whole = self.positions[-1] - self.positions[0]
        matrix[:3, 2] = _LPS_TO_RAS @ whole / (len(self.positions) - 1)
        matrix[:3, 3] = _LPS_TO_RAS @ self.positions[0]
        return matrix


def find_stack(folder: epath.Path, series: str = "") -> Stack:
    """The slices of the one series in a folder (`dicom_files.list_files`).

    Args:
      folder: of the files.
      series: SeriesInstanceUID; others are left out. "" = there is one.

    Raises:
      UserError: no DICOM images, several series, several images at one position (a series of
        volumes), uneven positions, colour, damage, or a kind that is not read.
    """
    found = dicom_files.read_folder(folder, series)
    frames, notes = _choose(found, folder)
    frames, copies = _drop_copies(frames)
    if len(frames) < 2:
        raise errors.UserError(
            f"'{folder}' has {len(frames)} DICOM image; accepted: a whole series"
        )
    rows, columns = frames[0].layout.size
    if rows * columns * len(frames) > _MOST_VOXELS:
        raise errors.UserError(
            f"'{folder}' has {len(frames)} images of {rows} x {columns} pixels; accepted: at most "
            f"{_MOST_VOXELS} in all"
        )
    # Before they are sorted: the first of the files says it for all.
    orientation, spacing = frames[0].orientation, frames[0].spacing
    normal = np.cross(orientation[:3], orientation[3:])
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.stack([frame.position for frame in frames])
    try:
        _check_steps(positions @ normal, frames, folder)
        _check_line(positions, normal, float(spacing.min()), frames)
    except errors.UserError as error:
        # What is missing may be what was left out.
        raise errors.UserError("; ".join([str(error), *notes[:3]])) from error
    all_notes = (*found.notes, *notes, *copies)
    return Stack(frames, orientation, spacing, positions, found.sha256, all_notes)


def read_values(stack: Stack) -> Float32[np.ndarray, "columns rows slices"]:
    """The values of a stack, with slope and intercept.

    Raises:
      UserError: a compression that cannot be read, or damaged pixels.
    """
    # Pixels are [row, column]; the first axis of a volume is the column, as in NIfTI.
    array = np.empty((len(stack.frames), *stack.frames[0].layout.size), np.float32)
    for k, frame in enumerate(stack.frames):
        array[k] = dicom_frames.read_values(frame)
    return array.transpose(2, 1, 0)


def _choose(found: dicom_files.Folder, folder: epath.Path) -> tuple[_Frames, list[str]]:
    """The frames of the one scan in a folder, and what was left out.

    Raises:
      UserError: none or several, or a file of the scan's own series is damaged.
    """
    scans, others = _split_kinds(found, folder)
    groups, failed = _group(scans, folder)
    large = [group for group in groups if len(group) >= _LEAST]
    if len(large) != 1 and len(groups) > 1:
        raise _several(large or groups, folder)
    chosen = large[0] if large else groups[0]
    for file, error in failed:
        if _may_be_slice(file, chosen[0]):
            raise error
    for file in others:
        if file.kind == dicom_files.BARE and file.series == chosen[0].file.series:
            raise errors.UserError(f"'{file.path}' is a damaged DICOM file: no pixels")
    for _, content, why in found.unreadable:
        # As heavy as a slice, or it names the series: one that is damaged, and not a note.
        if len(content) >= _bytes(chosen[0].file) or chosen[0].file.series.encode() in content:
            raise errors.UserError(why)
    notes = dicom_files.notes_on(others)
    notes += [f"left out: {_describe(group)}" for group in groups if group is not chosen]
    # Where the folder lies is nobody's business who gets the results.
    odd = [*(str(error) for _, error in failed), *(why for _, _, why in found.unreadable)]
    notes += [f"left out: {why.replace(f'{folder}/', '')}" for why in odd]
    return chosen, notes


def _group(
    scans: list[dicom_files.File], folder: epath.Path
) -> tuple[list[_Frames], list[tuple[dicom_files.File, errors.UserError]]]:
    """(frames by series and grid, files that are damaged and why)."""
    groups: list[_Frames] = []
    failed: list[tuple[dicom_files.File, errors.UserError]] = []
    for file in scans:
        try:
            frames = dicom_frames.list_frames(file)
        except errors.UserError as error:
            failed.append((file, error))
            continue
        for frame in frames:
            _join(groups, frame)
            if len(groups) > _MOST_GROUPS:
                raise _several(groups, folder)
    if not groups:
        raise failed[0][1]
    return groups, failed


def _may_be_slice(file: dicom_files.File, frame: dicom_frames.Frame) -> bool:
    """Whether a damaged file is of the scan, by its series and size, as far as it says them."""
    if file.series != frame.file.series:
        return False
    try:
        size = (int(file.dataset.Rows), int(file.dataset.Columns))
    except Exception:  # It is damaged already: nothing more to learn.
        return True
    return size == frame.layout.size or _bytes(file) == _bytes(frame.file)


def _bytes(file: dicom_files.File) -> int:
    return len(file.dataset["PixelData"].value or b"")


def _split_kinds(
    found: dicom_files.Folder, folder: epath.Path
) -> tuple[list[dicom_files.File], list[dicom_files.File]]:
    """(images of scans, the other DICOM files)."""
    scans = [file for file in found.files if not file.kind]
    if not scans:
        # Programs of research write whole scans as captures: taken where nothing else is.
        scans = [
            file
            for file in found.files
            if file.kind == dicom_files.CAPTURE and "ImagePositionPatient" in file.dataset
        ]
    taken = {id(file) for file in scans}
    others = [file for file in found.files if id(file) not in taken]
    if scans:
        return scans, others
    if found.unreadable:
        raise errors.UserError(found.unreadable[0][2])
    what = "".join(f"; {note}" for note in dicom_files.notes_on(others))
    raise errors.UserError(
        f"'{folder}' has no DICOM images among its {found.count} files{what}; accepted: a NIfTI "
        "file or a folder with one DICOM series (MR or CT)"
    )


def _join(groups: list[_Frames], frame: dicom_frames.Frame) -> None:
    """Puts a frame to those of its series that lie parallel on one grid."""
    for group in groups:
        first = group[0]
        if (
            first.file.series == frame.file.series
            and first.layout.size == frame.layout.size
            and np.allclose(frame.orientation, first.orientation, atol=_PARALLEL)
            and np.allclose(frame.spacing, first.spacing, rtol=_PARALLEL)
        ):
            group.append(frame)
            return
    groups.append([frame])


def _several(groups: list[_Frames], folder: epath.Path) -> errors.UserError:
    shown = "; ".join(_describe(group) for group in groups[:8])
    more = f"; and {len(groups) - 8} more" if len(groups) > 8 else ""
    count = len({group[0].file.series for group in groups})
    if count > 1:
        return errors.UserError(
            f"'{folder}' has {count} DICOM series; accepted: one a folder (found {shown}{more})"
        )
    return errors.UserError(
        f"'{folder}' holds images of different size, spacing or orientation (a localizer?); "
        f"accepted: parallel slices of one grid (found {shown}{more})"
    )


def _describe(group: _Frames) -> str:
    """Number, description and count of a series, so that a person knows which it is."""
    file = group[0].file
    rows, columns = group[0].layout.size
    return (
        f"{file.title}, {len(group)} image{'s' if len(group) > 1 else ''} of "
        f"{rows} x {columns}, first '{messages.shorten(file.path.name)}'"
    )


def _drop_copies(frames: _Frames) -> tuple[_Frames, list[str]]:
    """The frames, each once, and a sentence on the files that came twice.

    Raises:
      UserError: two files say that they are the same image, and are not.
    """
    of_file = collections.defaultdict(list)
    for frame in frames:
        of_file[frame.file].append(frame)
    shared_uids = collections.Counter(file.uid for file in of_file)
    shared_places = collections.Counter(frame.place for frame in frames)
    # Some programs that take names out write one UID into all files: then it says nothing.
    same = len(of_file) > 2 and len(shared_uids) == 1
    seen: set[tuple] = set()
    named: dict[str, dicom_files.File] = {}
    dropped = []
    for file, inside in of_file.items():
        places = tuple(frame.place for frame in inside)
        # Pixels are compared only where something else is the same already.
        if shared_uids[file.uid] < 2 and max(shared_places[place] for place in places) < 2:
            continue
        content = (places, dicom_pixels.digest(file, inside[0].layout))
        if content in seen:
            dropped.append(file)
        elif file.uid in named and file.uid and not same:
            raise errors.UserError(
                f"'{file.path}' and '{named[file.uid].path.name}' are the same image by their "
                f"UID ({messages.shorten(file.uid, 64)}), and their content differs; keep one"
            )
        seen.add(content)
        named.setdefault(file.uid, file)
    if not dropped:
        return frames, []
    note = f"left out, copies of other files: {dicom_files.names([f.path for f in dropped])}"
    return [frame for frame in frames if frame.file not in dropped], [note]


def _check_steps(heights: Float64[np.ndarray, " n"], frames: _Frames, folder: epath.Path) -> None:
    """Refuses several images at one height, and heights that are not evenly spaced."""
    steps = np.diff(heights)
    if (steps < 1e-3).any():
        raise errors.UserError(
            f"'{folder}' has {int((steps < 1e-3).sum()) + 1} or more images at one position; "
            "accepted: one volume (split echoes, b-values and time points into folders)"
        )
    usual = _usual(steps)
    uneven = np.abs(steps - usual) > _UNEVEN * usual
    even = np.linspace(heights[0], heights[-1], len(heights))
    # Fine slices whose positions were rounded: the next step makes good what this one lacks. Behind
    # a slice that is missing or one too many everything lies half a step off or more.
    near = np.abs(heights - even).max() <= _BESIDE * (even[1] - even[0])
    if near or not uneven.any():
        return
    wide = uneven & (steps > usual)
    worst = int((np.where(wide, steps, 0.0) if wide.any() else -steps).argmax())
    why = "a slice is missing" if wide.any() else "an image lies between two slices"
    more = f" (and {uneven.sum() - 1} more such)" if uneven.sum() > 1 else ""
    before, after = (messages.shorten(frames[worst + i].file.path.name) for i in (0, 1))
    raise errors.UserError(
        f"'{folder}': slices {worst + 1} and {worst + 2} of {len(heights)} ('{before}' and "
        f"'{after}') lie {steps[worst]:.2f} mm apart, the others {usual:.2f} mm: {why}{more}"
    )


def _usual(steps: Float64[np.ndarray, " n"]) -> float:
    """The distance of neighbours where nothing is missing."""
    middle = float(np.median(steps))
    if (np.abs(steps - middle) <= _UNEVEN * middle).mean() >= 0.75:
        return middle
    # Slices that are gone leave wide steps: the smallest that occurs twice is the scanner's.
    rising = np.sort(steps)
    for small, next_one in itertools.pairwise(rising):
        if next_one - small <= _UNEVEN * small:
            return float(small)
    return middle


def _check_line(
    positions: Float64[np.ndarray, "n 3"],
    normal: Float64[np.ndarray, " 3"],
    pixel: float,
    frames: _Frames,
) -> None:
    """Refuses a slice beside the line from the first to the last: the matrix cannot say it.

    A constant step in the plane (a sheared stack) is such a line, and exact.
    """
    share = np.linspace(0.0, 1.0, len(positions))[:, None]
    beside = positions - (positions[0] + share * (positions[-1] - positions[0]))
    along = beside @ normal
    across = np.linalg.norm(beside - along[:, None] * normal, axis=1)
    distance = abs(float((positions[-1] - positions[0]) @ normal)) / (len(positions) - 1)
    voxels = np.maximum(across / pixel, np.abs(along) / distance)
    worst = int(voxels.argmax())
    if not voxels[worst] <= _BESIDE:
        raise errors.UserError(
            f"'{frames[worst].file.path}' (slice {worst + 1} of {len(frames)}) lies "
            f"{math.hypot(across[worst], along[worst]):.2f} mm beside the line from the first "
            f"slice to the last; accepted: at most {_BESIDE:g} of a voxel"
        )
