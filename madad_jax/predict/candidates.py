"""The list of places above the threshold: volume, where, how strong, what is near."""

from typing import Any

import numpy as np
from scipy import ndimage

from madad_jax.predict import regions
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import registration, volumes


def list_candidates(
    in_scan: np.ndarray,
    in_stack: np.ndarray,
    maps: np.ndarray,
    volume: volumes.Volume,
    transform: registration.Transform,
    grid: geometry_lib.VoxelGrid,
) -> list[dict[str, Any]]:
    """Candidates, largest first.

    A candidate too thin for the scan's own voxels is measured in the stack instead.

    Args:
      in_scan: int [X, Y, Z] labels on the scan's canonical grid.
      in_stack: int [k, H, W] the same labels where they were found.
      maps: [k, H, W] the processed map, for scores.
      volume: the scan.
      transform: scan mm -> mm of the template.
      grid: of the stack, mm of the template.

    Returns:
      Per candidate `number`, `volume_ml` (in the scan), `centre_mm` (scanner, RAS+),
      `centre_mni_mm` (None with a template of the user's own, where no region is named either),
      `voxel` (canonical grid; inside the candidate, nearest to its centre),
      `file_voxel` (the same in the file's own axis order), `mean_score`, `max_score`, `region`.
    """
    places_in_stack = ndimage.find_objects(in_stack)
    places_in_scan = ndimage.find_objects(in_scan, max_label=len(places_in_stack))
    # Template volume over the registration's determinant is volume in the scan.
    stack_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / 1000.0 / transform.volume_ratio
    to_scan_mm, to_voxels = np.linalg.inv(transform.matrix), np.linalg.inv(volume.affine)
    listed = []
    for number, place in enumerate(places_in_stack, start=1):
        inside = in_stack[place] == number
        scores = maps[place][inside]
        # A thin candidate may fall between the voxels of a coarse scan.
        if places_in_scan[number - 1] is not None:
            points = _list_voxels(in_scan, places_in_scan[number - 1], number)
            volume_ml = len(points) * volume.voxel_ml
            # The mean of a ring lies outside of it: people are led to a voxel of the candidate.
            centre_voxel = _nearest_point(points, points.mean(axis=0))
            centre = _transform_point(volume.affine, centre_voxel)
        else:
            points = _list_voxels(in_stack, place, number)
            volume_ml = len(points) * stack_ml
            centre = _transform_point(
                to_scan_mm @ grid.affine, _nearest_point(points, points.mean(axis=0))
            )
            centre_voxel = np.round(_transform_point(to_voxels, centre)).astype(int)
            centre_voxel = np.clip(centre_voxel, 0, np.array(volume.data.shape) - 1)
        near = _describe_place(transform, centre)
        listed.append(
            {
                "number": number,
                "volume_ml": round(volume_ml, 4),
                "centre_mm": [round(float(v), 1) for v in centre],
                "centre_mni_mm": near["mni"],
                "voxel": [int(v) for v in centre_voxel],
                "file_voxel": _to_file(centre_voxel, volume),
                "mean_score": round(float(scores.mean(dtype=np.float64)), 4),
                "max_score": round(float(scores.max()), 4),
                "region": near["region"],
            }
        )
    return listed


def _describe_place(transform: registration.Transform, centre: np.ndarray) -> dict[str, Any]:
    """`mni` and `region` of a point of the scan."""
    if transform.template != geometry_lib.ICBM152:
        return {"mni": None, "region": regions.UNNAMED}
    mni = _transform_point(transform.matrix, centre)
    rounded = [round(float(v), 1) for v in mni]
    return {"mni": rounded, "region": regions.describe(tuple(float(v) for v in mni))}


def _list_voxels(labels: np.ndarray, place: tuple[slice, ...], number: int) -> np.ndarray:
    start = np.array([s.start for s in place])
    return np.argwhere(labels[place] == number) + start


def _to_file(voxel: np.ndarray, volume: volumes.Volume) -> list[int]:
    """An index of the canonical grid in the file's own axis order, from 0."""
    to_file = np.linalg.inv(volume.native.affine) @ volume.affine
    return [int(v) for v in np.round(_transform_point(to_file, voxel))]


def _nearest_point(points: np.ndarray, to: np.ndarray) -> np.ndarray:
    return points[int(np.square(points - to).sum(axis=1).argmin())]


def _transform_point(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    return (matrix @ np.array([*point, 1.0]))[:3]
