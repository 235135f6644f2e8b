"""Scan space <-> ICBM152 space: an affine map found by SimpleITK, or the header's own.

`affine` maximises the mutual information (Mattes) of the brain and the ICBM152 T1 brain, first over
rigid, then over all twelve parameters, coarse to fine; it is the same to the bit on every run
(one thread, regular sampling). `none` takes the scan's mm for the template's, as for data that
were distributed in MNI space.
"""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float64

from madad_jax import errors
from madad_jax.data import geometry as geometry_lib
from madad_jax.data.prepare import files, resample, volumes

METHODS = ("none", "affine")


@dataclasses.dataclass(frozen=True)
class Transform:
    """scan mm -> ICBM152 mm.

    Attributes:
      matrix: of homogeneous points (x, y, z, 1).
      method: how it was found, one of `METHODS`.
      overlap: Dice of the moved brain mask and the template's, a check; nan where not taken.
    """

    matrix: Float64[np.ndarray, "4 4"]
    method: str
    overlap: float = float("nan")

    @property
    def volume_ratio(self) -> float:
        """ml in ICBM152 space per ml in the scan."""
        return abs(float(np.linalg.det(self.matrix[:3, :3])))

    def to_template(
        self,
        array: np.ndarray,
        volume: volumes.Volume,
        *,
        order: int = 1,
        grid: geometry_lib.VoxelGrid = geometry_lib.TEMPLATE_GRID,
    ) -> np.ndarray:
        """An array on the volume's canonical grid, seen on `grid` (ICBM152 at 1 mm).

        Args:
          array: [X, Y, Z] of `volume`: its data, a mask or a map.
          volume: says where the array lies.
          order: see `resample.resample`.
          grid: voxels of ICBM152 space.
        """
        source = geometry_lib.VoxelGrid(array.shape, volume.affine)
        return resample.resample(array, source, grid, np.linalg.inv(self.matrix), order=order)

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

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        overlap = None if np.isnan(self.overlap) else round(self.overlap, 4)
        return {
            "from": "scan mm (RAS+)",
            "to": "ICBM152 mm (RAS+)",
            "method": self.method,
            "overlap": overlap,
            "matrix": self.matrix.tolist(),
        }

    def save(self, path: str | epath.Path) -> None:
        """Writes `to_dict` as JSON."""
        files.write_bytes(epath.Path(path), (json.dumps(self.to_dict(), indent=1) + "\n").encode())


def load(path: str | epath.Path) -> Transform:
    """Reads what `Transform.save` wrote.

    Raises:
      UserError: no such file, or it holds something else.
    """
    path = epath.Path(path)
    try:
        values = json.loads(files.read_bytes(path))
        matrix = np.array(values["matrix"], np.float64)
        usable = matrix.shape == (4, 4) and abs(np.linalg.det(matrix)) > 1e-6
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise errors.UserError(f"'{path}' is no transform; accepted: JSON with a 4 x 4 'matrix'")
    overlap = values.get("overlap")
    return Transform(
        matrix, str(values.get("method", "")), float("nan") if overlap is None else float(overlap)
    )


def register(
    volume: volumes.Volume,
    method: str = "affine",
    *,
    brain: Bool[np.ndarray, "X Y Z"] | None = None,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Transform:
    """The map from the scan to ICBM152.

    Args:
      volume: the scan.
      method: `none` or `affine`.
      brain: the brain in the scan; `affine` needs it (skulls differ more than brains do).
      shift: mm added to the scan's coordinates before anything else (`none`: the whole map), for
        data whose headers count from a corner, as BraTS' do.

    Raises:
      UserError: unknown method, or the brain cannot be brought onto the template.
    """
    raise NotImplementedError
