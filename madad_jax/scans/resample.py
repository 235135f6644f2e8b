"""Arrays from one grid of voxels to another through an affine map of space."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy import ndimage

from madad_jax.scans import geometry as geometry_lib

_ROUNDING = 1e-6  # Voxels. Centres on a face are common: half a level of 1 mm.
_BLOCK = 1 << 16  # Places looked at together: a few megabytes.


def resample(
    array: np.ndarray,
    grid: geometry_lib.VoxelGrid,
    target: geometry_lib.VoxelGrid,
    target_to_source: Float64[np.ndarray, "4 4"],
    *,
    order: int,
    thickness: float | None = None,
) -> np.ndarray:
    """Values of `array` at the voxel centres of `target`; 0 outside.

    Voxels are boxes: the outermost ones reach half a voxel beyond their centres, for labels and
    for values, which stay as they are there. This is where SimpleITK puts the border too.

    Args:
      array: [*grid.shape]; bool and integers come back as they are with `order=0`.
      grid: where the array lies, mm of its space.
      target: where values are wanted, mm of its space.
      target_to_source: mm of the target's space -> mm of the array's space.
      order: 0 nearest neighbour (labels), 1 linear, 3 cubic spline. Above 0, axes along which
        the target is coarser than the array are smoothed first, so that nothing is aliased.
      thickness: of the target's first axis, mm, where that is less than its step (slices with
        gaps between them are not thick slices).

    Returns:
      [*target.shape], of `array`'s type for order 0, else float32.
    """
    matrix = np.linalg.inv(grid.affine) @ target_to_source @ target.affine
    # ndimage takes no bool.
    source = array.astype(np.uint8) if array.dtype == bool else array
    if order:
        cell = matrix[:3, :3].copy()
        # Slices that are thinner than the gaps between them must not be smoothed over the gaps.
        if thickness is not None:
            cell[:, 0] *= min(1.0, thickness / np.linalg.norm(target.affine[:3, 0]))
        source = _smooth(source.astype(np.float32, copy=False), cell)
    out = ndimage.affine_transform(
        source,
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=target.shape,
        order=order,
        # `constant` would cut labels at the outermost centres; `grid-constant` cuts them at the
        # boxes' faces, and would fade values towards 0 on the way there.
        mode="nearest" if order else "grid-constant",
        cval=0,
    )
    if order:
        _clear_outside(out, matrix, source.shape)
    return out.astype(bool) if array.dtype == bool else out


def resample_inside(
    arrays: Sequence[tuple[np.ndarray, int]],
    grid: geometry_lib.VoxelGrid,
    target: geometry_lib.VoxelGrid,
    target_to_source: Float64[np.ndarray, "4 4"],
    inside: Bool[np.ndarray, "X Y Z"],
) -> list[np.ndarray]:
    """`resample` of several arrays at once where `inside` is true, 0 elsewhere.

    A brain is a fifth of its scan, and its places are computed once for all arrays.

    Args:
      arrays: (array [*grid.shape], order 0 or 1) each.
      grid, target, target_to_source: as in `resample`.
      inside: [*target.shape] where values are wanted.

    Returns:
      [*target.shape] each, as `resample` gives them; order 1 within one rounding of float32.
    """
    matrix = np.linalg.inv(grid.affine) @ target_to_source @ target.affine
    sources, found = [], []
    for array, order in arrays:
        if order:
            array = _smooth(array.astype(np.float32, copy=False), matrix[:3, :3])
        sources.append((np.ascontiguousarray(array).ravel(), order))
        found.append(np.zeros(int(np.prod(target.shape)), array.dtype))
    wanted = np.flatnonzero(inside)
    for start in range(0, len(wanted), _BLOCK):
        part = wanted[start : start + _BLOCK]
        index = np.unravel_index(part, target.shape)
        places = [r[3] + r[0] * index[0] + r[1] * index[1] + r[2] * index[2] for r in matrix[:3]]
        nearest = linear = None
        for (source, order), out in zip(sources, found, strict=True):
            if order:
                linear = linear or _locate_corners(places, grid.shape)
                out[part] = _blend(source, *linear)
            else:
                nearest = nearest or _locate_nearest(places, grid.shape)
                out[part] = np.where(nearest[1], source.take(nearest[0]), source.dtype.type(0))
    return [out.reshape(target.shape) for out in found]


def _locate_nearest(places: list[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """(flat indices of the nearest voxels, whether a voxel's box holds the place)."""
    flat, there = np.zeros(len(places[0]), np.int64), np.ones(len(places[0]), bool)
    for place, n in zip(places, shape, strict=True):
        index = np.floor(place + 0.5).astype(np.int64)
        there &= (index >= 0) & (index < n)
        flat = flat * n + np.clip(index, 0, n - 1)
    return flat, there


def _locate_corners(places: list[np.ndarray], shape: Sequence[int]) -> tuple[Any, ...]:
    """(flat indices of the lowest of eight corners, steps to the others, shares, what is in)."""
    flat, there = np.zeros(len(places[0]), np.int64), np.ones(len(places[0]), bool)
    shares = []
    for place, n in zip(places, shape, strict=True):
        there &= (place >= -0.5 - _ROUNDING) & (place <= n - 0.5 + _ROUNDING)
        place = np.clip(place, 0.0, n - 1.0)
        low = np.minimum(place.astype(np.int64), max(n - 2, 0))
        shares.append(place - low)
        flat = flat * n + low
    # Along an axis of one voxel there is no neighbour: its share is 0.
    steps = [int(np.prod(shape[axis + 1 :])) if shape[axis] > 1 else 0 for axis in range(3)]
    return flat, steps, shares, there


def _blend(source: np.ndarray, flat, steps, shares, there) -> np.ndarray:
    """Linear interpolation, float32; 0 where `there` is false."""
    values = []
    for x, y in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at = flat + (x * steps[0] + y * steps[1])
        # In float64, as `ndimage` does.
        low, high = source.take(at).astype(np.float64), source.take(at + steps[2])
        values.append(low + (high - low) * shares[2])
    values = [a + (b - a) * shares[1] for a, b in (values[:2], values[2:])]
    return np.where(there, values[0] + (values[1] - values[0]) * shares[0], 0.0).astype(np.float32)


def _clear_outside(out: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> None:
    """Sets to 0, in place, what lies beyond the faces of the source's outermost voxels."""
    j, k = np.ogrid[: out.shape[1], : out.shape[2]]
    low, high = -0.5 - _ROUNDING, np.array(shape) - 0.5 + _ROUNDING
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(out.shape) - 1)
    reach = corners @ matrix[:3, :3].T + matrix[:3, 3]
    for axis, (a, b, c, start) in enumerate(matrix[:3]):
        # An affine map is widest at corners: most grids lie inside along some axes.
        if reach[:, axis].min() >= low and reach[:, axis].max() <= high[axis]:
            continue
        plane = b * j + c * k + start
        for row in range(len(out)):
            place = plane + a * row
            out[row][(place < low) | (place > high[axis])] = 0


def _smooth(array: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Gaussian of (step - 1) / 2 voxels along axes that a target voxel steps over by more."""
    steps = np.abs(cell).max(axis=1)
    # Up to a fifth coarser loses less by aliasing than by a blur.
    sigmas = np.where(steps > 1.2, (steps - 1.0) / 2.0, 0.0)
    return ndimage.gaussian_filter(array, sigmas, mode="nearest") if sigmas.any() else array
