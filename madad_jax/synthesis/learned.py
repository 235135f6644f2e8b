"""Lesions of a bank, pasted on healthy slices on device: what `madad-jax draw-lesions` drew.

    x'    = x + a T d        d the change that a lesion made where it was drawn, T a shift and a
                             mirror, a ~ U(0.8, 1.25)
    truth = T m and |x' - x| > tau

Drawing a lesion takes the sampler of a diffusion model, which is too slow inside a training step.
So lesions are drawn once, cut out as differences (what the drawing added to a slice), and pasted.
What is lost: a lesion pasted elsewhere does not know its new surroundings. It goes where healthy
tissue is about as bright as it was where the lesion was drawn (`match`, in deviations of the
brain), else anywhere in the brain.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.synthesis import smooth_noise

NAME = "lesions"  # of the bank among what a method reads and does not train
LEAST_CHANGE = 0.06  # of [-1, 1], for a pixel to count as changed


@dataclasses.dataclass(frozen=True)
class Options:
    """How lesions of a bank are pasted.

    Attributes:
      share: of the slices with drawn anomalies that get lesions of the bank instead, where a mask
        at image resolution learns; `synthesis.share` for the others.
      max_lesions: a slice has 1 to so many.
      match: largest difference in brightness between where a lesion was drawn and where it is
        pasted, in deviations of the brain.
    """

    share: float = 0.5
    max_lesions: int = 4
    match: float = 0.5

    def __post_init__(self):
        if not 0.0 <= self.share <= 1.0:
            raise errors.UserError(f"lesions.share: found {self.share}, accepted: 0 to 1")
        if self.max_lesions < 1:
            raise errors.UserError(f"lesions.max_lesions: found {self.max_lesions}, at least 1")
        if self.match <= 0:
            raise errors.UserError(f"lesions.match: found {self.match}, must be positive")


def find(frozen: Params) -> Params | None:
    """The bank among frozen weights; None where there is none."""
    return frozen.get(NAME) if isinstance(frozen, Mapping) else None


def shapes(count: int = 1, side: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a bank of `count` lesions, in squares of `side` pixels."""
    patch = jax.ShapeDtypeStruct((count, side, side), jnp.float32)
    return {"change": patch, "mask": patch, "level": jax.ShapeDtypeStruct((count,), jnp.float32)}


def paste(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    bank: Mapping[str, Any],
    options: Options,
) -> tuple[Float[jax.Array, "b H W 1"], Bool[jax.Array, "b H W"]]:
    """(slices with lesions, their pixels); slices span [-1, 1]. Pixels of no lesion stay as they
    are, to the bit.

    Args:
      key: draws which lesions, and where.
      images: healthy slices.
      brain_masks: lesions are pasted inside them.
      bank: `change` [n,p,p] in the units of images, `mask` [n,p,p] 0 or 1, `level` [n] brightness
        where the lesion was drawn, as a z-score of that brain.
      options: see `Options`.
    """
    k_count, k_lesions = jax.random.split(key)
    x = images[..., 0]
    brightness = smooth_noise.blur(_z_scores(x, brain_masks), times=2)
    count = jax.random.randint(k_count, (len(x), 1, 1), 1, options.max_lesions + 1)

    def add(carry: tuple[jax.Array, jax.Array], entry: tuple[jax.Array, jax.Array]):
        change, mask = carry
        k, n = entry
        more, marked = _one_lesion(k, brain_masks, brightness, bank, options.match)
        use = (n < count) & brain_masks
        # Where two lie upon each other, the later one counts.
        change = jnp.where(use & (more != 0), more, change)
        return (change, mask | (use & marked)), None

    # A scan and no loop: the program is compiled once and not a time a lesion.
    entries = jax.random.split(k_lesions, options.max_lesions), jnp.arange(options.max_lesions)
    nothing = jnp.zeros(x.shape, x.dtype), jnp.zeros(x.shape, bool)
    (change, mask), _ = jax.lax.scan(add, nothing, entries)
    pasted = jnp.where(change != 0, jnp.clip(x + change, -1.0, 1.0), x)
    return pasted[..., None], mask & (jnp.abs(pasted - x) > LEAST_CHANGE)


def _one_lesion(
    key: jax.Array,
    brain_masks: Bool[jax.Array, "b H W"],
    brightness: Float[jax.Array, "b H W"],
    bank: Mapping[str, Any],
    match: float,
) -> tuple[Float[jax.Array, "b H W"], Bool[jax.Array, "b H W"]]:
    """(change, mask) of one lesion of the bank a slice."""
    batch, height, width = brain_masks.shape
    k_which, k_flip, k_amount, k_place = jax.random.split(key, 4)
    which = jax.random.randint(k_which, (batch,), 0, bank["level"].shape[0])
    level = jnp.asarray(bank["level"])[which][:, None, None]
    alike = brain_masks & (jnp.abs(brightness - level) < match)
    places = jnp.where(alike.any((1, 2), keepdims=True), alike, brain_masks).reshape(batch, -1)
    # Logits of a slice without brain would all be -inf, which categorical cannot draw from.
    logits = jnp.where(places | ~places.any(-1, keepdims=True), 0.0, -jnp.inf)
    pixel = jax.random.categorical(k_place, logits)
    flip = jax.random.bernoulli(k_flip, 0.5, (batch, 1, 1))
    amount = jax.random.uniform(k_amount, (batch, 1, 1), minval=0.8, maxval=1.25)
    side = bank["change"].shape[1]

    def put(patches: Any) -> jax.Array:
        patch = jnp.asarray(patches)[which]
        patch = jnp.where(flip, patch[:, :, ::-1], patch)
        # A margin of one patch, since a lesion at the rim reaches beyond the picture.
        canvas = jnp.zeros((height + 2 * side, width + 2 * side), patch.dtype)

        def one(p: jax.Array, at: jax.Array) -> jax.Array:
            corner = at // width + side - side // 2, at % width + side - side // 2
            return jax.lax.dynamic_update_slice(canvas, p, corner)

        return jax.vmap(one)(patch, pixel)[:, side:-side, side:-side]

    return amount * put(bank["change"]), put(bank["mask"]) > 0.5


def _z_scores(x: Float[jax.Array, "b H W"], brain: Bool[jax.Array, "b H W"]) -> jax.Array:
    axes = (1, 2)
    count = jnp.maximum(brain.sum(axes, keepdims=True), 1)
    mean = jnp.where(brain, x, 0.0).sum(axes, keepdims=True) / count
    centred = jnp.where(brain, x - mean, 0.0)
    deviation = jnp.sqrt(jnp.square(centred).sum(axes, keepdims=True) / count)
    return centred / jnp.maximum(deviation, 1e-5)
