"""Lesions for synthetic subjects, with exact masks.

Five kinds, of which the last two are invisible to any threshold on intensity:

- `stroke`: an infarct; dark on T1, bright on T2 and FLAIR.
- `tumour`: a mixed core in a rim of oedema that spreads through white matter.
- `periventricular`: several small patches in the white matter around the ventricles.
- `heterotopia`: grey-matter intensity inside white matter.
- `displacement`: tissue in the wrong place: cortex and deep nuclei pushed aside, or a
  stretch of cortex that is missing.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from madad_jax.data.cohort import anatomy as anatomy_lib
from madad_jax.data.cohort import appearance, random_fields

KINDS = ("stroke", "tumour", "periventricular", "heterotopia", "displacement")
SIZES = ("small", "medium", "large")
# Radii in mm. At 208 mm over 128 px the groups of THOR (71 and 570 px) end at 7.7 and 22 mm.
_RADIUS = {"small": (4.5, 7.0), "medium": (10.0, 18.5), "large": (25.0, 32.0)}
_INTENSITY = {
    "stroke": {"T1": 0.36, "T2": 0.85, "FLAIR": 0.90},
    "core": {"T1": 0.48, "T2": 0.75, "FLAIR": 0.80},
    "necrosis": {"T1": 0.28, "T2": 0.92, "FLAIR": 0.40},
    "oedema": {"T1": 0.62, "T2": 0.72, "FLAIR": 0.88},
    "periventricular": {"T1": 0.50, "T2": 0.70, "FLAIR": 0.86},
}


# (noise-free intensities with the lesion in them, its mask), both [z, h, w].
_Drawn = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Planted:
    """Noise-free intensities with a lesion in them.

    Attributes:
      clean: intensities [z, h, w].
      mask: where the lesion is, inside the brain.
    """

    clean: Float32[np.ndarray, "z h w"]
    mask: Bool[np.ndarray, "z h w"]


def plant(
    rng: np.random.Generator,
    kind: str,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
) -> Planted:
    """Draws one lesion (for the small ones, a few) of `kind` and `size`."""
    clean = contrast.mix(anatomy.fluid, anatomy.grey, anatomy.white)
    mask = np.zeros(anatomy.grid.shape, bool)
    repeats = 3 if size == "small" and kind != "periventricular" else 1
    for _ in range(repeats):
        clean, new = _DRAW[kind](rng, size, anatomy, contrast, clean)
        mask |= new
    return Planted(clean.astype(np.float32), mask & anatomy.brain)


def _blob(
    rng: np.random.Generator,
    grid: random_fields.Grid,
    centre: tuple[int, int, int],
    radius: float,
    roughness: float = 0.16,
) -> np.ndarray:
    """Distance from `centre` in radii of a rough, tilted ellipsoid; < 1 inside."""
    across = grid.in_plane()
    z = np.asarray(grid.levels, np.float32)[:, None, None] - grid.levels[centre[0]]
    row = across[None, :, None] - across[centre[1]]
    column = across[None, None, :] - across[centre[2]]
    # Half a turn: an ellipse looks the same after it.
    angle = rng.uniform(0.0, np.pi)
    stretch = np.exp(rng.normal(0.0, 0.15))
    along = (np.cos(angle) * row + np.sin(angle) * column) * stretch
    across_it = (np.cos(angle) * column - np.sin(angle) * row) / stretch
    distance = np.sqrt(along**2 + across_it**2 + z**2) / radius
    rough = random_fields.smooth(rng, grid, max(0.45 * radius, 2.5))
    return distance + roughness * rough


def _pick(
    rng: np.random.Generator, anatomy: anatomy_lib.Anatomy, weight: np.ndarray, margin: int = 1
) -> tuple[int, int, int]:
    """A voxel drawn with probability proportional to `weight`, off the outer slices."""
    # Every fourth pixel: a place need not be known finer, and choosing among all is slow.
    coarse = weight[:, ::4, ::4].astype(np.float64)
    levels = coarse.shape[0]
    if levels > 2 * margin:
        coarse[:margin] = 0.0
        coarse[levels - margin :] = 0.0
    flat = coarse.ravel()
    # The few slices of this subject show no such place: anywhere in the brain.
    if flat.sum() <= 0.0:
        flat = anatomy.brain[:, ::4, ::4].astype(np.float64).ravel()
    chosen = rng.choice(flat.size, p=flat / flat.sum())
    z, row, column = np.unravel_index(chosen, coarse.shape)
    return int(z), int(row) * 4, int(column) * 4


def _radius(rng: np.random.Generator, size: str) -> float:
    return rng.uniform(*_RADIUS[size])


def _soft(mask: np.ndarray, grid: random_fields.Grid, sigma: float = 0.8) -> np.ndarray:
    # In plane alone: slices lie millimetres apart.
    blur = sigma / grid.pixel
    return ndimage.gaussian_filter(mask.astype(np.float32), (0.0, blur, blur), truncate=2.5)


def _level(rng: np.random.Generator, name: str, contrast: appearance.Contrast) -> float:
    return _INTENSITY[name][contrast.modality] * np.exp(rng.normal(0.0, 0.06))


def _texture(
    rng: np.random.Generator, grid: random_fields.Grid, amount: float = 0.05
) -> np.ndarray:
    return 1.0 + amount * random_fields.smooth(rng, grid, 2.5)


def _stroke(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    weight = anatomy.brain & (anatomy.depth > 5.0) & (anatomy.fluid < 0.3)
    distance = _blob(rng, anatomy.grid, _pick(rng, anatomy, weight), _radius(rng, size), 0.2)
    mask = (distance < 1.0) & anatomy.brain & (anatomy.ventricle > 1.0)
    amount = rng.uniform(0.75, 0.95) * _soft(mask, anatomy.grid, 1.2)
    target = _level(rng, "stroke", contrast) * _texture(rng, anatomy.grid)
    # Sulci stay what they are: an infarct is of tissue.
    amount = amount * (1.0 - 0.7 * anatomy.fluid)
    return clean + amount * (target - clean), mask


def _tumour(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    weight = (anatomy.white > 0.5) & (anatomy.depth > 9.0) & (anatomy.ventricle > 3.0)
    radius = _radius(rng, size)
    grid = anatomy.grid
    distance = _blob(rng, grid, _pick(rng, anatomy, weight), radius)
    # Oedema runs along white matter and stops at cortex and ventricles.
    resistance = 0.55 * anatomy.grey + 0.8 * anatomy.fluid
    oedema = (distance * (1.0 + resistance) < 1.0) & anatomy.brain & (anatomy.ventricle > 0.5)
    core = (distance < rng.uniform(0.5, 0.65)) & anatomy.brain
    necrosis = (
        distance + 0.1 * random_fields.smooth(rng, grid, 3.0) < rng.uniform(0.2, 0.35)
    ) & core
    for region, name, sigma in (
        (oedema, "oedema", 1.6),
        (core, "core", 0.8),
        (necrosis, "necrosis", 0.8),
    ):
        target = _level(rng, name, contrast) * _texture(rng, grid, 0.08)
        clean = clean + 0.9 * _soft(region, grid, sigma) * (target - clean)
    return clean, oedema | core


def _periventricular(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    near = (anatomy.ventricle > 1.5) & (anatomy.ventricle < 11.0)
    weight = near & (anatomy.white > 0.7)
    count, radii = {
        "small": (6, (2.2, 3.6)),
        "medium": (9, (3.0, 5.5)),
        "large": (12, (4.0, 8.0)),
    }[size]
    mask = np.zeros(anatomy.grid.shape, bool)
    for _ in range(count):
        distance = _blob(rng, anatomy.grid, _pick(rng, anatomy, weight), rng.uniform(*radii), 0.12)
        mask |= (distance < 1.0) & (anatomy.white > 0.35) & (anatomy.ventricle > 0.5)
    amount = rng.uniform(0.7, 0.95) * _soft(mask, anatomy.grid)
    target = _level(rng, "periventricular", contrast) * _texture(rng, anatomy.grid)
    return clean + amount * (target - clean), mask


def _heterotopia(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    grid = anatomy.grid
    radius = _radius(rng, size) * (0.8 if size == "large" else 1.0)
    blur = 0.4 * radius / grid.pixel
    inside = ndimage.uniform_filter(anatomy.white, (1, *(2 * [max(int(2 * blur), 1)])))
    weight = np.where(anatomy.white > 0.8, inside, 0.0) ** 8
    distance = _blob(rng, grid, _pick(rng, anatomy, weight), radius, 0.22)
    mask = (distance < 1.0) & (anatomy.white > 0.5)
    amount = _soft(mask, grid, 0.6) * anatomy.white
    return clean + amount * (contrast.grey - contrast.white), mask


def _displacement(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    if rng.random() < 0.5:
        return _missing_cortex(rng, size, anatomy, contrast, clean)
    return _mass_effect(rng, size, anatomy, clean)


def _missing_cortex(
    rng: np.random.Generator,
    size: str,
    anatomy: anatomy_lib.Anatomy,
    contrast: appearance.Contrast,
    clean: np.ndarray,
) -> _Drawn:
    """A stretch of cortical ribbon and sulci replaced by white matter."""
    weight = (anatomy.grey > 0.6) & (anatomy.depth > 4.0) & (anatomy.depth < 14.0)
    radius = 1.1 * _radius(rng, size)
    distance = _blob(rng, anatomy.grid, _pick(rng, anatomy, weight), radius)
    region = (distance < 1.0) & anatomy.brain & (anatomy.depth > 1.5)
    changed = region & (anatomy.white < 0.7)
    amount = _soft(region, anatomy.grid, 1.0)
    pixels = max(round(2.0 / anatomy.grid.pixel), 1)
    disc = np.ones((1, 2 * pixels + 1, 2 * pixels + 1), bool)
    mask = ndimage.binary_closing(changed, disc) & region
    return clean + amount * (contrast.white - clean) * anatomy.brain, mask


def _mass_effect(
    rng: np.random.Generator, size: str, anatomy: anatomy_lib.Anatomy, clean: np.ndarray
) -> _Drawn:
    """Tissue pushed away from a point that itself looks normal: only its place is wrong.

    The picture at r shows what was at r (1 - 0.85 bump(r / R)), bump(s) = (1 - s^2)^2: smooth,
    one-to-one, nothing beyond R. The mask is the disc out to where the shift falls below 2 mm.
    """
    grid = anatomy.grid
    reach = 1.7 * _radius(rng, size)
    weight = (anatomy.brain & (anatomy.depth > min(0.5 * reach, 22.0))).astype(np.float32)
    # Near the ventricles, whose bent outline shows the shift.
    weight *= np.exp(-np.abs(anatomy.ventricle - 5.0) / 10.0)
    z, row, column = _pick(rng, anatomy, weight)
    across = grid.in_plane()
    height = np.asarray(grid.levels, np.float32)[:, None, None] - grid.levels[z]
    down = across[None, :, None] - across[row]
    right = across[None, None, :] - across[column]
    # 3-D, so that the push fades over neighbouring slices too.
    squared = (down**2 + right**2 + height**2) / reach**2
    pull = 0.85 * np.clip(1.0 - squared, 0.0, 1.0) ** 2
    rows = np.arange(grid.side, dtype=np.float32)
    moved = np.empty_like(clean)
    for k in range(grid.shape[0]):
        x = rows[None, :] - pull[k] * right[0] / grid.pixel
        y = rows[:, None] - pull[k] * down[0] / grid.pixel
        x, y = x.astype(np.float32), y.astype(np.float32)
        moved[k] = cv2.remap(clean[k], x, y, cv2.INTER_LINEAR)
    shift = pull * np.sqrt(squared) * reach
    inner = squared < squared[shift >= 2.0].max(initial=0.0)
    return np.where(anatomy.brain, moved, clean), inner & anatomy.brain


_DRAW = {
    "stroke": _stroke,
    "tumour": _tumour,
    "periventricular": _periventricular,
    "heterotopia": _heterotopia,
    "displacement": _displacement,
}
