"""Scan space <-> the template's space: an affine map found by SimpleITK, or the header's own.

`affine` maximises the mutual information (Mattes) of the brain and the ICBM152 T1 brain, from the
best of all poses (`pose.py`), first over rigid, then over all twelve parameters, coarse to fine; it
is the same to the bit on every run (one thread, a fixed seed). `none` takes the scan's mm for the
template's, as for data that were distributed in MNI space. A template of the user's own
(`target.py`) may stand in for ICBM152.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64
from scipy import ndimage

from madad_jax.core import atomic_files, errors, json_file
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import itk, pose, resample, template_files, volumes
from madad_jax.scans import target as target_lib

METHODS = ("none", "affine")
# Below, the scan is not where it should be; well-registered whole brains reach 0.9 and more.
_LEAST_OVERLAP = 0.6
_CHECKS = ("overlap", "agreement", "rival")
_UPRIGHT = 25.0  # Degrees from which the climb finds the right optimum by itself.
_MARGIN = 16  # Voxels around a brain.
_ASTRAY = 0.02  # Nats that the affine map may lack against the best rigid pose.


@dataclasses.dataclass(frozen=True)
class Transform:
    """scan mm -> mm of the template, which is ICBM152 or one that the user gave.

    Attributes:
      matrix: of homogeneous points (x, y, z, 1).
      method: how it was found, one of `METHODS`.
      overlap: Dice of the moved brain mask and the template's, a check; nan where not taken.
      agreement: mutual information of the moved brain and the template on 8 mm voxels, nats; nan
        where not taken. Brains are egg-shaped: their overlap is high at any angle, this is not.
        Of `none`, that of the best pose nearby, if it is higher.
      rival: the agreement at the best pose that is turned by more than 25 degrees from this one.
      template: its name.
    """

    matrix: Float64[np.ndarray, "4 4"]
    method: str
    overlap: float = float("nan")
    agreement: float = float("nan")
    rival: float = float("nan")
    template: str = geometry_lib.ICBM152

    @property
    def volume_ratio(self) -> float:
        """ml in the template's space per ml in the scan."""
        return abs(float(np.linalg.det(self.matrix[:3, :3])))

    def to_template(
        self,
        array: np.ndarray,
        volume: volumes.Volume,
        *,
        order: int = 1,
        grid: geometry_lib.VoxelGrid = geometry_lib.TEMPLATE_GRID,
        thickness: float | None = None,
    ) -> np.ndarray:
        """An array on the volume's canonical grid, seen on `grid` (ICBM152 at 1 mm).

        Args:
          array: [X, Y, Z] of `volume`: its data, a mask or a map.
          volume: says where the array lies.
          order: see `resample.resample`.
          grid: voxels of ICBM152 space.
          thickness: see `resample.resample`.
        """
        source = geometry_lib.VoxelGrid(array.shape, volume.affine)
        to_scan = np.linalg.inv(self.matrix)
        return resample.resample(array, source, grid, to_scan, order=order, thickness=thickness)

    def to_scan(
        self,
        array: np.ndarray,
        volume: volumes.Volume,
        *,
        order: int = 1,
        grid: geometry_lib.VoxelGrid = geometry_lib.TEMPLATE_GRID,
    ) -> np.ndarray:
        """An array on `grid` in ICBM152 space, seen on the volume's canonical grid."""
        target = geometry_lib.VoxelGrid(volume.data.shape, volume.affine)
        return resample.resample(array, grid, target, self.matrix, order=order)

    def to_scan_inside(
        self,
        arrays: Sequence[tuple[np.ndarray, int]],
        volume: volumes.Volume,
        grid: geometry_lib.VoxelGrid,
        inside: Bool[np.ndarray, "X Y Z"],
    ) -> list[np.ndarray]:
        """`to_scan` of (array, order 0 or 1) pairs at once where `inside` is true, 0 elsewhere."""
        target = geometry_lib.VoxelGrid(volume.data.shape, volume.affine)
        return resample.resample_inside(arrays, grid, target, self.matrix, inside)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        checks = {name: getattr(self, name) for name in _CHECKS}
        return {
            "from": "scan mm (RAS+)",
            "to": f"{self.template} mm (RAS+)",
            "method": self.method,
            **{name: None if np.isnan(x) else round(x, 4) for name, x in checks.items()},
            "matrix": self.matrix.tolist(),
        }

    def save(self, path: epath.PathLike) -> None:
        """Writes `to_dict` as JSON."""
        atomic_files.write_bytes(
            epath.Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode()
        )


def load(path: epath.PathLike) -> Transform:
    """Reads what `Transform.save` wrote.

    Raises:
      UserError: no such file, or it holds something else.
    """
    values = json_file.read_object(path)
    try:
        matrix = np.array(values["matrix"], np.float64)
        usable = matrix.shape == (4, 4) and np.isfinite(matrix).all()
        usable = usable and abs(np.linalg.det(matrix)) > 1e-6
        found = {name: values.get(name) for name in _CHECKS}
        # Files of older versions have the overlap alone.
        checks = {name: float("nan") if x is None else float(x) for name, x in found.items()}
    except (ValueError, KeyError, TypeError, OverflowError):
        usable = False
    if not usable:
        raise errors.UserError(f"'{path}' is no transform; accepted: JSON with a 4 x 4 'matrix'")
    return Transform(matrix, str(values.get("method", "")), **checks)


def register(
    volume: volumes.Volume,
    method: str = "affine",
    *,
    brain: Bool[np.ndarray, "X Y Z"] | None = None,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    target: target_lib.Target | None = None,
) -> Transform:
    """The map from the scan to the template.

    Args:
      volume: the scan.
      method: `none` or `affine`.
      brain: the brain in the scan; `affine` needs it (skulls differ more than brains do).
      shift: mm added to the scan's coordinates before anything else (`none`: the whole map), for
        data whose headers count from a corner, as BraTS' do.
      target: the template; None: ICBM152.

    Raises:
      UserError: unknown method, or the brain cannot be brought onto the template.
    """
    if method not in METHODS:
        raise errors.UserError(f"registration: found '{method}', accepted: {', '.join(METHODS)}")
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    name = target.name if target else geometry_lib.ICBM152
    transform = Transform(matrix, method, template=name)
    if brain is None:
        if method == "affine":
            raise ValueError("affine registration needs the brain mask")
        return transform
    target = target or builtin_target()
    pair = _make_pair(target.enlarge(volume), brain, target)
    if method == "affine":
        found = _find_affine(volume, pair, target)
        matrix = target.reduce_map(found.matrix)
    else:
        found = _judge(target.enlarge_map(matrix), pair)
    transform = dataclasses.replace(
        transform, matrix=matrix, agreement=found.agreement, rival=found.rival
    )
    overlap = _measure_overlap(transform, volume, brain, target)
    if overlap < _LEAST_OVERLAP:
        space = "MNI" if name == geometry_lib.ICBM152 else "its"
        hint = f" (is it in {space} space? try --registration=affine)" * (method == "none")
        raise errors.UserError(
            f"'{volume.source}' does not lie on {name} after registration '{method}': its brain "
            f"mask and the template's have a Dice of {overlap:.2f}, at least {_LEAST_OVERLAP} is "
            f"needed{hint}"
        )
    return dataclasses.replace(transform, overlap=overlap)


def builtin_target() -> target_lib.Target:
    """ICBM152, for scans whose user gave no template."""
    return target_lib.Target(*template_brain())


@functools.lru_cache(maxsize=1)
def template_brain() -> tuple[np.ndarray, np.ndarray, geometry_lib.VoxelGrid]:
    """ICBM152 T1 of the brain (float32, [0, 1]) and its mask at 2 mm, from the nilearn wheel."""
    image = template_files.read_t1()
    brain = template_files.find_brain(image)
    halves = [_halve(a.astype(np.float32)) for a in (image * brain, brain)]
    affine = geometry_lib.TEMPLATE_GRID.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    # The middle of two voxels of 1 mm lies half a millimetre beyond the first.
    affine[:3, 3] += 0.5
    return halves[0], halves[1] >= 0.5, geometry_lib.VoxelGrid(halves[0].shape, affine)


def _halve(array: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 x 2 voxels; an odd last voxel (empty in the template) is dropped."""
    x, y, z = (n // 2 for n in array.shape)
    return array[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Template and scan as the optimiser sees them: the brains alone, cubes of 2 mm."""

    fixed: np.ndarray
    fixed_brain: np.ndarray
    gate: np.ndarray
    fixed_grid: geometry_lib.VoxelGrid
    moving: np.ndarray
    moving_brain: np.ndarray
    grid: geometry_lib.VoxelGrid


def _make_pair(volume: volumes.Volume, brain: np.ndarray, target: target_lib.Target) -> _Pair:
    grid = target_lib.box_around(volume, brain)
    source = geometry_lib.VoxelGrid(volume.data.shape, volume.affine)
    # Mutual information counts 32 bins: a few bright vessels would leave all tissue in one.
    low, high = np.percentile(volume.data[brain], (1.0, 99.0))
    if high <= low:
        raise errors.UserError(f"'{volume.source}' is constant inside the brain ({low:g})")
    # What is 0 all around need not be smoothed and sampled.
    box, source = _cut_around(brain, source)
    brain = brain[box]
    scaled = np.where(brain, np.clip((volume.data[box] - low) / (high - low), 0.0, 1.0), 0.0)
    return _Pair(
        fixed=target.image,
        fixed_brain=target.brain,
        # 8 mm beyond the template's brain, so that the metric sees where the scan's brain ends.
        gate=ndimage.binary_dilation(target.brain, iterations=4),
        fixed_grid=target.enlarged_grid,
        moving=resample.resample(scaled, source, grid, np.eye(4), order=1),
        moving_brain=resample.resample(brain.astype(np.float32), source, grid, np.eye(4), order=1),
        grid=grid,
    )


def _find_affine(volume: volumes.Volume, pair: _Pair, target: target_lib.Target) -> Transform:
    """scan -> template in the pair's mm by mutual information, from the best of all poses."""
    metric = pose.Metric(pair.fixed, pair.gate, pair.fixed_grid, pair.moving, pair.grid)
    poses = pose.find(metric, pair.fixed_brain, pair.fixed_grid, pair.moving_brain, pair.grid)
    try:
        found = None
        # The centres' line-up alone is as good a start where the head is hardly turned.
        starts = [None, poses[0]] if poses[0].angle <= _UPRIGHT else [poses[0]]
        for start in starts:
            to_scan = _climb(pair, start)
            agreement = metric.measure(to_scan)
            if found is None or agreement > found[1]:
                found = to_scan, agreement
            # Twelve parameters reach more than six, unless the climb went astray.
            if agreement >= poses[0].score - _ASTRAY:
                break
    except RuntimeError as error:  # What ITK raises when brain and template do not meet.
        reason = str(error).strip().splitlines()[-1]
        raise errors.UserError(
            f"'{volume.source}' cannot be registered to {target.name}: {reason}"
        ) from error
    to_scan, agreement = found
    return Transform(
        np.linalg.inv(to_scan),
        "affine",
        agreement=agreement,
        rival=pose.best_scores(poses, to_scan)[1],
    )


def _judge(matrix: np.ndarray, pair: _Pair) -> Transform:
    """A map that was given, with what it agrees in, and whether another pose agrees better."""
    metric = pose.Metric(pair.fixed, pair.gate, pair.fixed_grid, pair.moving, pair.grid)
    poses = pose.find(metric, pair.fixed_brain, pair.fixed_grid, pair.moving_brain, pair.grid)
    to_scan = np.linalg.inv(matrix)
    near, rival = pose.best_scores(poses, to_scan)
    # Its poses were refined and this map was not: a nearby one stands for it.
    agreement = max(metric.measure(to_scan), near)
    return Transform(matrix, "none", agreement=agreement, rival=rival)


def _climb(pair: _Pair, start: pose.Pose | None) -> np.ndarray:
    """template mm -> scan mm from a pose (None: the scan as it lies), rigid and then affine."""
    sitk = itk.load()
    images = [
        make_image(sitk, a, g) for a, g in ((pair.fixed, pair.fixed_grid), (pair.moving, pair.grid))
    ]
    masks = [
        make_image(sitk, a.astype(np.float32), g)
        for a, g in ((pair.fixed_brain, pair.fixed_grid), (pair.moving_brain, pair.grid))
    ]
    gate = make_image(sitk, pair.gate.astype(np.float32), pair.fixed_grid)
    gate = sitk.Cast(gate, sitk.sitkUInt8)
    if start is None:
        # By the masks' moments and not the images': contrasts differ, brains do not.
        rigid = sitk.CenteredTransformInitializer(
            *masks, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    else:
        rigid = sitk.Euler3DTransform()
        rigid.SetCenter(start.centre.tolist())
        rigid.SetMatrix(start.rotation.ravel().tolist())
        rigid.SetTranslation((start.place - start.centre).tolist())
    # Six parameters first: twelve from a poor start find shears that no head has.
    rigid = maximise(sitk, *images, gate, rigid, levels=(4, 2))
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    found = maximise(sitk, *images, gate, affine, levels=(4, 2, 1))
    # ITK's transform goes from the fixed image (the template) to the moving one (the scan).
    return itk.read_matrix(found)


def _cut_around(
    brain: np.ndarray, grid: geometry_lib.VoxelGrid
) -> tuple[tuple[slice, ...], geometry_lib.VoxelGrid]:
    """The box of the brain with a margin as wide as any smoothing reaches, and its own grid."""
    box = tuple(
        slice(max(s.start - _MARGIN, 0), s.stop + _MARGIN)
        for s in ndimage.find_objects(brain.view(np.uint8))[0]
    )
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    return box, geometry_lib.VoxelGrid(brain[box].shape, affine)


def make_image(sitk: Any, array: np.ndarray, grid: geometry_lib.VoxelGrid) -> Any:
    """An ITK image of an array on cubes along the axes."""
    return itk.image(sitk, array, np.diag(grid.affine)[:3], grid.affine[:3, 3])


def maximise(
    sitk: Any, fixed: Any, moving: Any, gate: Any, start: Any, *, levels: tuple[int, ...]
) -> Any:
    """Gradient ascent of the mutual information from `start`, which is moved and given back.

    Args:
      sitk: the module.
      fixed, moving: ITK images.
      gate: ITK image, not 0 where `fixed` is looked at.
      start: ITK transform, mm of `fixed` -> mm of `moving`.
      levels: factors by which voxels are joined, one after the other.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, seed=1)  # Regular points are jittered.
    method.SetMetricFixedMask(gate)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0,
        minStep=0.01,
        numberOfIterations=100,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(list(levels))
    method.SetSmoothingSigmasPerLevel([0.5 * n for n in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)
    return start


def _measure_overlap(
    transform: Transform, volume: volumes.Volume, brain: np.ndarray, target: target_lib.Target
) -> float:
    """Dice of the moved brain and the template's."""
    wanted = target.brain
    moved = transform.to_template(brain, volume, order=0, grid=target.grid)
    return 2.0 * float((moved & wanted).sum()) / max(int(moved.sum() + wanted.sum()), 1)
