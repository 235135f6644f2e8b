"""Names for places in ICBM152 space, from files inside the nilearn wheel: nothing is downloaded.

A place gets its side, its tissue (ICBM152 tissue probabilities, 2009a) and the nearest of the 160
functional regions of Dosenbach et al. 2010. It is a help for finding the place again, not a
parcellation: a lesion displaces what it is named after.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Float64

from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import template_files

_MIDLINE_MM = 4.0
_FAR_MM = 20.0  # beyond, a region's name says nothing
# Of a place in the space of another template: no atlas is known there.
UNNAMED = {
    **{"name": "not named (the user's template)", "side": None, "tissue": None},
    **{"nearest": None, "distance_mm": None, "atlas": None},
}


@dataclasses.dataclass(frozen=True)
class _Atlas:
    centres: Float64[np.ndarray, "n 3"]
    names: tuple[str, ...]
    tissues: dict[str, np.ndarray]
    to_voxel: Float64[np.ndarray, "4 4"]


def describe(point: tuple[float, float, float]) -> dict[str, Any]:
    """`side`, `tissue`, `nearest` region and its `distance_mm`, and a `name` of them all.

    Args:
      point: (x, y, z) in ICBM152 mm, x to the subject's right.
    """
    atlas = _load()
    x = point[0]
    side = "midline" if abs(x) <= _MIDLINE_MM else ("right" if x > 0 else "left")
    voxel = np.round(atlas.to_voxel @ np.array([*point, 1.0]))[:3].astype(int)
    tissue = _tissue(atlas, voxel)
    distances = np.linalg.norm(atlas.centres - np.asarray(point), axis=1)
    nearest = int(distances.argmin())
    distance = float(distances[nearest])
    name = f"{side} {tissue}" if side != "midline" else f"{tissue}, midline"
    known = distance <= _FAR_MM
    if known:
        name += f", near {atlas.names[nearest]}"
    return {
        "name": name,
        "side": side,
        "tissue": tissue,
        "nearest": atlas.names[nearest] if known else None,
        "distance_mm": round(distance, 1),
        "atlas": "Dosenbach 2010 (nearest of 160 regions) and ICBM152 2009a tissue maps",
    }


def _tissue(atlas: _Atlas, voxel: np.ndarray) -> str:
    shape = next(iter(atlas.tissues.values())).shape
    if (voxel < 0).any() or (voxel >= shape).any():
        return "outside the template"
    share = {name: float(values[tuple(voxel)]) for name, values in atlas.tissues.items()}
    # Inside the brain, where neither tissue is likely, there is fluid.
    if sum(share.values()) < 0.5:
        return "fluid"
    return max(share, key=share.__getitem__)


@functools.lru_cache(maxsize=1)
def _load() -> _Atlas:
    centres, names = template_files.read_regions()
    tissues = {}
    for name, read in (
        ("grey matter", template_files.read_grey_matter),
        ("white matter", template_files.read_white_matter),
    ):
        # Every second voxel: a cubic spline through all of them has these very values there.
        values = read()[::2, ::2, ::2]
        # The maps are probabilities up to a factor.
        tissues[name] = values / values.max()
    affine = geometry_lib.TEMPLATE_GRID.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return _Atlas(centres, names, tissues, np.linalg.inv(affine))
