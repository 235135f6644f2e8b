"""Arrays from one grid of voxels to another through an affine map of space."""

import numpy as np
from jaxtyping import Float64
from scipy import ndimage

from madad_jax.scans import geometry as geometry_lib

_ROUNDING = 1e-6  # Voxels. Centres on a face are common: half a level of 1 mm.


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
