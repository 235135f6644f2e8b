"""Disentangled anomaly generation, and how severe each anomaly is (Naval Marimont et al. 2024).

Intensities x in [0, 1], background 0, one random shape s in [0, 1] a slice:

    y     = x (1 - a_t s) + a_t s x'           a_t ~ U(0, 1), x' tissue of another slice
    x_c   = clip( y + b a_b s q, 0, 1 )        b = +-1, a_b ~ U(0, 1), q marks intensity classes
    alpha = max( a_t, max |x_c - y| )          a_t counts as 0 where y = x

Shape: a rectangle, a disc or a polygon around a pixel of the brain, sides 10 to 44 pixels, half of
the rectangles turned by up to 15 degrees; 7 of 10 are blurred by a Gaussian of up to 5 pixels.
Texture: within s > 0, x' is brought to the smallest and largest value of x there ("minmax"), or to
its mean ("mean", what the copy in UAD-IMAG does). Bias: pixels of y belong to the nearest of fixed
centres. Class k is chosen with probability n_k / (sum n + 1000), n_k its pixels within s > 0, all
classes where none is; q is their indicator, blurred by one pixel.

Source: arXiv 2407.06635, after a description of the public code (version e149f29), which has no
licence: nothing of it is copied. "plain" without a bias is the foreign patch of the first version
(arXiv 2311.15453). What differs: polygons of random walks stand for stored shapes of three
dimensions; x' comes from the next slice of the batch, not from a store of 512; the brain mask is
the foreground, not pixels above 0; without `centres` they are those of k-means over the slice.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from madad_jax.core import errors
from madad_jax.synthesis import dag, polygons
from madad_jax.synthesis.draws import Draws

TEXTURES = ("minmax", "mean", "plain")
CENTRES = (0.0057, 0.383, 0.612, 0.769, 0.939)  # published default
CLASSES = len(CENTRES)
_TURNED, _BLURRED = 0.5, 0.7  # shares
_VERTICES = 10  # of a polygon
_OTHERS = 1000.0 / 64**2  # added to the pixels of all classes, in shares of the box


@dataclasses.dataclass(frozen=True)
class Options:
    """What is drawn; lengths in pixels, published for slices of 128.

    Attributes:
      box: side of the square that a shape lies in. Its middle keeps half of that from the border.
      sides: smallest and largest side of a rectangle, diameter of a disc or a polygon.
      angle: largest turn of a rectangle, degrees.
      blur: largest deviation of the Gaussian.
      texture: minmax | mean | plain: how foreign tissue is fitted to what it replaces.
      bias: whether classes are made brighter or darker.
      centres: of the classes, intensities in [0, 1]; empty: k-means of each slice.
    """

    box: int = 64
    sides: tuple[int, int] = (10, 44)
    angle: float = 15.0
    blur: float = 5.0
    texture: str = "minmax"
    bias: bool = True
    centres: tuple[float, ...] = CENTRES

    def __post_init__(self):
        if self.texture not in TEXTURES:
            raise errors.UserError(
                f"anomalies.texture: found {self.texture!r}, accepted: {', '.join(TEXTURES)}"
            )
        if len(self.sides) != 2 or not 1 <= self.sides[0] <= self.sides[1] <= self.box:
            raise errors.UserError(
                f"anomalies.sides: found {self.sides}, accepted: smallest and largest, 1 to the "
                f"box of {self.box}"
            )
        if self.blur < 0 or not 0 <= self.angle <= 90:
            raise errors.UserError(
                f"anomalies.blur, angle: found {self.blur}, {self.angle}; accepted: at least 0, "
                "0 to 90"
            )
        if len(self.centres) == 1 or not all(0.0 <= c <= 1.0 for c in self.centres):
            raise errors.UserError(
                f"anomalies.centres: found {self.centres}, accepted: two or more numbers from 0 "
                "to 1, or none"
            )


class Drawn(NamedTuple):
    """Slices with an anomaly [b,H,W,1] in [-1, 1] and its severity [b] in [0, 1]."""

    images: jax.Array
    severity: jax.Array


def scaled(side: int) -> Options:
    """The published lengths for slices of `side` pixels in place of 128; centres by k-means."""
    share, plain = side / 128.0, Options()
    low, high = (max(1, round(s * share)) for s in plain.sides)
    box = max(high, round(plain.box * share))
    return Options(box=box, sides=(low, high), blur=plain.blur * share, centres=())


def draw(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: Options,
) -> Drawn:
    """An anomaly in each slice; slices in [-1, 1], untouched pixels to the bit.

    A slice without brain stays as it is, with severity 0.

    Raises:
      UserError: a box that is wider than the slices.
    """
    if options.box > min(brain_masks.shape[1:]):
        raise errors.UserError(
            f"anomalies.box: found {options.box}, accepted: at most the "
            f"{min(brain_masks.shape[1:])} pixels of a slice"
        )
    k_numbers, k_shape, k_class = jax.random.split(key, 3)
    draws = Draws(k_numbers, len(images), 20)
    x = jnp.where(brain_masks, (images[..., 0] + 1.0) * 0.5, 0.0)
    corner = pick_corner(draws, brain_masks, options.box)
    s = draw_shapes(k_shape, draws, options) * cut(brain_masks, corner, options.box)
    box = cut(x, corner, options.box)
    # The neighbour in the batch: batches are shuffled.
    others, their_brains = jnp.roll(x, 1, axis=0), jnp.roll(brain_masks, 1, axis=0)
    foreign = cut(others, pick_corner(draws, their_brains, options.box), options.box)
    y, severity = add_texture(box, foreign, s, draws.uniform(), options.texture)
    out = y
    if options.bias:
        size = draws.sign() * draws.uniform()
        centres = jnp.broadcast_to(jnp.asarray(options.centres), (len(x), len(options.centres)))
        if not options.centres:
            centres = (dag.class_centres(images, brain_masks, CLASSES) + 1.0) * 0.5
        out = add_bias(y, s, chosen_classes(k_class, y, s, centres), size)
        severity = jnp.maximum(severity, jnp.abs(out - y).max((1, 2)))
    # There and back would round: what was not drawn upon keeps its bits.
    before = cut(images[..., 0], corner, options.box)
    after = jnp.where(out != box, out * 2.0 - 1.0, before)
    return Drawn(_paste(images[..., 0], after, corner)[..., None], severity)


def pick_corner(draws: Draws, masks: Bool[jax.Array, "b H W"], side: int) -> Int[jax.Array, "b 2"]:
    """First row and column of a square of `side` pixels around a random pixel of each mask.

    Pixels whose square lies within the slice are taken; where there is none, any pixel's square
    is moved inside.
    """
    _, height, width = masks.shape
    half = side // 2

    def is_inside(length: int) -> jax.Array:
        place = jnp.arange(length) - half
        return (place >= 0) & (place <= length - side)

    fit = masks & is_inside(height)[:, None] & is_inside(width)[None]
    row, column = draws.pick_pixel(jnp.where(fit.any((1, 2), keepdims=True), fit, masks))
    corner = jnp.concatenate([row, column], -1)[:, 0] - half
    return jnp.clip(corner, 0, jnp.array([height - side, width - side]))


def cut(x: Shaped[jax.Array, "b H W"], corner: Int[jax.Array, "b 2"], side: int) -> jax.Array:
    """The square of `side` pixels [b,side,side] at each corner."""
    return jax.vmap(lambda a, c: jax.lax.dynamic_slice(a, (c[0], c[1]), (side, side)))(x, corner)


def _paste(x: jax.Array, square: jax.Array, corner: jax.Array) -> jax.Array:
    put = jax.lax.dynamic_update_slice
    return jax.vmap(lambda a, b, c: put(a, b, (c[0], c[1])))(x, square, corner)


def draw_shapes(key: jax.Array, draws: Draws, options: Options) -> Float[jax.Array, "b n n"]:
    """Rectangles, discs and polygons in boxes of `options.box` pixels, each as likely; s."""
    n, (low, high) = options.box, options.sides
    height, width, diameter = (jnp.floor(draws.uniform(float(low), high + 1.0)) for _ in range(3))
    turn = math.radians(options.angle) * draws.uniform(-1.0, 1.0) * draws.coin(_TURNED)
    kind, sigma = draws.uniform(0.0, 3.0), options.blur * draws.uniform() * draws.coin(_BLURRED)
    rows, columns = (_from_middle(n, size) for size in (height, width))
    rows = rows.transpose(0, 2, 1)
    u = jnp.cos(turn) * rows + jnp.sin(turn) * columns
    v = jnp.cos(turn) * columns - jnp.sin(turn) * rows
    rectangle = (jnp.abs(u) < height / 2) & (jnp.abs(v) < width / 2)
    along = _from_middle(n, diameter)
    disc = jnp.square(along.transpose(0, 2, 1)) + jnp.square(along) < jnp.square(diameter / 2)
    # A closed walk of n steps of length l is about a circle of radius n l / (2 pi).
    step = math.pi / _VERTICES
    middle = jnp.full((len(height), 2), (n - 1) / 2)
    lengths = {"min_step": low * step, "max_step": high * step}
    polygon = polygons.fill(polygons.walk(key, middle, vertices=_VERTICES, **lengths), (n, n))
    shape = jnp.where(kind < 1.0, rectangle, jnp.where(kind < 2.0, disc, polygon))
    return blur(shape.astype(jnp.float32), sigma)


def _from_middle(n: int, size: Float[jax.Array, "b 1 1"]) -> Float[jax.Array, "b 1 n"]:
    """Pixels from the middle: the pixel n // 2, or for an even size the edge before it, so that
    as many pixels as `size` says lie within half of it."""
    return jnp.arange(n, dtype=jnp.float32) - n // 2 + 0.5 * (size % 2 == 0)


def blur(x: Float[jax.Array, "b n n"], sigma: Float[jax.Array, "b 1 1"]) -> jax.Array:
    """Gaussian blur by each sample's own deviation in pixels, cut at 4 of them; 0 beyond the
    edge. A deviation of 0 leaves x."""
    n = x.shape[1]
    offset = jnp.arange(-n + 1, n) / jnp.maximum(sigma, 1e-3)
    kernel = jnp.where(jnp.abs(offset) <= 4.0, jnp.exp(-0.5 * jnp.square(offset)), 0.0)
    kernel = (kernel / kernel.sum(-1, keepdims=True))[:, 0]
    place = jnp.arange(n)
    matrix = kernel[:, place[:, None] - place[None] + n - 1]
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("bij,bjk,blk->bil", matrix, x, matrix, precision=exact)


def add_texture(
    x: Float[jax.Array, "b n n"],
    foreign: Float[jax.Array, "b n n"],
    s: Float[jax.Array, "b n n"],
    amount: Float[jax.Array, "b 1 1"],
    texture: str,
) -> tuple[Float[jax.Array, "b n n"], Float[jax.Array, " b"]]:
    """(y, a_t where it differs from x, else 0); intensities in [0, 1]."""
    inside = s > 0
    axes = {"axis": (1, 2), "keepdims": True}

    def lowest(v: jax.Array) -> jax.Array:
        # An empty shape has no smallest value; 0 keeps infinities out of the products.
        return jnp.where(inside.any(**axes), jnp.where(inside, v, jnp.inf).min(**axes), 0.0)

    def mean(v: jax.Array) -> jax.Array:
        return (v * inside).sum(**axes) / jnp.maximum(inside.sum(**axes), 1)

    if texture == "minmax":
        low, width = lowest(x), -lowest(-x) - lowest(x)
        their_low, their_width = lowest(foreign), -lowest(-foreign) - lowest(foreign)
        foreign = (foreign - their_low) / (their_width + 1e-3) * width + low
    elif texture == "mean":
        foreign = foreign - mean(foreign) + mean(x)
    foreign = jnp.clip(foreign, 0.0, 1.0)
    # As a difference: equal pixels and s = 0 leave x to the bit.
    y = x + amount * s * (foreign - x)
    return y, jnp.where((y != x).any((1, 2)), amount[:, 0, 0], 0.0)


def chosen_classes(
    key: jax.Array,
    y: Float[jax.Array, "b n n"],
    s: Float[jax.Array, "b n n"],
    centres: Float[jax.Array, "b k"],
) -> Bool[jax.Array, "b n n"]:
    """Pixels of the classes that are chosen; all where none is."""
    batch, n, _ = y.shape
    count = centres.shape[1]
    flat = jnp.abs(y.reshape(batch, -1, 1) - centres[:, None])
    classes = jnp.argmin(flat, axis=-1)
    member = jax.nn.one_hot(classes, count) * (s.reshape(batch, -1, 1) > 0)
    size = member.sum(1)
    odds = size / (size.sum(1, keepdims=True) + _OTHERS * n * n)
    chosen = jax.random.bernoulli(key, odds)
    chosen = chosen | ~chosen.any(1, keepdims=True)
    return jnp.take_along_axis(chosen, classes, axis=1).reshape(y.shape)


def add_bias(
    y: Float[jax.Array, "b n n"],
    s: Float[jax.Array, "b n n"],
    chosen: Bool[jax.Array, "b n n"],
    size: Float[jax.Array, "b 1 1"],
) -> Float[jax.Array, "b n n"]:
    """x_c: `size` is b a_b, between -1 and 1."""
    q = blur(chosen.astype(jnp.float32), jnp.ones((len(y), 1, 1)))
    change = size * s * q
    # The clip alone could move a value by rounding where nothing was added.
    return jnp.where(change != 0, jnp.clip(y + change, 0.0, 1.0), y)
