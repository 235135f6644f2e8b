"""DAG-like synthetic anomalies: foreign patches and biases of intensity classes (after Disyre).

    y = (1 - a s) x + a s x'                                   foreign patch, a ~ U(0.3, 1)
    y = y + b s 1[class(x) = k],   b = +- U(0.2, 0.8)           bias of one intensity class

s in [0, 1] is a random shape, x' tissue of another slice and place, and classes are those of
one-dimensional k-means over the brain's intensities. Either or both, a sample. After "disentangled
anomaly generation" as used by Disyre (Naval Marimont et al.); amounts, the number of classes
and that a bias moves one class are our choice (images span [-1, 1]). What was published is in
`disentangled.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

CLASSES = 4
_ROUNDS = 8  # of k-means; in one dimension from quantiles it hardly moves after


def intensity_classes(
    images: Float[jax.Array, "b H W 1"], brain_masks: Bool[jax.Array, "b H W"], count: int = CLASSES
) -> Int[jax.Array, "b H W"]:
    """k-means classes of each slice's brain pixels, 0 (darkest) to count - 1. Pixels outside the
    brain fall into the nearest class."""
    centres = class_centres(images, brain_masks, count)
    return _nearest(images.reshape(len(images), -1), centres).reshape(brain_masks.shape)


def class_centres(
    images: Float[jax.Array, "b H W 1"], brain_masks: Bool[jax.Array, "b H W"], count: int = CLASSES
) -> Float[jax.Array, "b k"]:
    """Centres of k-means over each slice's brain pixels, ascending; Lloyd's rounds from the
    quantiles."""
    values = images.reshape(len(images), -1)
    inside = brain_masks.reshape(len(images), -1)
    quantiles = (jnp.arange(count) + 0.5) / count
    # A slice without brain has no quantiles; its centres are then spread over the range.
    known = jnp.where(inside, values, jnp.nan)
    centres = jnp.nanquantile(known, quantiles, axis=-1).T
    centres = jnp.where(jnp.isnan(centres), 2 * quantiles - 1, centres)

    def lloyd_round(centres, _):
        member = jax.nn.one_hot(_nearest(values, centres), count) * inside[..., None]
        size = member.sum(1)
        mean = (member * values[..., None]).sum(1) / jnp.maximum(size, 1.0)
        return jnp.where(size > 0, mean, centres), None

    centres, _ = jax.lax.scan(lloyd_round, centres, None, length=_ROUNDS)
    return jnp.sort(centres, axis=-1)


def _nearest(values: Float[jax.Array, "b n"], centres: Float[jax.Array, "b k"]) -> jax.Array:
    return jnp.argmin(jnp.abs(values[..., None] - centres[:, None]), axis=-1)


def corrupt(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    weight: Float[jax.Array, "b H W"],
    foreign: Float[jax.Array, "b H W 1"],
) -> Float[jax.Array, "b H W 1"]:
    """The two formulas inside `weight`, the shape s; the rest of a slice is untouched."""
    k_what, k_amount, k_bias, k_sign, k_class = jax.random.split(key, 5)
    one = (len(images), 1, 1, 1)
    what = jax.random.randint(k_what, one, 0, 3)  # 0 patch, 1 bias, 2 both
    s = weight[..., None]
    amount = jax.random.uniform(k_amount, one, minval=0.3, maxval=1.0)
    # Both changes are computed for all samples and selected: `what` is traced.
    out = jnp.where(what == 1, images, (1 - amount * s) * images + amount * s * foreign)
    sign = jnp.where(jax.random.bernoulli(k_sign, 0.5, one), 1.0, -1.0)
    bias = sign * jax.random.uniform(k_bias, one, minval=0.2, maxval=0.8)
    chosen = _draw_class(k_class, intensity_classes(images, brain_masks), weight)
    out = jnp.where(what == 0, out, out + bias * s * chosen[..., None])
    # Outside the brain a slice stays as it was to the bit: a soft rim must not show there.
    return jnp.where(brain_masks[..., None], jnp.clip(out, -1.0, 1.0), images)


def _draw_class(key: jax.Array, classes: jax.Array, weight: jax.Array) -> jax.Array:
    """1 where a pixel is of the drawn class: that of a random pixel under the shape, since a
    class that is not there would change nothing."""
    batch = len(classes)
    flat = weight.reshape(batch, -1)
    logits = jnp.where((flat > 0.5) | ~(flat > 0.5).any(-1, keepdims=True), 0.0, -jnp.inf)
    pixel = jax.random.categorical(key, logits)
    drawn = jnp.take_along_axis(classes.reshape(batch, -1), pixel[:, None], axis=-1)
    return (classes == drawn[:, :, None]).astype(jnp.float32)
