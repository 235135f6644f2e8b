"""Whether a scan still shows its skull.

Bone is dark in every contrast, and it lies between a brighter scalp and a brighter brain: from the
surface inwards brightness falls and rises again. A brain whose skull was removed has no such dip,
in no contrast. Depth counts from the surface of what is not background, and not from the faces at
which a slab or a tight box cuts the head.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from madad_jax.scans import volumes

# A brain alone measures no more; what measures less is a piece that nobody can judge.
STRIPPED_ML = (200.0, 2500.0)
# Of the range of brightness. Heads of IXI, whole, cut, or scaled to 70 %, had 0.12 and more (0.11
# at half size); their brains stripped in several ways, and MS patients' brains, 0.07 at most.
_DIP = 0.09
_VOXEL_MM = 2.4  # Larger voxels are taken as they are, smaller ones thinned out.
_SHELL_MM = 2.0
_DEPTH_MM = 30.0  # Behind it lie fluid and nuclei, whose brightness goes up and down.
_RISE = 8  # Shells within which the brain must follow upon the bone.
_LEAST_VOXELS = 30  # Of a shell.
_DARK = 0.12  # Brightness of air.
# Shares of it, of all and of the rim. Small heads and slabs with their noisy air had 0.27 and 0.71
# at least; brains 0.3 and 0.05, or 0.14 and 0.54, at most.
_MOST_DARK, _MOST_DARK_RIM, _RIM_MM = 0.25, 0.7, 6.0
_FACES = 0.3  # Share of a volume's faces that makes a value the background.


def find_background(data: Float32[np.ndarray, "X Y Z"]) -> float:
    """The value that was written where there is no head, and 0 where none is seen."""
    return find_constant(data) or 0.0


def find_constant(data: Float32[np.ndarray, "X Y Z"]) -> float | None:
    """The value that fills the volume's faces; None: there is none."""
    faces = [np.take(data, k, axis).ravel() for axis in range(3) for k in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    k = int(counts.argmax())
    return float(values[k]) if counts[k] >= _FACES * counts.sum() else None


def is_stripped(volume: volumes.Volume) -> bool:
    """Whether the skull was removed before: a constant around no more than a brain, and no bone
    beneath its surface."""
    inside = volume.data != np.float32(find_background(volume.data))
    size = float(np.count_nonzero(inside)) * volume.voxel_ml
    if not STRIPPED_ML[0] <= size <= STRIPPED_ML[1]:
        return False
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    steps = [max(1, int(_VOXEL_MM // mm)) for mm in volume.voxel_mm]
    thin = tuple(slice(step // 2, None, step) for step in steps)
    seen, inside = volume.data[box][thin], _fill(inside[box][thin])
    voxel_mm = volume.voxel_mm * steps
    # Bone that was set to the background leaves a rind and a core: filled, they are a head.
    size = float(inside.sum()) * float(np.prod(voxel_mm)) / 1000.0
    if not inside.any() or size > STRIPPED_ML[1]:
        return False
    low, high = np.percentile(seen[inside], (1.0, 98.0))
    if not high > low:
        return True  # A mask, or constant: others say so better.
    unit = ((seen - low) / (high - low)).astype(np.float32)
    depth = _measure_depth(inside, voxel_mm)
    # A box of a head with its noisy air, padded with a constant, is mostly air, above all outside;
    # white matter may be as dark, but not the rim of a brain as well.
    dark = unit < _DARK
    rim = inside & (depth <= _RIM_MM)
    if dark[inside].mean() > _MOST_DARK and dark[rim].mean() > _MOST_DARK_RIM:
        return False
    return measure_dip(unit, inside, depth) < _DIP


def _measure_depth(
    inside: Bool[np.ndarray, "X Y Z"], voxel_mm: Float64[np.ndarray, " 3"]
) -> Float64[np.ndarray, "X Y Z"]:
    """Distance to the surface, mm, of a head or brain that is cut to its box."""
    margin = [int(np.ceil(_DEPTH_MM / mm)) for mm in voxel_mm]
    # What meets a face of the box goes on behind it, so that a cut is no surface.
    longer = np.pad(inside, [(n, n) for n in margin], mode="edge")
    depth = ndimage.distance_transform_edt(longer, sampling=voxel_mm)
    return depth[tuple(slice(n, -n) for n in margin)]


def measure_dip(
    data: Float32[np.ndarray, "X Y Z"],
    inside: Bool[np.ndarray, "X Y Z"],
    depth: Float64[np.ndarray, "X Y Z"],
) -> float:
    """By how much brightness falls beneath the surface before it rises again, at least 0.

    Args:
      data: brightness, mostly over [0, 1].
      inside: the head or brain.
      depth: distance to its surface, mm.
    """
    shells = np.ceil(depth / _SHELL_MM).astype(int)
    curves = []
    for shell in range(1, int(_DEPTH_MM / _SHELL_MM) + 1):
        values = data[inside & (shells == shell)]
        if values.size >= _LEAST_VOXELS:
            curves.append(np.percentile(values, (25.0, 50.0)))
    return max((_deepest(curve) for curve in np.transpose(curves)), default=0.0)


def _deepest(curve: np.ndarray) -> float:
    """The largest fall of a curve that is followed by a rise."""
    falls = [
        min(curve[:k].max(), curve[k + 1 : k + _RISE].max()) - curve[k]
        for k in range(1, len(curve) - 1)
    ]
    return max([0.0, *map(float, falls)])


def _fill(mask: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The mask and its holes, also those that are closed within a plane of any axis alone."""
    filled = mask.copy()
    flat = ndimage.generate_binary_structure(2, 1)
    for axis in range(3):
        plane = np.expand_dims(flat, axis)
        structure = np.concatenate([np.zeros_like(plane), plane, np.zeros_like(plane)], axis)
        filled |= ndimage.binary_fill_holes(mask, structure)
    return filled
