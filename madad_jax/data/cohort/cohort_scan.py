"""A subject of the embedded cohort as a whole scan, as a scanner would store it.

Drawn from streams of their own, so nobody of train, val or test is among them. The grid may be
oblique and anisotropic and the head may lie anywhere in the scanner: what prediction on real scans
has to cope with. Skull-stripped, like the cohort's slices; everything about it is synthetic.
"""

import dataclasses

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float32, Float64

from madad_jax.data.cohort import appearance, cohort, random_fields
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import resample

_UNITS = 1000.0  # scanner units where the cohort's arbitrary scale has 1
_PIXEL_MM = 1.0
_FIELD_MM = 208.0


@dataclasses.dataclass(frozen=True)
class Grid:
    """How the scanner sees the head.

    Attributes:
      voxel_mm: voxel sides.
      angles: of the grid against the head, degrees about x, y, z.
      shift: of the head in the scanner, mm.
      lies_in_mni: the header tells the head's place; else it tells the scanner's, and only
        registration finds the head.
      flip: store the first axis from right to left, as many scanners do.
    """

    voxel_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lies_in_mni: bool = True
    flip: bool = False


@dataclasses.dataclass(frozen=True)
class Scan:
    """One drawn scan [X, Y, Z] and the truth on its grid; `affine` is the header's."""

    image: Float32[np.ndarray, "X Y Z"]
    segmentation: Bool[np.ndarray, "X Y Z"]
    affine: Float64[np.ndarray, "4 4"]

    def nifti(self) -> nib.Nifti1Image:
        """The image as a scanner stores it: int16."""
        return nib.Nifti1Image(np.round(self.image).astype(np.int16), self.affine)

    def truth(self) -> nib.Nifti1Image:
        """The lesion on the same grid."""
        return nib.Nifti1Image(self.segmentation.astype(np.uint8), self.affine)


def draw(
    index: int,
    *,
    modality: str,
    seed: int,
    lesion: tuple[str, str] | None = None,
    grid: Grid | None = None,
    levels: tuple[float, float, float] = (-60.0, 78.0, 2.0),
) -> Scan:
    """Draws a scan; the same arguments give the same bits.

    Args:
      index: which subject.
      modality: `T1`, `T2` or `FLAIR`.
      seed: of the cohort.
      lesion: (kind, size), see `lesions`; None: healthy.
      grid: the scanner's; 1 mm along the head's axes when None.
      levels: lowest and highest height and step of what is drawn, ICBM152 mm.

    Raises:
      UserError: unknown modality.
    """
    grid = grid or Grid()
    low, high, step = levels
    # The highest belongs to them, whatever the rounding.
    heights = tuple(np.arange(low, high + 1e-6, step).tolist())
    side = round(_FIELD_MM / _PIXEL_MM)
    split = "scan" if lesion else "scan-healthy"
    drawn = cohort.draw_parts(
        split,
        index,
        modality=modality,
        seed=seed,
        grid=random_fields.Grid(side, _FIELD_MM, heights),
        lesion=lesion,
    )
    here = geometry_lib.Geometry(side, _FIELD_MM, first_level=low, level_step=step)
    source = here.grid(range(len(heights)))
    target = _target(grid, source)
    pose = _pose(grid)
    to_head = np.linalg.inv(pose)
    image = resample.resample(drawn.image, source, target, to_head, order=1)
    image = appearance.add_noise(drawn.rng, image)
    brain = resample.resample(drawn.brain, source, target, to_head, order=0)
    segmentation = resample.resample(drawn.lesion, source, target, to_head, order=0) & brain
    # A header that knows the head's place holds the pose; the voxels are the same.
    affine = target.affine if not grid.lies_in_mni else to_head @ target.affine
    # At least 1: in a stripped scan, 0 means outside of the brain.
    image = np.where(brain, np.maximum(image * _UNITS, 1.0), 0.0).astype(np.float32)
    if grid.flip:
        image, segmentation = image[::-1].copy(), segmentation[::-1].copy()
        affine = affine @ np.array(
            [[-1, 0, 0, target.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
        )
    return Scan(image, segmentation, affine)


def _pose(grid: Grid) -> np.ndarray:
    """Head mm (ICBM152) -> scanner mm."""
    pose = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(grid.angles)):
        one, other = [i for i in range(3) if i != axis]
        turn = np.eye(4)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        pose = turn @ pose
    pose[:3, 3] = grid.shift
    return pose


def _target(grid: Grid, source: geometry_lib.VoxelGrid) -> geometry_lib.VoxelGrid:
    """The scanner's box around the drawn head, along the scanner's axes."""
    corners = np.array([[*c, 1.0] for c in np.ndindex(2, 2, 2)])
    corners[:, :3] *= np.array(source.shape) - 1
    points = (_pose(grid) @ source.affine @ corners.T)[:3].T
    low, high = points.min(axis=0), points.max(axis=0)
    affine = np.diag([*grid.voxel_mm, 1.0])
    affine[:3, 3] = low
    # One more than the steps between them: both ends are voxel centres.
    sides = np.ceil((high - low) / np.array(grid.voxel_mm)).astype(int) + 1
    return geometry_lib.VoxelGrid(tuple(int(n) for n in sides), affine)
