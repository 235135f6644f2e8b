"""Synthetic anomalies as a second kind of noise (ours; after the DAG of Disyre).

White noise on a latent teaches a mask head to see white noise. A lesion is tissue that would
be fine elsewhere, so a share of training samples is corrupted in the image instead, inside
random smooth shapes within the brain, in one of four generic ways:

    shift     x + a                          brighter or darker
    constant  (1 - a) x + a c                one grey value
    foreign   (1 - a) x + a x'               tissue of another slice, from another place
    warp      x(p + a d)                     moved along a random direction

or, with `kind="dag"`, by foreign patches and biases of classes (`dag.py`) in blobs or polygons.
With `kind="disyre"` it is what Disyre publishes (`disentangled.py`): one shape, of its own sizes
whatever `max_shapes` and the radii are. With `kind="learned"` lesions are pasted that were learned
from examples (`learned.py`).

No lesion of any data set is imitated. The corrupted image is encoded like any other (no seam
betrays the shape), cells that really changed are the noised ones, and the target stays the
clean latent.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.synthesis import dag, disentangled, learned, polygons

_PASTED = learned.Options()
KINDS = ("generic", "dag", "disyre", "learned")


@dataclasses.dataclass(frozen=True)
class Options:
    """`share` of samples corrupted so, with 1 to `max_shapes` shapes each; radii of shapes as
    shares of the side; a cell counts as changed when its pixels differ by `min_change` on
    average (images span [-1, 1]). `lesions` says how those of a bank are pasted."""

    share: float = 0.0
    max_shapes: int = 3
    min_radius: float = 0.02
    max_radius: float = 0.14
    min_change: float = 0.06
    kind: str = "generic"
    lesions: learned.Options = _PASTED

    def __post_init__(self):
        if self.kind not in KINDS:
            raise errors.UserError(
                f"synthesis.kind: found {self.kind!r}, accepted: {', '.join(KINDS)}"
            )
        if not 0.0 <= self.share <= 1.0:
            raise errors.UserError(f"synthesis.share: found {self.share}, accepted: 0 to 1")
        if self.max_shapes < 1:
            raise errors.UserError(f"synthesis.max_shapes: found {self.max_shapes}, at least 1")
        if not 0.0 < self.min_radius <= self.max_radius < 0.5:
            raise errors.UserError(
                f"synthesis.min_radius, max_radius: found {self.min_radius}, {self.max_radius}; "
                "accepted: 0 < min <= max < 0.5"
            )
        if not 0.0 <= self.min_change < 2.0:
            raise errors.UserError(
                f"synthesis.min_change: found {self.min_change}, accepted: 0 to below 2"
            )


def corrupt(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: Options,
    bank: Params | None = None,
) -> Float[jax.Array, "b H W 1"]:
    """Each slice with synthetic anomalies of one kind inside its brain, values within [-1, 1].

    Raises UserError for learned lesions without a bank of them.
    """
    if options.kind == "dag":
        return _corrupt_as_dag(key, images, brain_masks, options)
    if options.kind == "disyre":
        # Its centres are of other intensities than those of a slice between two percentiles.
        scaled = disentangled.scaled(min(brain_masks.shape[1:]))
        return disentangled.draw(key, images, brain_masks, scaled).images
    if options.kind == "learned":
        if bank is None:
            raise errors.UserError(
                "synthesis.kind: found 'learned' without lesions; set lesions.bank to what "
                "madad-jax draw-lesions wrote"
            )
        return learned.paste(key, images, brain_masks, bank, options.lesions)[0]
    batch = images.shape[0]
    k_shape, k_kind, k_amount, k_sign, k_grey, k_from, k_warp = jax.random.split(key, 7)
    weight = several_shapes(k_shape, brain_masks, options)[..., None]
    amount = jax.random.uniform(k_amount, (batch, 1, 1, 1), minval=0.4, maxval=1.0)
    sign = jnp.where(jax.random.bernoulli(k_sign, 0.5, (batch, 1, 1, 1)), 1.0, -1.0)
    shift = images + 0.8 * sign * amount
    grey = jax.random.uniform(k_grey, (batch, 1, 1, 1), minval=-0.8, maxval=0.9)
    constant = (1 - amount) * images + amount * grey
    foreign = (1 - amount) * images + amount * _foreign_tissue(k_from, images)
    warped = _warp(k_warp, images, weight[..., 0])
    kind = jax.random.randint(k_kind, (batch, 1, 1, 1), 0, 4)
    changed = jnp.select([kind == 0, kind == 1, kind == 2], [shift, constant, foreign], warped)
    # The warp moves by the weight already: blending it again would fade its rim to nothing.
    blend = jnp.where(kind == 3, (weight > 0.02).astype(jnp.float32), weight)
    out = jnp.clip((1 - blend) * images + blend * changed, -1.0, 1.0)
    return jnp.where(brain_masks[..., None], out, images)


def _corrupt_as_dag(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: Options,
) -> Float[jax.Array, "b H W 1"]:
    """`dag.corrupt` in soft blobs for one half of the samples, in polygons for the other."""
    k_blob, k_polygon, k_which, k_from, k_corrupt = jax.random.split(key, 5)
    blobs = several_shapes(k_blob, brain_masks, options)
    radii = {"min_radius": options.min_radius, "max_radius": options.max_radius}
    filled = polygons.draw(k_polygon, brain_masks, options.max_shapes, **radii)
    count = jax.random.randint(k_which, (len(images), 1, 1, 1), 1, options.max_shapes + 1)
    several = (filled & (jnp.arange(options.max_shapes)[None, :, None, None] < count)).any(1)
    half = jax.random.bernoulli(jax.random.fold_in(k_which, 1), 0.5, (len(images), 1, 1))
    weight = jnp.where(half, blobs, (several & brain_masks).astype(jnp.float32))
    return dag.corrupt(k_corrupt, images, brain_masks, weight, _foreign_tissue(k_from, images))


def changed_cells(
    images: Float[jax.Array, "b H W 1"],
    corrupted: Float[jax.Array, "b H W 1"],
    shape: tuple[int, int],
    min_change: float,
) -> Float[jax.Array, "b h w"]:
    """1 where a latent cell's pixels differ by more than `min_change` on average."""
    batch, height, width, _ = images.shape
    h, w = shape
    difference = jnp.abs(corrupted - images).reshape(batch, h, height // h, w, width // w)
    return (difference.mean((2, 4)) > min_change).astype(jnp.float32)


def several_shapes(
    key: jax.Array, brain_masks: Bool[jax.Array, "b H W"], options: Options
) -> Float[jax.Array, "b H W"]:
    """The union of 1 to `max_shapes` shapes a slice."""
    k_count, *keys = jax.random.split(key, options.max_shapes + 1)
    count = jax.random.randint(k_count, (len(brain_masks), 1, 1), 1, options.max_shapes + 1)
    each = [jnp.where(i < count, shapes(k, brain_masks, options), 0) for i, k in enumerate(keys)]
    return jnp.stack(each).max(0)


def shapes(
    key: jax.Array, brain_masks: Bool[jax.Array, "b H W"], options: Options
) -> Float[jax.Array, "b H W"]:
    """Soft blobs in [0, 1] around a random brain pixel each: an ellipse with a wavy rim."""
    batch, height, width = brain_masks.shape
    k_centre, k_radius, k_aspect, k_angle, k_rim = jax.random.split(key, 5)
    flat = brain_masks.reshape(batch, -1)
    # Logits of a slice without brain would all be -inf, which categorical cannot draw from.
    logits = jnp.where(flat | ~flat.any(-1, keepdims=True), 0.0, -jnp.inf)
    centre = jax.random.categorical(k_centre, logits)
    rows = jnp.arange(height)[None, :, None] - (centre // width)[:, None, None]
    columns = jnp.arange(width)[None, None, :] - (centre % width)[:, None, None]
    # Log-uniform: as many small shapes as large ones, octave by octave.
    ends = jnp.log(jnp.array([options.min_radius, options.max_radius]))
    radius = jnp.exp(jax.random.uniform(k_radius, (batch, 1, 1), minval=ends[0], maxval=ends[1]))
    radius = radius * min(height, width)
    aspect = jnp.exp(jax.random.uniform(k_aspect, (batch, 1, 1), minval=-0.5, maxval=0.5))
    angle = jax.random.uniform(k_angle, (batch, 1, 1), maxval=jnp.pi)
    u = (jnp.cos(angle) * rows + jnp.sin(angle) * columns) * aspect
    v = (jnp.cos(angle) * columns - jnp.sin(angle) * rows) / aspect
    distance = jnp.sqrt(u**2 + v**2) / radius
    # Coarse noise enlarged bends the rim over about eight pixels, with no jagged edge.
    wave = jax.random.normal(k_rim, (batch, max(2, height // 8), max(2, width // 8)))
    distance = distance + 0.25 * jax.image.resize(wave, brain_masks.shape, "cubic")
    # About one and a half pixels of soft rim, whatever the size.
    edge = jnp.clip((1.0 - distance) * radius / 1.5 + 0.5, 0.0, 1.0)
    return edge * brain_masks


def _foreign_tissue(key: jax.Array, images: Float[jax.Array, "b H W 1"]) -> jax.Array:
    """Another slice of the batch, mirrored or not, moved by up to an eighth of the side."""
    batch, height, width, _ = images.shape
    k_flip, k_move = jax.random.split(key)
    # The neighbour in the batch: batches are shuffled, and a permutation would cost a sort.
    other = jnp.roll(images, 1, axis=0)
    flip = jax.random.bernoulli(k_flip, 0.5, (batch, 1, 1, 1))
    other = jnp.where(flip, other[:, :, ::-1], other)
    # Far enough to be other anatomy, near enough to stay inside the head mostly.
    reach = max(1, min(height, width) // 8)
    move = jax.random.randint(k_move, (batch, 2), -reach, reach + 1)
    return jax.vmap(lambda x, m: jnp.roll(x, (m[0], m[1]), (0, 1)))(other, move)


def _warp(
    key: jax.Array, images: Float[jax.Array, "b H W 1"], weight: Float[jax.Array, "b H W"]
) -> jax.Array:
    """The slice sampled a few pixels away, most in the middle of the shape (bilinear)."""
    batch, height, width, _ = images.shape
    k_angle, k_size = jax.random.split(key)
    angle = jax.random.uniform(k_angle, (batch, 1, 1), maxval=2 * jnp.pi)
    size = jax.random.uniform(k_size, (batch, 1, 1), minval=0.02, maxval=0.07) * height
    rows = jnp.arange(height)[None, :, None] + size * jnp.sin(angle) * weight
    columns = jnp.arange(width)[None, None, :] + size * jnp.cos(angle) * weight

    def sample(image, r, c):
        return jax.scipy.ndimage.map_coordinates(image[..., 0], [r, c], order=1, mode="nearest")

    return jax.vmap(sample)(images, rows, columns)[..., None]
