"""What a scan is registered to: ICBM152, or a template of the user's own.

A template of one's own is an image of a brain without its skull, 0 outside, in millimetres of its
own: of a fetus, say. Lengths of the registration (cubes of 2 mm, margins, steps) and of the checks
are those of an adult head. A target says how much smaller its brain is (`scale`), and scan and
template are looked at as if both were larger by that: what holds for the adult brain and its
template then holds for this pair. With ICBM152 nothing is changed, to the bit.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import given_template, pose, resample, volumes

# Nats of `registration.Transform.agreement`. Right maps of whole brains reach 0.56 and more, of the
# upper half 0.44; maps that are 20 mm off and more stay at 0.41 and less.
GOOD_AGREEMENT = 0.4
# Adult brains with their fluid measure about 0.9 to 2.0 l; a child's or a partial scan less.
PLAUSIBLE_ML = (600.0, 2300.0)
_ADULT_ML = 1896.0  # ICBM152's mask.
_ADULT_INFORMATION = 1.05  # Nats of ICBM152 with itself, as `pose.Metric` measures.
_OWN_PLAUSIBLE = (0.5, 2.0)  # Of a given template's brain.
_LEAST_ML, _MOST_ML = 2.0, 4000.0
_MOST_FACES = 0.05  # Share of the outermost voxels above 0; a skull-stripped brain has none.
_MOST_APART = 25.0  # mm between the middles of a folder's templates.
_SIDE = 2.0  # mm of an adult head.


@dataclasses.dataclass(frozen=True)
class Target:
    """A template as the registration sees it.

    Attributes:
      image: the brain over [0, 1], 0 outside.
      brain: its mask.
      grid: cubes along the axes, mm of the template.
      name: for messages and records.
      scale: by how much lengths are enlarged to be those of an adult head.
      good_agreement: nats below which a map is in doubt.
      plausible_ml: of a scan's brain.
      low, high: corners of the box around the brain, mm (x, y, z).
    """

    image: Float32[np.ndarray, "X Y Z"]
    brain: Bool[np.ndarray, "X Y Z"]
    grid: geometry_lib.VoxelGrid
    name: str = geometry_lib.ICBM152
    scale: float = 1.0
    good_agreement: float = GOOD_AGREEMENT
    plausible_ml: tuple[float, float] = PLAUSIBLE_ML
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def enlarged_grid(self) -> geometry_lib.VoxelGrid:
        """`grid` in millimetres of an adult head."""
        return geometry_lib.VoxelGrid(self.grid.shape, _stretch(self.grid.affine, self.scale))

    def enlarge(self, volume: volumes.Volume) -> volumes.Volume:
        """A scan in millimetres of an adult head."""
        return dataclasses.replace(volume, affine=_stretch(volume.affine, self.scale))

    def enlarge_map(self, matrix: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
        """A map between scan and template, mm, as one between their enlarged forms."""
        return _move(matrix, self.scale)

    def reduce_map(self, matrix: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "4 4"]:
        """The inverse of `enlarge_map`."""
        return _move(matrix, 1.0 / self.scale)


def _stretch(affine: np.ndarray, scale: float) -> np.ndarray:
    """voxel -> mm in larger millimetres."""
    return np.diag([scale, scale, scale, 1.0]) @ affine


def _move(matrix: np.ndarray, scale: float) -> np.ndarray:
    """A map between two spaces that are enlarged alike: shifts grow, turns and stretches stay."""
    moved = matrix.copy()
    moved[:3, 3] *= scale
    return moved


def find(templates: Sequence[given_template.Template]) -> Target | None:
    """What the scans of a `Preparation` are registered to; None: ICBM152.

    Raises:
      UserError: see `read`.
      ValueError: several templates, of which nobody has chosen one by the scan's age.
    """
    if len(templates) > 1:
        raise ValueError(f"{len(templates)} templates for one scan; choose one by its age")
    return read(templates[0]) if templates else None


@functools.lru_cache(maxsize=4)
def read(template: given_template.Template) -> Target:
    """A given template, from its file.

    The brain is where the image is above 0: the largest piece, holes filled.

    Raises:
      UserError: no path, another file than its digest says, or no brain with 0 around it.
    """
    if not template.path:
        raise errors.UserError(
            f"template: '{template.file}' (sha256 {template.sha256[:12]}...) is not at hand; "
            "accepted: --template with that file"
        )
    volume = volumes.read(template.path)
    if volume.sha256 != template.sha256:
        raise errors.UserError(
            f"template: '{template.path}' has changed since it was looked up; accepted: the file "
            f"with sha256 {template.sha256[:12]}..."
        )
    brain = _find_brain(volume)
    size = float(brain.sum()) * volume.voxel_ml
    if not _LEAST_ML <= size <= _MOST_ML:
        raise errors.UserError(
            f"template: '{volume.source}' has a brain of {size:g} ml; accepted: {_LEAST_ML:g} to "
            f"{_MOST_ML:g} ml"
        )
    low, high = np.percentile(volume.data[brain], (1.0, 99.0))
    if high <= low:
        raise errors.UserError(f"template: '{volume.source}' is constant above 0 ({low:g})")
    scaled = np.where(brain, np.clip((volume.data - low) / (high - low), 0.0, 1.0), 0.0)
    scale = float((_ADULT_ML / size) ** (1 / 3))
    large = dataclasses.replace(volume, affine=_stretch(volume.affine, scale))
    grid = box_around(large, brain, _SIDE)
    source = geometry_lib.VoxelGrid(volume.data.shape, large.affine)
    image = resample.resample(scaled, source, grid, np.eye(4), order=1)
    inside = resample.resample(brain.astype(np.float32), source, grid, np.eye(4), order=1) >= 0.5
    corners = (volume.affine @ np.c_[np.argwhere(brain), np.ones(int(brain.sum()))].T)[:3]
    return Target(
        image=image,
        brain=inside,
        grid=geometry_lib.VoxelGrid(grid.shape, _stretch(grid.affine, 1.0 / scale)),
        name=template.file,
        scale=scale,
        good_agreement=GOOD_AGREEMENT * _measure_information(image, inside, grid),
        plausible_ml=(_OWN_PLAUSIBLE[0] * size, _OWN_PLAUSIBLE[1] * size),
        low=tuple(float(mm) for mm in corners.min(1)),
        high=tuple(float(mm) for mm in corners.max(1)),
    )


def _find_brain(volume: volumes.Volume) -> np.ndarray:
    above = volume.data > 0
    faces = np.concatenate([np.take(above, k, axis).ravel() for axis in range(3) for k in (0, -1)])
    if faces.mean() > _MOST_FACES:
        raise errors.UserError(
            f"template: '{volume.source}' is above 0 on {faces.mean():.0%} of its outermost "
            "voxels; accepted: a brain without its skull, 0 all around"
        )
    labels, count = ndimage.label(above)
    if not count:
        raise errors.UserError(f"template: '{volume.source}' has no voxel above 0")
    return ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


def _measure_information(image: np.ndarray, brain: np.ndarray, grid) -> float:
    """What the template could agree in at most, as a share of what ICBM152 could."""
    gate = ndimage.binary_dilation(brain, iterations=4)
    metric = pose.Metric(image, gate, grid, image, grid)
    return metric.measure(np.eye(4)) / _ADULT_INFORMATION


def lay_slices(
    templates: Sequence[given_template.Template], image_size: int, field_of_view: float
) -> geometry_lib.Geometry:
    """Slices of 1 mm steps in the space of given templates.

    The square's centre is the middle of the box around the template's brain, in whole mm; slice 0
    lies at its lowest whole mm and the last slice at its highest. Several templates share their
    mm, and the box is that around all their brains.

    Args:
      templates: with their paths.
      image_size: side of a slice, px.
      field_of_view: side of a slice, mm.

    Raises:
      UserError: a template cannot be read, they lie apart, or the brain exceeds the square.
    """
    corners = [(target.low, target.high) for target in map(read, templates)]
    lows, highs = (np.array(rows) for rows in zip(*corners, strict=True))
    low, high = lows.min(0), highs.max(0)
    away = np.linalg.norm((lows + highs) / 2 - (low + high) / 2, axis=1)
    if away.max() > _MOST_APART:
        raise errors.UserError(
            f"template: the brain of '{templates[int(away.argmax())].file}' lies {away.max():.0f} "
            f"mm from the middle of all; accepted: templates in one mm space, {_MOST_APART:g} mm "
            "apart at most"
        )
    widest = float((high - low)[:2].max())
    if widest > field_of_view:
        raise errors.UserError(
            f"field_of_view: found {field_of_view:g} mm, accepted: at least {widest:.0f} mm, the "
            "size of the template's brain"
        )
    x, y = (float(mm) for mm in np.round((low + high) / 2)[:2])
    return geometry_lib.Geometry(
        image_size,
        field_of_view,
        (x + 0.0, y + 0.0),  # No -0.0, which JSON would keep.
        first_level=float(np.floor(low[2])),
        space=geometry_lib.GIVEN,
        last_level=float(np.ceil(high[2])),
    )


def box_around(
    volume: volumes.Volume, brain: Bool[np.ndarray, "X Y Z"], side: float = 2.0
) -> geometry_lib.VoxelGrid:
    """Cubes of `side` mm along the scanner's axes around the brain, with a margin of 10 mm."""
    corners = np.argwhere(brain)
    corners = np.array([corners.min(0), corners.max(0)])
    points = np.array(
        [[corners[i, 0], corners[j, 1], corners[k, 2], 1] for i, j, k in np.ndindex(2, 2, 2)]
    )
    points = (points @ volume.affine.T)[:, :3]
    low, high = points.min(0) - 10.0, points.max(0) + 10.0
    affine = np.diag([side, side, side, 1.0])
    affine[:3, 3] = low
    return geometry_lib.VoxelGrid(tuple(int(n) for n in np.ceil((high - low) / side) + 1), affine)
