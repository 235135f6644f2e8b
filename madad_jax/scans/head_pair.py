"""Two scans of one head: the rigid motion between them, and a grid halfway.

Each scan is registered to the other, both ways alike, and the middle of the two motions is taken.
So no visit is the yardstick: the visits exchanged give the motion back. How far the two ways lie
apart says how well the motion is known.

A way starts at the best of all poses of the brains (`pose.py`) and climbs the mutual information
of the heads around the brain, rigid alone: two visits of one head differ by no shear.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import itk, pose, registration, resample, rigid_motion, target, volumes

_COARSE = 2.0  # mm, of the pose search
_FINE = 1.0  # mm, at most so fine does the climb look
_AROUND = 5.0  # mm of the head beyond the brain, whose edge tells most
_STEP_POINTS = 4  # voxels between those over which distances are averaged
_DETAIL = (1.5, 8.0)  # mm, sigmas between which folds and ventricles lie
_LEAST_BRAIN_ML = 50.0


@dataclasses.dataclass(frozen=True)
class Head:
    """A scan and the brain in it.

    Attributes:
      volume: the scan.
      brain: on its canonical grid.
    """

    volume: volumes.Volume
    brain: Bool[np.ndarray, "X Y Z"]

    @property
    def grid(self) -> geometry_lib.VoxelGrid:
        """The scan's voxels."""
        return geometry_lib.VoxelGrid(self.volume.data.shape, self.volume.affine)


@dataclasses.dataclass(frozen=True)
class Match:
    """How two heads lie to each other.

    Attributes:
      motion: mm of the first -> mm of the second.
      disagreement_mm: mean distance of the brain's points between the ways there and back.
    """

    motion: Float64[np.ndarray, "4 4"]
    disagreement_mm: float


def register(first: Head, second: Head) -> Match:
    """The rigid motion from the first head to the second.

    Raises:
      UserError: a brain of less than 50 ml, a scan that is constant in it, or brains that do not
        meet.
    """
    for head in (first, second):
        ml = float(head.brain.sum()) * head.volume.voxel_ml
        if ml < _LEAST_BRAIN_ML:
            raise errors.UserError(
                f"'{head.volume.source}': {ml:.0f} ml of brain were scored; accepted: at least "
                f"{_LEAST_BRAIN_ML:g} ml, to bring two visits together"
            )
    there = _climb(first, second)
    back = rigid_motion.invert(_climb(second, first))
    motion = rigid_motion.find_middle(there, back)
    points = np.argwhere(first.brain)[:: _STEP_POINTS**3] @ first.volume.affine[:3, :3].T
    apart = rigid_motion.measure_distance(there, back, points + first.volume.affine[:3, 3])
    return Match(motion, apart)


def _climb(fixed: Head, moving: Head) -> np.ndarray:
    """mm of `fixed` -> mm of `moving`, by what is seen of `fixed`'s brain and 5 mm around it."""
    start = _find_pose(fixed, moving)
    sides = [*fixed.volume.voxel_mm, *moving.volume.voxel_mm]
    side = float(np.clip(min(sides), _FINE, _COARSE))
    scenes = [_look(head, side, alone=False) for head in (fixed, moving)]
    share = resample.resample(
        fixed.brain.astype(np.float32), fixed.grid, scenes[0][1], np.eye(4), order=1
    )
    near = ndimage.distance_transform_edt(share < 0.5, sampling=side) <= _AROUND
    sitk = itk.load()
    images = [registration.make_image(sitk, array, grid) for array, grid in scenes]
    gate = registration.make_image(sitk, near.astype(np.uint8), scenes[0][1])
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(start.centre.tolist())
    rigid.SetMatrix(start.rotation.ravel().tolist())
    rigid.SetTranslation((start.place - start.centre).tolist())
    levels = (4, 2, 1) if side < 1.5 else (2, 1)
    try:
        return itk.read_matrix(registration.maximise(sitk, *images, gate, rigid, levels=levels))
    except RuntimeError as error:  # What ITK raises when the two do not meet.
        reason = str(error).strip().splitlines()[-1]
        raise errors.UserError(
            f"'{moving.volume.source}' cannot be registered to '{fixed.volume.source}': {reason}"
        ) from error


def _find_pose(fixed: Head, moving: Head) -> pose.Pose:
    """The best of all poses, by the brains alone: necks and jaws bend."""
    (f, f_grid), (m, m_grid) = (_look(head, _COARSE, alone=True) for head in (fixed, moving))
    shares = [
        resample.resample(head.brain.astype(np.float32), head.grid, grid, np.eye(4), order=1)
        for head, grid in ((fixed, f_grid), (moving, m_grid))
    ]
    brain = shares[0] >= 0.5
    gate = ndimage.binary_dilation(brain, iterations=4)
    metric = pose.Metric(f, gate, f_grid, m, m_grid)
    return pose.find(metric, brain, f_grid, shares[1], m_grid)[0]


def _look(head: Head, side: float, *, alone: bool) -> tuple[np.ndarray, geometry_lib.VoxelGrid]:
    """The scan over [0, 1] on cubes of `side` mm around the brain; `alone`: 0 outside of it."""
    volume, brain = head.volume, head.brain
    low, high = np.percentile(volume.data[brain], (1.0, 99.0))
    if high <= low:
        raise errors.UserError(f"'{volume.source}' is constant inside the brain ({low:g})")
    scaled = np.clip((volume.data - low) / (high - low), 0.0, 1.0)
    grid = target.box_around(volume, brain, side)
    scaled = np.where(brain, scaled, 0.0) if alone else scaled
    return resample.resample(scaled, head.grid, grid, np.eye(4), order=1), grid


def make_grid(
    first: Head, second: Head, half: Float64[np.ndarray, "4 4"], side: float, margin: float = 5.0
) -> geometry_lib.VoxelGrid:
    """Cubes of `side` mm along the axes of the space halfway, around both brains.

    Args:
      first, second: the heads.
      half: mm of the first -> mm halfway, and from there to the second.
      side: mm.
      margin: mm around the brains.
    """
    places = []
    for head, motion in ((first, half), (second, rigid_motion.invert(half))):
        # The brain's outermost voxels along each axis of its own bound it along any other.
        rim = head.brain & ~ndimage.binary_erosion(head.brain)
        places.append(_move_voxels(motion @ head.volume.affine, np.argwhere(rim)))
    points = np.concatenate(places)
    # Whole multiples of the side: the visits exchanged give the very same grid.
    low = np.floor((points.min(0) - margin) / side) * side
    high = np.ceil((points.max(0) + margin) / side) * side
    affine = np.diag([side, side, side, 1.0])
    affine[:3, 3] = low
    return geometry_lib.VoxelGrid(tuple(int(n) for n in np.round((high - low) / side) + 1), affine)


def _move_voxels(matrix: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return voxels @ matrix[:3, :3].T + matrix[:3, 3]


def measure_likeness(
    first: Float32[np.ndarray, "X Y Z"],
    second: Float32[np.ndarray, "X Y Z"],
    inside: Bool[np.ndarray, "X Y Z"],
    side: float,
) -> float:
    """Correlation of the folds of two scans on one grid: 1 the same, 0 nothing in common.

    Both are seen between two blurs (1.5 and 8 mm), inside the mask alone: overall brightness, coil
    and the brain's outline say nothing about whose brain it is.

    Args:
      first, second: scans on cubes.
      inside: where both brains are.
      side: of a voxel, mm.
    """
    box = ndimage.find_objects(inside.view(np.uint8))
    if not box:
        return 0.0
    mask = inside[box[0]]
    parts = []
    for image in (first[box[0]], second[box[0]]):
        blurs = [_blur_inside(image, mask, sigma / side) for sigma in _DETAIL]
        part = (blurs[0] - blurs[1])[mask]
        parts.append(part - part.mean(dtype=np.float64))
    size = np.sqrt(np.square(parts[0]).sum() * np.square(parts[1]).sum())
    return float((parts[0] * parts[1]).sum() / size) if size > 0 else 0.0


def _blur_inside(image: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="constant", truncate=3.0)
    image = np.where(mask, image, np.float32(0.0))
    blurred = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0)
    return blurred / np.maximum(weight, 1e-6)
