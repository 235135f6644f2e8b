"""One healthy synthetic subject: the template under a random diffeomorphic warp.

The map from subject to template is y = A (x + u(x)) + c, with A a random rotation and
scaling and u the exponential of a smooth random stationary velocity field v (scaling and
squaring, Arsigny et al. 2006):

    u_0 = v / 2^K,   u_{k+1}(x) = u_k(x) + u_k(x + u_k(x)),   u = u_K.

v is a sum of large-scale shape (24 mm), gyral-scale shape (9 mm) and a flow along the
gradient of the distance to the ventricles, which opens or closes them. Tissues then compete
with noise on their log odds, so that each subject's cortex has its own fine folds.

Drawn on a grid of about 0.8 mm in plane and averaged down, so that pixels have partial
volume as real ones have; a seed means the same person at every image size.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage, special

from madad_jax.data.cohort import folding, random_fields
from madad_jax.scans import template as template_lib

_COARSE_MM = 4.0
_SQUARINGS = 5


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """A subject's tissues on the working grid, all [z, h, w].

    Attributes:
      grid: the working grid.
      brain: inside the skull-stripped brain.
      fluid, grey, white: shares of the tissues, summing to 1 in the brain, 0 outside.
      depth: distance to the brain's outside, mm, approximately.
      ventricle: signed distance to the ventricles, mm, approximately.
      min_jacobian: smallest Jacobian determinant of u on the coarse grid; > 0.
    """

    grid: random_fields.Grid
    brain: Bool[np.ndarray, "z h w"]
    fluid: Float32[np.ndarray, "z h w"]
    grey: Float32[np.ndarray, "z h w"]
    white: Float32[np.ndarray, "z h w"]
    depth: Float32[np.ndarray, "z h w"]
    ventricle: Float32[np.ndarray, "z h w"]
    min_jacobian: float


@dataclasses.dataclass(frozen=True)
class _AverageTissue:
    """The warped template at the subject's brain voxels.

    Attributes:
      fluid_logit: log odds of fluid against tissue.
      white_logit: log odds of white against grey matter.
      depth, ventricle: as of `Anatomy`, mm.
    """

    fluid_logit: Float[np.ndarray, " n"]
    white_logit: Float[np.ndarray, " n"]
    depth: Float[np.ndarray, " n"]
    ventricle: Float[np.ndarray, " n"]


def draw(
    rng: np.random.Generator,
    template: template_lib.Template,
    grid: random_fields.Grid,
) -> Anatomy:
    """Draws a subject; all randomness from `rng`."""
    age = rng.standard_normal()  # Opens ventricles and sulci together.
    matrix, shift = _global_shape(rng)
    displacement, min_jacobian = _warp(rng, template, grid, matrix, shift, age)
    points = _to_template(grid, displacement, matrix, shift)
    brain = _sample(template.brain, points) > 0.5
    inside = points[:, brain]
    average = _AverageTissue(
        fluid_logit=_sample(template.fluid_logit, inside),
        white_logit=_sample(template.white_logit, inside),
        # Distances are kept at half the template's resolution.
        depth=_sample(template.depth, inside / 2.0),
        ventricle=_sample(template.ventricle, inside / 2.0),
    )
    fluid, grey, white = _draw_tissue(rng, grid, brain, average, age)

    def spread(values, outside=0.0):
        full = np.full(grid.shape, outside, np.float32)
        full[brain] = values
        return full

    return Anatomy(
        grid=grid,
        brain=brain,
        fluid=spread(fluid),
        grey=spread(grey),
        white=spread(white),
        depth=spread(average.depth),
        ventricle=spread(average.ventricle, 99.0),
        min_jacobian=min_jacobian,
    )


def _global_shape(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Subject mm -> template mm: matrix [3, 3] over (z, row, column) and shift [3]."""
    pitch, roll, yaw = np.deg2rad(rng.normal(0.0, (4.0, 2.0, 2.5)))
    rotation = _rotation(1, 2, yaw) @ _rotation(0, 1, pitch) @ _rotation(0, 2, roll)
    scale = np.exp(rng.normal(0.0, 0.035) + rng.normal(0.0, 0.03, 3))
    shift = rng.normal(0.0, (2.5, 2.0, 1.5))
    return (rotation * scale).astype(np.float32), shift.astype(np.float32)


def _rotation(first: int, second: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _warp(
    rng: np.random.Generator,
    template: template_lib.Template,
    grid: random_fields.Grid,
    matrix: Float32[np.ndarray, "3 3"],
    shift: Float32[np.ndarray, " 3"],
    age: float,
) -> tuple[np.ndarray, float]:
    """Displacement u on the working grid, mm [3, z, h, w], and its smallest Jacobian."""
    # Coarse voxels beyond the stack: tissue is moved in from there.
    margin = 6
    below, above = grid.levels[0] - margin * _COARSE_MM, grid.levels[-1] + margin * _COARSE_MM
    levels = np.arange(below, above + _COARSE_MM, _COARSE_MM)
    side = round(grid.field_of_view / _COARSE_MM)
    coarse = random_fields.Grid(side, grid.field_of_view, tuple(levels.tolist()))
    points = _to_template(coarse, np.zeros((3, *coarse.shape), np.float32), matrix, shift)
    velocity = np.empty((3, *coarse.shape), np.float32)
    # Skulls are smoother than what is in them: gyral change fades towards the outside.
    depth = _sample(template.depth, points / 2.0)
    inside = 0.2 + 0.8 * np.clip(depth / 16.0, 0.0, 1.0)
    for axis in range(3):
        velocity[axis] = 3.0 * random_fields.smooth(rng, coarse, 38.0)
        velocity[axis] += 2.6 * (0.5 + 0.5 * inside) * random_fields.smooth(rng, coarse, 20.0)
        velocity[axis] += 2.8 * inside * random_fields.smooth(rng, coarse, 9.0)
    # The falx holds the midline: little sideways there.
    aside = np.abs(coarse.in_plane()) / 22.0
    velocity[2] *= 0.35 + 0.65 * np.tanh(aside)
    velocity += _ventricle_flow(rng, template, points, age)
    displacement, smallest = exponential(velocity, coarse)
    positions = (np.asarray(grid.levels) - levels[0]) / _COARSE_MM
    fine = [
        random_fields.upsample(random_fields.at_levels(d, positions), grid.side)
        for d in displacement
    ]
    return np.stack(fine), smallest


def _ventricle_flow(
    rng: np.random.Generator, template: template_lib.Template, points: np.ndarray, age: float
) -> np.ndarray:
    """Velocity [3, z, h, w] that opens (positive size) or closes the ventricles."""
    size = np.clip(1.3 + 1.6 * age + rng.normal(0.0, 1.0), -1.5, 6.5)
    distance = template.ventricle
    slopes = [
        _sample(np.gradient(distance, 2.0, axis=axis), points / 2.0).astype(np.float32)
        for axis in range(3)
    ]
    near = np.exp(-np.maximum(_sample(distance, points / 2.0), 0.0) / 14.0)
    return -size * near * np.stack(slopes)


def exponential(
    velocity: Float32[np.ndarray, "3 z h w"], grid: random_fields.Grid
) -> tuple[Float32[np.ndarray, "3 z h w"], float]:
    """Scaling and squaring; the velocity is damped until the Jacobian is positive.

    Args:
      velocity: mm per unit time on `grid`.
      grid: its grid; slices `spacing` mm apart.

    Returns:
      The displacement in mm and the smallest Jacobian determinant of x + u(x), > 0.1.
    """
    steps = np.array([grid.spacing, grid.pixel, grid.pixel], np.float32)[:, None, None, None]
    index = np.indices(grid.shape, dtype=np.float32)
    while True:
        displacement = velocity / np.float32(2**_SQUARINGS)
        for _ in range(_SQUARINGS):
            points = index + displacement / steps
            displacement = displacement + np.stack(
                [ndimage.map_coordinates(d, points, order=1, mode="nearest") for d in displacement]
            )
        smallest = float(_jacobian(displacement, grid).min())
        if smallest > 0.1:
            return displacement, smallest
        velocity = velocity * np.float32(0.85)


def _jacobian(displacement: np.ndarray, grid: random_fields.Grid) -> np.ndarray:
    steps = (grid.spacing, grid.pixel, grid.pixel)
    rows = [np.gradient(component, *steps) for component in displacement]
    matrix = np.stack([np.stack(row) for row in rows]) + np.eye(3)[:, :, None, None, None]
    return np.linalg.det(np.moveaxis(matrix, (0, 1), (-2, -1)))


def _to_template(
    grid: random_fields.Grid,
    displacement: Float32[np.ndarray, "3 z h w"],
    matrix: Float32[np.ndarray, "3 3"],
    shift: Float32[np.ndarray, " 3"],
) -> np.ndarray:
    """Template voxel coordinates [3, z, h, w] of every point of `grid`."""
    across = grid.in_plane()
    levels = np.asarray(grid.levels, np.float32)
    moved = displacement.copy()
    moved[0] += levels[:, None, None]
    moved[1] += across[None, :, None]
    moved[2] += across[None, None, :]
    # Scaling about the middle of the stack, not about the base of the brain.
    middle = np.array([levels.mean(), 0.0, 0.0], np.float32)
    centre = np.asarray(template_lib.CENTRE, np.float32) + middle + shift
    flat = matrix @ (moved.reshape(3, -1) - middle[:, None]) + centre[:, None]
    return flat.reshape(moved.shape)


def _sample(volume: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(volume, points, order=1, mode="nearest")


def _draw_tissue(
    rng: np.random.Generator,
    grid: random_fields.Grid,
    brain: Bool[np.ndarray, "z h w"],
    average: _AverageTissue,
    age: float,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Shares of fluid, grey and white matter at the brain's n voxels: tissues compete with noise.

    Low temperatures make crisp borders; deep nuclei keep the template's mixture of grey and
    white, which is what tells thalamus from putamen.
    """
    depth = average.depth
    deep = special.expit((depth - 26.0) / 3.0)
    folds = random_fields.smooth(rng, grid, 4.0)[brain]
    ribbon = random_fields.smooth(rng, grid, 2.4)[brain]
    distance, convex, medial = (field[brain] for field in folding.draw_sulci(rng, grid))
    reach = 13.0 + 4.0 * random_fields.smooth(rng, grid, 14.0)[brain]
    cortex = convex * special.expit((reach - depth) / 2.0)
    medial = medial * special.expit((average.ventricle - 13.0) / 2.0)
    cortex = np.maximum(cortex, medial)
    width = 0.9 * np.exp(0.25 * age + rng.normal(0.0, 0.15))
    rough = 1.0 - 0.75 * deep
    # Where the average brain is one grey band, the subject's own folds may cut it.
    loose = 1.0 - 0.5 * cortex - 0.2 * medial
    fluid = loose * average.fluid_logit / 0.32 + rough * folds + 0.35 * age + rng.normal(0.0, 0.2)
    fluid += cortex * (9.0 * np.exp(-((distance / width) ** 2)) - 1.0)
    temperature = 0.30 + 0.55 * deep
    white = loose * average.white_logit / temperature + rough * ribbon + rng.normal(0.0, 0.3)
    white += cortex * (6.5 * np.tanh((distance - rng.uniform(2.6, 3.2)) / 1.2) - 1.5)
    white -= 6.0 * np.exp(-((depth / 2.6) ** 2))  # The ribbon is closed on the outside.
    fluid, white = special.expit(fluid), special.expit(white)
    return fluid, (1.0 - fluid) * (1.0 - white), (1.0 - fluid) * white
