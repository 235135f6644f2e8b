"""What is drawn into a slice: which lesions, deformed how, where; and the slice that comes of it.

A slice gets as many lesions as a random example has. Each slice and try draws from its own
generator, so that a set does not depend on the order in which it was drawn, or on a stop.

    residual   x = x_src + m (D(z) - D(z_src))      what the drawing changed, and nothing of what
                                                    the autoencoder loses
    blend      x = m D(z) + (1 - m) x_src           the decoded slice itself

m is the mask with a soft rim. Where m is 0 the pixels of the file stay as they are, to the bit. The
truth are the pixels that changed by more than tau, and not the mask.
"""

import dataclasses
import zlib
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from madad_jax.core import errors
from madad_jax.experiment import lesion_examples
from madad_jax.synthesis import lesion_masks

APPEARANCES = ("learned", "copy")
COMPOSITIONS = ("residual", "blend")
_USUAL = lesion_masks.Deformation()
_PATCH = 24  # side at which patches are compared
_AROUND = 2  # pixels around a lesion that are compared too


@dataclasses.dataclass(frozen=True)
class Settings:
    """How lesions are drawn into slices.

    Attributes:
      appearance: `learned`, or `copy`: the examples' own pixels (the floor to beat).
      compose: `residual` or `blend`.
      seed: of all draws.
      rim: soft rim of a lesion, pixels of the files.
      least_change: tau, of the range [0, 1].
      most: lesions of a slice.
      tries: draws of a slice before it is left out, where no pixel changes enough.
    """

    appearance: str = "learned"
    compose: str = "residual"
    seed: int = 0
    rim: float = 2.0
    least_change: float = 0.03
    most: int = 8
    tries: int = 4

    def __post_init__(self):
        for name, accepted in (("appearance", APPEARANCES), ("compose", COMPOSITIONS)):
            if getattr(self, name) not in accepted:
                raise errors.UserError(
                    f"--{name}: found {getattr(self, name)!r}, accepted: {', '.join(accepted)}"
                )
        if not 0 < self.least_change < 1 or self.rim <= 0 or min(self.most, self.tries) < 1:
            raise errors.UserError(
                f"--least_change, --rim, --most, --tries: found {self.least_change}, {self.rim}, "
                f"{self.most}, {self.tries}; accepted: 0 to 1, above 0, at least 1, at least 1"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a slice gets.

    Attributes:
      kind: number of the type, from 1 on.
      mask: [S,S] where lesions are.
      grey: [S,S] the examples' grey values there and around, NaN elsewhere; brought to the
        brightness of the slice.
      parts: {example, lesion, corner, pixels} of each lesion.
    """

    kind: int
    mask: Bool[np.ndarray, "S S"]
    grey: Float32[np.ndarray, "S S"]
    parts: list[dict[str, Any]]


def make_plan(
    picture: lesion_examples.Picture,
    examples: list[lesion_examples.Examples],
    settings: Settings,
    attempt: int = 0,
    deformation: lesion_masks.Deformation = _USUAL,
) -> Plan | None:
    """Lesions for a slice; None where none fits into its brain.

    Args:
      picture: the healthy slice.
      examples: one entry a type.
      settings: how they are drawn.
      attempt: another draw for the same slice.
      deformation: of masks.
    """
    draw = np.random.default_rng([settings.seed, zlib.crc32(picture.id.encode()), attempt])
    kind = int(draw.integers(len(examples)))
    chosen = examples[kind]
    count = min(settings.most, int(draw.choice(chosen.counts())))
    # A gain by medians: lesions themselves widen a brain's spread, and hardly move its median.
    gains = {one.id: picture.median() / one.median() for one in chosen.pictures}
    mask = np.zeros(picture.brain.shape, bool)
    grey = np.full(mask.shape, np.nan, np.float32)
    parts = []
    for _ in range(count):
        lesion = chosen.lesions[int(draw.integers(len(chosen.lesions)))]
        inside, values = lesion_masks.deform(draw, lesion, deformation)
        corner = lesion_masks.place(draw, inside, picture.brain)
        if corner is None:
            continue
        near = lesion_masks.soften(inside, settings.rim) > 0
        values = values * gains[lesion.example]
        lesion_masks.paint(grey, values.astype(np.float32), corner, near)
        lesion_masks.paint(mask, inside, corner, inside)
        where = {"example": lesion.example, "lesion": lesion.number, "corner": list(corner)}
        parts.append(where | {"pixels": int(inside.sum())})
    mask &= picture.brain
    return Plan(kind + 1, mask, grey, parts) if mask.any() else None


def resize(pixels: Float32[np.ndarray, "S S"], side: int) -> Float32[np.ndarray, "T T"]:
    """By area when shrinking, linear when growing: no overshoot at a lesion's rim."""
    method = cv2.INTER_AREA if pixels.shape[0] > side else cv2.INTER_LINEAR
    return cv2.resize(np.asarray(pixels, np.float32), (side, side), interpolation=method)


def compose(
    picture: lesion_examples.Picture,
    plan: Plan,
    settings: Settings,
    drawn: Float32[np.ndarray, "s s"] | None = None,
    healthy: Float32[np.ndarray, "s s"] | None = None,
) -> tuple[Int[np.ndarray, "S S"], Bool[np.ndarray, "S S"]]:
    """(levels of the slice with lesions, its truth).

    Args:
      picture: the healthy slice.
      plan: what it gets.
      settings: how.
      drawn, healthy: the decoded slices of a run with and without lesions, in [-1, 1]; not read
        for copies.
    """
    weight = lesion_masks.soften(plan.mask, settings.rim) * picture.brain
    grey, side = picture.grey, len(picture.brain)
    if settings.appearance == "copy":
        wanted = np.where(np.isnan(plan.grey), grey, plan.grey)
        made = weight * wanted + (1 - weight) * grey
    elif settings.compose == "blend":
        made = weight * resize((drawn + 1) / 2, side) + (1 - weight) * grey
    else:
        made = grey + weight * resize((drawn - healthy) / 2, side)
    levels = np.round(np.clip(made, 0, 1) * picture.white).astype(np.int32)
    levels = np.where(weight > 0, levels, picture.levels)
    change = np.abs(levels - picture.levels) / picture.white
    return levels, change > settings.least_change


def nearest_example(
    levels: Int[np.ndarray, "S S"],
    picture: lesion_examples.Picture,
    plan: Plan,
    examples: lesion_examples.Examples,
) -> dict[str, Any]:
    """How like the examples the drawn lesions are, by normalised cross-correlation, -1 to 1.

    Returns:
      `ncc_source` of the drawn pixels with those of the examples whose masks they have, deformed
      and moved as the masks were: 1 for copies. `ncc` of the largest lesion with the example lesion
      that it is most like, mirrored or not, at one size for all, its `example` and `lesion`. Both
      end in `_healthy` for the slice before: what chance gives.
    """
    before = picture.tissue()
    made = np.where(picture.brain, (levels / picture.white).astype(np.float32), before)
    there = plan.mask & ~np.isnan(plan.grey)
    best: dict[str, Any] = {
        "ncc_source": lesion_masks.similarity(made[there], plan.grey[there]),
        "ncc_source_healthy": lesion_masks.similarity(before[there], plan.grey[there]),
        "ncc": -1.0,
        "ncc_healthy": -1.0,
    }
    rows, columns, _ = max(lesion_masks.components(plan.mask), key=lambda c: c[2].sum())
    drawn, healthy = (_patch(grey, rows, columns) for grey in (made, before))
    for one in examples.lesions:
        top, left, _ = lesion_masks.components(one.mask)[0]
        patch = _patch(one.grey, top, left)
        for turned in (patch, patch[:, ::-1]):
            ncc = lesion_masks.similarity(drawn, turned)
            if ncc > best["ncc"]:
                best |= {"ncc": ncc, "example": one.example, "lesion": one.number}
            chance = lesion_masks.similarity(healthy, turned)
            best["ncc_healthy"] = max(best["ncc_healthy"], chance)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in best.items()}


def _patch(grey: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """A lesion and its surroundings, at one size for all."""
    top, left = max(0, rows.start - _AROUND), max(0, columns.start - _AROUND)
    cut = grey[top : rows.stop + _AROUND, left : columns.stop + _AROUND]
    return cv2.resize(np.ascontiguousarray(cut), (_PATCH, _PATCH), interpolation=cv2.INTER_LINEAR)
