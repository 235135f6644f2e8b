"""Smooth random fields on a stack of slices, drawn coarsely and interpolated: cheap.

A field of correlation length s is white noise on a lattice of spacing s / 1.25, filtered by
a Gaussian of 1.25 lattice steps and brought to the grid by linear (across slices) and cubic
(in plane) interpolation. It is a function of position in millimetres: the same generator
gives the same field at every image size.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float32
from scipy import ndimage

_CELLS_PER_SIGMA = 1.25


@dataclasses.dataclass(frozen=True)
class Grid:
    """A stack of square axial slices.

    Attributes:
      side: pixels per row and column.
      field_of_view: mm per side.
      levels: heights of the slices, mm, rising by a constant step.
    """

    side: int
    field_of_view: float
    levels: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return (len(self.levels), self.side, self.side)

    @property
    def pixel(self) -> float:
        """Side of a pixel, mm."""
        return self.field_of_view / self.side

    @property
    def spacing(self) -> float:
        """Distance between slices, mm (4 for a single slice)."""
        return self.levels[1] - self.levels[0] if len(self.levels) > 1 else 4.0

    def in_plane(self) -> Float32[np.ndarray, " n"]:
        """Offsets of pixel centres from the middle of the field of view, mm."""
        return ((np.arange(self.side) - (self.side - 1) / 2) * self.pixel).astype(np.float32)


def smooth(rng: np.random.Generator, grid: Grid, sigma: float) -> Float32[np.ndarray, "z h w"]:
    """A field of unit variance and correlation length `sigma` mm on `grid`."""
    step = sigma / _CELLS_PER_SIGMA
    cells = max(int(np.ceil(grid.field_of_view / step)), 4)
    if sigma < 0.6 * grid.spacing:
        # Slices this far apart have nothing to do with each other.
        lattice = _filter(rng, (len(grid.levels), cells, cells), axes=(1, 2))
        planes = lattice
    else:
        span = grid.levels[-1] - grid.levels[0]
        depth = int(np.ceil(span / step)) + 2
        lattice = _filter(rng, (depth, cells, cells), axes=(0, 1, 2))
        planes = at_levels(lattice, (np.asarray(grid.levels) - grid.levels[0]) / step + 0.5)
    return upsample(planes, grid.side)


def _filter(
    rng: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...]
) -> Float32[np.ndarray, "z h w"]:
    white = rng.standard_normal(shape, dtype=np.float32)
    field = ndimage.gaussian_filter(white, _CELLS_PER_SIGMA, axes=axes, truncate=3.0, mode="wrap")
    # The filter's known gain, not the measured spread: a small lattice of a large field
    # has a random mean that must stay random.
    gain = (2.0 * np.sqrt(np.pi) * _CELLS_PER_SIGMA) ** (len(axes) / 2)
    return field * np.float32(gain)


def at_levels(
    volume: Float32[np.ndarray, "d h w"], positions: np.ndarray
) -> Float32[np.ndarray, "z h w"]:
    """Linear interpolation across the first axis at fractional `positions`."""
    position = np.clip(positions, 0, volume.shape[0] - 1)
    below = np.minimum(position.astype(int), max(volume.shape[0] - 2, 0))
    above = np.minimum(below + 1, volume.shape[0] - 1)
    weight = (position - below).astype(np.float32)[:, None, None]
    return volume[below] * (1 - weight) + volume[above] * weight


def upsample(planes: Float32[np.ndarray, "z h w"], side: int) -> Float32[np.ndarray, "z n n"]:
    """Cubic interpolation of each plane onto `side` pixels over the same field of view."""
    size = (side, side)
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC) for plane in planes])
