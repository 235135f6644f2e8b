"""The five kinds of lesions. Each draws its randomness first; then its size alone is varied.

A kind is a function (rng, box, centre, ml) -> paint, where paint(radius in mm) -> Painted grows
with the radius. Brightness is relative to white matter. What T1 images show, from common knowledge:

- `stroke`: an infarct of one territory, wide at the cortex and narrow towards the depth, in one
  half of the brain; between grey matter and CSF by its age, the old ones with a core of fluid.
- `tumour`: a mass near the brightness of grey matter, mottled, often with a necrotic core and a
  brighter rim; oedema that follows white matter; what lies around is pushed away, less with
  distance, and never through the skull.
- `white_matter`: small round or long spots, mostly beside the ventricles (small vessels, MS).
- `grey_in_white`: tissue like cortex within white matter (heterotopia), or below the cortex with
  a blurred border (dysplasia).
- `structure`: a lateral ventricle that is wide on one side, or a gyrus replaced by CSF.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from benchmarks.painted import drawing, tissues


@dataclasses.dataclass(frozen=True)
class Painted:
    """A box with a lesion of some size: the image, what it would be without, and its reach."""

    image: tissues.Volume
    before: tissues.Volume  # with the displacement, without the lesion
    within: tissues.Mask  # where the lesion was drawn: truth lies inside


Paint = Callable[[float], Painted]
Centre = tuple[int, int, int]


def _voxel(head: tissues.Anatomy) -> float:
    return float(np.mean(head.voxel_mm))


def _same_part(head: tissues.Anatomy, centre: Centre) -> tissues.Volume:
    """1 in the centre's half of the cerebrum (or below the tentorium), soft at its border."""
    return ndimage.gaussian_filter((head.part == head.part[centre]).astype(np.float32), 0.7)


def _tissue(head: tissues.Anatomy) -> tissues.Mask:
    """Brain without its fluid."""
    return (head.labels > 0) & ~head.of((*tissues.CSF, *tissues.VENTRICLES))


def _soft_white(head: tissues.Anatomy) -> tissues.Volume:
    """1 in white matter, smooth over its border."""
    white = head.of((*tissues.WHITE, *tissues.CEREBELLUM_WHITE)).astype(np.float32)
    return ndimage.gaussian_filter(white, 0.6)


def _darken(
    head: tissues.Anatomy, weight: tissues.Volume, level: tissues.Volume | float, keep: float
) -> tissues.Volume:
    """Towards a level, never brighter; the share `keep` of the structure shines through."""
    return head.image + weight * (1 - keep) * np.minimum(level - head.image, 0)


def stroke(rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float) -> Paint:
    """Darkened wedge on the cortex at `centre`, of one half of the brain."""
    scale, voxel = drawing.radius_mm(ml), _voxel(head)
    away = drawing.offsets(head.image.shape, centre, head.voxel_mm)
    # The inside lies where the depth below the surface grows, seen over some centimetres.
    smooth = ndimage.gaussian_filter(head.depth_mm, 8.0 / np.array(head.voxel_mm))
    inward = np.array([g[centre] for g in np.gradient(smooth, *head.voxel_mm)])
    inward /= max(float(np.linalg.norm(inward)), 1e-6)
    along = np.einsum("i,ixyz->xyz", inward, away)
    across = np.linalg.norm(away - inward[:, None, None, None] * along, axis=0)
    lobes = drawing.field(rng, along.shape, max(0.6 * scale / voxel, 0.8))
    fine = drawing.field(rng, along.shape, max(0.2 * scale / voxel, 0.8))
    # The cortex suffers further out than the white matter beneath it.
    tissue = 0.2 * _soft_white(head)
    rough = np.clip(1 + 0.2 * lobes + 0.12 * fine + tissue, 0.5, 1.7)
    fluid = rng.uniform() < 0.5
    level = head.csf + rng.uniform(0.1, 0.35 if fluid else 0.7) * (head.grey - head.csf)
    level = level + 0.05 * drawing.field(rng, along.shape, 2.5)
    keep, ramp = rng.uniform(0.1, 0.35), rng.uniform(1.2, 2.2) * voxel
    length = rng.uniform(1.2, 1.7)
    noise = drawing.own_noise(rng, head)
    inside = _same_part(head, centre) * ndimage.gaussian_filter(_tissue(head).astype("f4"), 0.5)

    def paint(radius: float) -> Painted:
        # Half as wide at the depth `length * radius` as at the surface.
        narrow = 1 - 0.5 * np.clip(along / (length * radius), 0, 1)
        distance = np.hypot(along / length, across / narrow) * rough
        weight = drawing.soft(distance, radius, ramp) * inside
        out = _darken(head, weight, level, keep)
        if fluid:
            core = drawing.soft(distance, 0.55 * radius, 1.5 * ramp) * inside
            out = out + core * np.minimum(head.csf - out, 0) * 0.9
        out = out + 0.6 * weight * noise
        return Painted(out, head.image, weight > 0.05)

    return paint


def tumour(rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float) -> Paint:
    """Mass with core and rim, oedema in white matter, surroundings pushed outward."""
    scale, voxel = drawing.radius_mm(ml), _voxel(head)
    shape = head.image.shape
    away = drawing.offsets(shape, centre, head.voxel_mm)
    distance = drawing.rough_distance(rng, away, scale, head.voxel_mm, 1.3, 0.15)
    # Masses cross the callosum and fill ventricles; the falx holds them.
    across = head.of((*tissues.VENTRICLES, tissues.CALLOSUM)).astype(np.float32)
    inside = np.maximum(_same_part(head, centre), ndimage.gaussian_filter(across, 0.7))
    mottle = drawing.field(rng, shape, max(0.25 * scale / voxel, 1.0))
    body = head.grey * rng.uniform(0.7, 0.95) + 0.05 * mottle
    rim = rng.choice([0.0, rng.uniform(0.12, 0.45)])
    core = rng.uniform(0.45, 0.7) if ml > 2 and rng.uniform() < 0.7 else 0.0
    core_level = head.csf + rng.uniform(0.0, 0.4) * (head.grey - head.csf)
    core_shape = 1 + 0.15 * drawing.field(rng, shape, max(0.3 * scale / voxel, 1.0))
    # Rims are broken and of uneven width.
    rim_weight = np.clip(0.8 + 0.5 * drawing.field(rng, shape, max(0.4 * scale / voxel, 1.0)), 0, 1)
    oedema, oedema_reach = rng.uniform(0.25, 0.7), rng.uniform(1.25, 1.6)
    fingers = drawing.field(rng, shape, max(0.3 * scale / voxel, 1.0))
    swell, ramp = rng.uniform(0.25, 0.7), rng.uniform(1.2, 2.2) * voxel
    noise = drawing.own_noise(rng, head)
    white = _soft_white(head)

    def paint(radius: float) -> Painted:
        shift = _push(head, away, distance, radius, swell)
        before = drawing.displaced(head.image, shift, head.voxel_mm)
        watery = drawing.displaced(white, shift, head.voxel_mm).clip(0, 1) * inside
        halo = drawing.soft(distance * (1 + 0.1 * fingers), radius * oedema_reach, 0.5 * radius)
        out = before - halo * watery * oedema * (1 - head.grey)
        # An uneven level: the rim lies at the border of the mass, the core deep inside.
        level = body + rim * rim_weight * np.exp(
            -(((distance - 0.86 * radius) / max(0.12 * radius, 0.8 * voxel)) ** 2)
        )
        if core:
            dark = drawing.soft(distance * core_shape, core * radius, max(0.25 * radius, ramp))
            level = level + dark * (core_level - level)
        mass = drawing.soft(distance, radius, ramp) * inside
        out = out + mass * (level + noise - out)
        return Painted(out, before, np.maximum(mass, halo * watery) > 0.05)

    return paint


def _push(
    head: tissues.Anatomy,
    away: Float32[np.ndarray, "3 X Y Z"],
    distance: tissues.Volume,
    radius: float,
    swell: float,
) -> Float32[np.ndarray, "3 X Y Z"]:
    """Outward displacement in mm: volume is kept near the mass, and nothing moves far away.

    The mass took the share `swell` of its volume from nowhere: what lies at the distance d came
    from (d^3 - swell radius^3)^(1/3). At 2.2 radii the displacement has faded to 0.
    """
    beyond = np.maximum(distance, radius)
    source = np.cbrt(np.maximum(beyond**3 - swell * radius**3, 0))
    fade = drawing.soft(distance, 1.6 * radius, 1.2 * radius)
    edge = np.clip(head.depth_mm / max(radius, 6.0), 0, 1)
    # Within the mass the displacement falls to 0 at its middle, where it has no direction.
    length = (beyond - source) * fade * edge * np.minimum(distance / radius, 1)
    norm = np.maximum(np.linalg.norm(away, axis=0), 1e-3)
    shift = away / norm * length
    smooth = [0, *(1.5 / np.array(head.voxel_mm))]
    return ndimage.gaussian_filter(shift, smooth).astype(np.float32)


def white_matter(
    rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float
) -> Paint:
    """One small spot."""
    away = drawing.offsets(head.image.shape, centre, head.voxel_mm)
    scale = drawing.radius_mm(ml)
    distance = drawing.rough_distance(rng, away, scale, head.voxel_mm, 1.6, 0.15)
    inside = _soft_white(head)
    level = head.grey * rng.uniform(0.7, 1.0)
    ramp = rng.uniform(1.0, 1.6) * _voxel(head)
    noise = drawing.own_noise(rng, head)

    def paint(radius: float) -> Painted:
        weight = drawing.soft(distance, radius, ramp) * inside
        out = _darken(head, weight, level, 0.1) + 0.5 * weight * noise
        return Painted(out, head.image, weight > 0.05)

    return paint


def grey_in_white(
    rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float
) -> Paint:
    """Lobed tissue of the cortex's brightness in white matter, its border blurred."""
    scale, voxel = drawing.radius_mm(ml), _voxel(head)
    shape = head.image.shape
    away = drawing.offsets(shape, centre, head.voxel_mm)
    distance = drawing.rough_distance(rng, away, scale, head.voxel_mm, 1.5, 0.3)
    inside = _soft_white(head) * _same_part(head, centre)
    level = head.grey * rng.uniform(0.95, 1.08) + 0.035 * drawing.field(rng, shape, 1.8)
    ramp = rng.uniform(1.5, 3.5) * voxel
    noise = drawing.own_noise(rng, head)

    def paint(radius: float) -> Painted:
        weight = drawing.soft(distance, radius, ramp) * inside
        out = _darken(head, weight, level, 0.05) + 0.7 * weight * noise
        return Painted(out, head.image, weight > 0.05)

    return paint


def structure(rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float) -> Paint:
    """A wide ventricle where the centre lies in one, a lost gyrus elsewhere."""
    draw = _wide_ventricle if head.labels[centre] in tissues.LATERAL else _lost_gyrus
    return draw(rng, head, centre, ml)


def _wide_ventricle(
    rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float
) -> Paint:
    """The neighbourhood of a place in the ventricle, magnified smoothly."""
    scale = 1.8 * drawing.radius_mm(ml)
    away = drawing.offsets(head.image.shape, centre, head.voxel_mm)
    distance = drawing.rough_distance(rng, away, scale, head.voxel_mm, 1.3, 0.12)
    grow = rng.uniform(0.6, 0.75)
    noise = drawing.own_noise(rng, head)
    inside = _same_part(head, centre)
    edge = np.clip(head.depth_mm / 10, 0, 1)

    def paint(radius: float) -> Painted:
        weight = np.exp(-((distance / radius) ** 2)) * drawing.soft(distance, 2 * radius, radius)
        weight = ndimage.gaussian_filter(weight * edge * inside, 1.0)
        out = drawing.displaced(head.image, away * (grow * weight), head.voxel_mm)
        # Magnified noise is coarser than the scan's own.
        out = out + 0.8 * np.where(weight > 0.02, weight, 0) * noise
        return Painted(out, head.image, weight > 0.02)

    return paint


def _lost_gyrus(
    rng: np.random.Generator, head: tissues.Anatomy, centre: Centre, ml: float
) -> Paint:
    """Cortex and what lies just below it, of the brightness of CSF; flatter than a stroke."""
    scale, voxel = drawing.radius_mm(ml), _voxel(head)
    away = drawing.offsets(head.image.shape, centre, head.voxel_mm)
    distance = drawing.rough_distance(rng, away, 1.1 * scale, head.voxel_mm, 1.5, 0.25)
    # What is lost is a gyrus: the border follows that of grey and white matter.
    distance = distance * (1 + 0.35 * _soft_white(head))
    inside = _same_part(head, centre) * ndimage.gaussian_filter(_tissue(head).astype("f4"), 0.5)
    level = head.csf * rng.uniform(0.9, 1.1) + 0.02 * drawing.field(rng, away.shape[1:], 2.0)
    ramp = rng.uniform(1.0, 1.6) * voxel
    deepest = rng.uniform(0.7, 1.1) * scale + 3
    noise = drawing.own_noise(rng, head)

    def paint(radius: float) -> Painted:
        shell = drawing.soft(head.depth_mm, deepest + 0.3 * radius, 2 * ramp)
        weight = drawing.soft(distance, radius, ramp) * inside * shell
        out = _darken(head, weight, level, 0.05) + 0.7 * weight * noise
        return Painted(out, head.image, weight > 0.05)

    return paint


DRAW = {
    "stroke": stroke,
    "tumour": tumour,
    "white_matter": white_matter,
    "grey_in_white": grey_in_white,
    "structure": structure,
}


def places(rng: np.random.Generator, head: tissues.Anatomy, kind: str, ml: float) -> tissues.Volume:
    """How likely each voxel of a head is the centre of a lesion; need not sum to 1."""
    cerebrum = head.part != tissues.BELOW
    if kind == "stroke":
        return _beside_surface(head, cerebrum | (ml < 15))
    if kind == "tumour":
        deep = head.depth_mm > min(0.9 * drawing.radius_mm(ml) + 4, 22)
        likely = np.where(head.of(tissues.WHITE), np.float32(1), np.float32(0.3))
        return likely * (_tissue(head) & deep & cerebrum)
    if kind == "structure" and rng.uniform() < 0.5:
        return head.of(tissues.LATERAL).astype(np.float32)
    if kind == "structure":
        return _beside_surface(head, cerebrum)
    white = ndimage.binary_erosion(head.of(tissues.WHITE))
    away = ndimage.distance_transform_edt(~head.of(tissues.LATERAL), sampling=head.voxel_mm)
    if kind == "white_matter":
        return white * (np.exp(-away / 5) + 0.003).astype(np.float32)
    return white * np.float32(1.0)


def _beside_surface(head: tissues.Anatomy, where: tissues.Mask) -> tissues.Volume:
    """Cortex near the brain's outer border."""
    cortex = head.of((*tissues.CORTEX, *tissues.CEREBELLUM_GREY))
    return (cortex & where & (head.depth_mm > 3) & (head.depth_mm < 12)).astype(np.float32)
