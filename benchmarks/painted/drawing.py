"""Irregular shapes, soft borders, displacement, and what of a change can be seen."""

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from benchmarks.painted import tissues

VISIBLE = 0.35  # of the contrast of white and grey matter
Volume = tissues.Volume
Mask = tissues.Mask


def field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Volume:
    """Smooth random numbers of mean 0 and standard deviation 1; sigma in voxels."""
    if sigma <= 4:
        drawn = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="wrap")
    else:
        # A smooth field is drawn on a coarse grid and enlarged: a tenth of the time.
        step = sigma / 2
        small = [int(np.ceil(length / step)) + 4 for length in shape]
        coarse = ndimage.gaussian_filter(rng.standard_normal(small, np.float32), 2.0, mode="wrap")
        places = np.meshgrid(*[np.arange(n) / step + 1 for n in shape], indexing="ij")
        drawn = ndimage.map_coordinates(coarse, places, order=3).astype(np.float32)
    return (drawn - drawn.mean()) / max(float(drawn.std()), 1e-6)


def offsets(
    shape: tuple[int, ...], centre: tuple[int, ...], voxel_mm: tuple[float, float, float]
) -> Float32[np.ndarray, "3 X Y Z"]:
    """Vectors in mm from the centre to every voxel."""
    lines = [
        (np.arange(length, dtype=np.float32) - c) * side
        for length, c, side in zip(shape, centre, voxel_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def axes(rng: np.random.Generator, stretch: float) -> Float[np.ndarray, "3 3"]:
    """A turned matrix of determinant 1 whose axes differ by up to `stretch` either way."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    logs = rng.uniform(-1, 1, 3) * np.log(stretch)
    return np.diag(np.exp(logs - logs.mean())) @ turn


def radius_mm(ml: float) -> float:
    """Of the ball of a volume."""
    return float((3000 * ml / (4 * np.pi)) ** (1 / 3))


def rough_distance(
    rng: np.random.Generator,
    away: Float32[np.ndarray, "3 X Y Z"],
    scale_mm: float,
    voxel_mm: tuple[float, float, float],
    stretch: float = 1.3,
    roughness: float = 0.2,
) -> Volume:
    """Distance in mm to the centre, in stretched axes, with lobes and a finer roughness."""
    distance = np.linalg.norm(np.einsum("ij,jxyz->ixyz", axes(rng, stretch), away), axis=0)
    voxel = float(np.mean(voxel_mm))
    lobes = field(rng, distance.shape, max(0.55 * scale_mm / voxel, 0.8))
    fine = field(rng, distance.shape, max(0.2 * scale_mm / voxel, 0.7))
    factor = 1 + roughness * lobes + 0.35 * roughness * fine
    return (distance * np.clip(factor, 0.45, 1.8)).astype(np.float32)


def soft(distance: Volume, radius: float, ramp_mm: float) -> Volume:
    """1 inside, 0 outside, 0.5 at the radius, smooth over `ramp_mm`."""
    t = np.clip((radius - distance) / ramp_mm + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def own_noise(rng: np.random.Generator, head: tissues.Anatomy) -> Volume:
    """Noise with the standard deviation and the width of the head's own."""
    return head.noise * field(rng, head.image.shape, head.noise_width)


def displaced(
    image: Volume,
    shift_mm: Float32[np.ndarray, "3 X Y Z"],
    voxel_mm: tuple[float, float, float],
) -> Volume:
    """The image whose voxel p shows what lay at p - shift; untouched where nothing moves."""
    scaled = shift_mm / np.reshape(voxel_mm, (3, 1, 1, 1))
    moved = np.abs(scaled).max(0) > 0.02
    places = np.argwhere(moved).T - scaled[:, moved]
    out = image.copy()
    # `nearest`: at the border of the box, which no shift should reach.
    out[moved] = ndimage.map_coordinates(image, places, order=3, mode="nearest")
    return out


def visible(before: Volume, after: Volume, contrast: float, within: Mask) -> tuple[Mask, Volume]:
    """Where the change exceeds `VISIBLE` of the contrast of white and grey matter.

    The change is averaged over about a voxel first, as an eye averages noise. Gaps of a voxel and
    enclosed holes are filled. Loose pieces under a twentieth of the largest are painted over again
    with what was there before: the second value is `after` without them.
    """
    change = np.abs(ndimage.gaussian_filter(after - before, 0.6))
    seen = (change > VISIBLE * contrast) & within
    seen = ndimage.binary_fill_holes(seen | (ndimage.binary_closing(seen) & within))
    pieces, count = ndimage.label(seen)
    if count > 1:
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        kept = (sizes >= max(sizes.max() / 20, 4))[pieces] & seen
        fringe = ndimage.binary_dilation(seen & ~kept, iterations=2)
        after = np.where(fringe & ~ndimage.binary_dilation(kept), before, after)
        seen = kept
    return seen, after
