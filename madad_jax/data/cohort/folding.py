"""Random small sulci: those that differ from person to person and that an average has lost.

They are sheets, the zero level of smooth noise, that run in from the surface: on the
convexity radially (noise over slice, angle and radius, fast along the surface and slow
inwards), on the medial surface perpendicular to the falx.
"""

import cv2
import numpy as np
from jaxtyping import Float32
from scipy import ndimage, special

from madad_jax.data.cohort import random_fields

_RIM = 68.0  # Radius at which lengths along the surface are measured, mm.
_LEVEL_STEP = 5.0  # Lattice step across slices, mm.


def draw_sulci(
    rng: np.random.Generator, grid: random_fields.Grid
) -> tuple[
    Float32[np.ndarray, "z h w"], Float32[np.ndarray, "z h w"], Float32[np.ndarray, "z h w"]
]:
    """Sheets on `grid`.

    Returns:
      Distance to the nearest sheet in mm (approximately), and the weights in [0, 1] of the
      convexity (not the middle, not the stem) and of the medial surface along the falx,
      where only some stretches fold.
    """
    across = grid.in_plane()
    # Brains are about 1.2 times as long as wide.
    radius = np.hypot(across[:, None] / 1.2, across[None, :])
    convex = special.expit((radius - 38.0) / 3.0)
    medial = special.expit((10.0 - np.abs(across)) / 1.5)[None, :]
    presence = special.expit(3.0 * random_fields.smooth(rng, grid, 16.0) + 0.5)
    distance = np.where(medial > 0.5, _draw_medial(rng, grid), _draw_radial(rng, grid))
    return (
        np.abs(distance).astype(np.float32),
        np.broadcast_to(convex.astype(np.float32), grid.shape),
        (medial * presence).astype(np.float32),
    )


def _draw_radial(rng: np.random.Generator, grid: random_fields.Grid) -> np.ndarray:
    """Signed distance to sheets that stand on the convexity, about 14 mm apart."""
    arc = 2.0
    angles, radii, step = round(2 * np.pi * _RIM / arc), 14, 7.0
    field = _lattice(rng, grid, radii, angles, sigma=(1.2, 0.9, 1.6))
    sheet = _over_slope(field, 2 * np.pi * _RIM / angles)
    across = grid.in_plane()
    row, column = np.meshgrid(across / 1.2, across, indexing="ij")
    # Sulci do not point at one centre: the angle sways with the place.
    sway = (
        0.04
        * random_fields.smooth(
            rng, random_fields.Grid(grid.side, grid.field_of_view, (0.0,)), 16.0
        )[0]
    )
    angle = (np.arctan2(row, column) / (2 * np.pi) + sway / (2 * np.pi)) % 1.0 * angles
    radius = np.hypot(row, column) / step
    sheet = np.concatenate([sheet, sheet[..., :2]], axis=2)
    return _remap(sheet, angle, radius)


def _draw_medial(rng: np.random.Generator, grid: random_fields.Grid) -> np.ndarray:
    """Signed distance to sheets across the medial surface, drawn for each hemisphere."""
    cells, step = round(grid.field_of_view / 2.0), 2.0
    across = grid.in_plane()
    row = (across + grid.field_of_view / 2) / step
    sway = (
        3.0
        * random_fields.smooth(rng, random_fields.Grid(grid.side, grid.field_of_view, (0.0,)), 8.0)[
            0
        ]
    )
    rows = row[:, None] + sway
    # Two columns of the lattice: left and right of the falx.
    field = _lattice(rng, grid, 2, cells, sigma=(1.0, 0.0, 2.4))
    sheet = _over_slope(field, step)
    side = np.broadcast_to((across > 0).astype(np.float32)[None, :], rows.shape)
    return _remap(sheet, rows, side)


def _lattice(
    rng: np.random.Generator,
    grid: random_fields.Grid,
    first: int,
    second: int,
    sigma: tuple[float, ...],
) -> np.ndarray:
    planes = int(np.ceil((grid.levels[-1] - grid.levels[0]) / _LEVEL_STEP)) + 3
    white = rng.standard_normal((planes, first, second), dtype=np.float32)
    field = ndimage.gaussian_filter(white, sigma, mode=("nearest", "nearest", "wrap"))
    return random_fields.at_levels(
        field, (np.asarray(grid.levels) - grid.levels[0]) / _LEVEL_STEP + 1
    )


def _over_slope(field: np.ndarray, step: float) -> np.ndarray:
    """Noise to distance from its zero level; bounded where the noise is flat."""
    slope = np.gradient(field, step, axis=2)
    return field / np.hypot(slope, 0.6 * slope.std())


def _remap(planes: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype(np.float32), y.astype(np.float32)
    border = cv2.BORDER_REPLICATE
    return np.stack([cv2.remap(p, x, y, cv2.INTER_LINEAR, borderMode=border) for p in planes])
