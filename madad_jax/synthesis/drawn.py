"""Anomalies drawn on healthy slices, widely: with their pixels as truth (ours).

A slice in [0, 1] gets 1 to `max_shapes` shapes inside its brain, each with a filling of its own:

    shift     x + s                      darker or brighter by 0.5 to 3 deviations of the brain
    constant  c + texture                one grey value, dark more often than bright
    foreign   x'                         tissue of another slice, turned, scaled and moved
    blur      G * x                      without fine structure
    warp      x(p + d)                   displaced at random, bulged or pinched
    swap      grey for white, white for grey, or both
    mass      c with a rim, tissue around it pushed away

Shapes are closed curves, polygons or clouds with a rim between sharp and soft. A shape that changes
the slice by less than a fifth of the brain's deviation is left out. No lesion of any data set is
imitated; kinds, sizes and strengths are our choice.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from madad_jax.core import errors
from madad_jax.synthesis import polygons, smooth_noise
from madad_jax.synthesis.draws import Draws

KINDS = ("shift", "constant", "foreign", "blur", "warp", "swap", "mass")
# Share of the slices with one, two, three, ... shapes falls by this factor each.
_FEWER = 0.75
_QUANTILES = (0.25, 0.5, 0.8)
_CELLS = {"fine": 3, "texture": 6, "medium": 10, "coarse": 20}  # pixels
LEAST_CHANGE = 0.2  # of the brain's deviation, on average over a shape that counts


@dataclasses.dataclass(frozen=True)
class Options:
    """What is drawn.

    Attributes:
      healthy: share of the slices that stay as they are.
      max_shapes: a slice has 1 to so many.
      min_radius, max_radius: of shapes, in shares of the side.
      small: 1 draws as many in each octave of the radius; above 1, more small ones.
      kinds: of the fillings, each as likely.
    """

    healthy: float = 0.2
    max_shapes: int = 3
    min_radius: float = 0.0125
    max_radius: float = 0.2
    small: float = 1.0
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self):
        if not 0.0 <= self.healthy <= 1.0:
            raise errors.UserError(f"drawn.healthy: found {self.healthy}, accepted: 0 to 1")
        if self.max_shapes < 1:
            raise errors.UserError(f"drawn.max_shapes: found {self.max_shapes}, at least 1")
        if not 0.0 < self.min_radius <= self.max_radius < 0.5:
            raise errors.UserError(
                f"drawn.min_radius, max_radius: found {self.min_radius}, {self.max_radius}; "
                "accepted: 0 < min <= max < 0.5"
            )
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise errors.UserError(
                f"drawn.kinds: found {self.kinds}, accepted: some of {', '.join(KINDS)}"
            )


@dataclasses.dataclass(frozen=True)
class Levels:
    """Grey values of the brain, each [b,1,1]: quartile, median, high quartile, deviation."""

    low: jax.Array
    middle: jax.Array
    high: jax.Array
    deviation: jax.Array


def draw(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: Options,
) -> tuple[Float[jax.Array, "b H W 1"], Bool[jax.Array, "b H W"]]:
    """(slices with anomalies, their pixels). Slices and results span [-1, 1], background -1."""
    k_count, k_noise, k_shapes = jax.random.split(key, 3)
    healthy_x = x = jnp.where(brain_masks, (images[..., 0] + 1.0) * 0.5, 0.0)
    levels = measure_levels(x, brain_masks)
    bank = draw_bank(k_noise, x.shape)
    u, healthy = jax.random.uniform(k_count, (2, len(x), 1, 1))
    count = count_shapes(u, healthy, options)

    def add(carry: tuple[jax.Array, jax.Array], entry: tuple[jax.Array, jax.Array]):
        x, truth = carry
        k, n = entry
        # One bank for all shapes: shape n reads the fields of the slice n places further.
        fields = {name: jnp.roll(field, n, axis=0) for name, field in bank.items()}
        changed, inside = _draw_one(Draws(k, len(x), 60), x, brain_masks, levels, fields, options)
        visible = mean_change(changed, x, inside) > LEAST_CHANGE * levels.deviation
        use = visible & (n < count)
        return (jnp.where(use, changed, x), truth | (inside & use)), None

    # A scan and no loop: the program is compiled once and not a time a shape.
    entries = jax.random.split(k_shapes, options.max_shapes), jnp.arange(options.max_shapes)
    (x, truth), _ = jax.lax.scan(add, (x, jnp.zeros(x.shape, bool)), entries)
    # What was not drawn upon stays as it was, to the bit: there and back would round.
    out = jnp.where(x != healthy_x, x * 2.0 - 1.0, images[..., 0])
    return out[..., None], truth


def count_shapes(u: jax.Array, healthy: jax.Array, options: Options) -> jax.Array:
    """Shapes a slice, of two numbers in [0, 1] each."""
    # 1, 2, 3, ... shapes by shares that fall by the same factor.
    shares = _FEWER ** np.arange(options.max_shapes)
    beyond = 1.0 - np.cumsum(shares / shares.sum())[:-1]
    count = 1 + sum((u < share).astype(jnp.int32) for share in beyond)
    return jnp.where(healthy < options.healthy, 0, count)


def measure_levels(x: Float[jax.Array, "b H W"], brain: Bool[jax.Array, "b H W"]) -> Levels:
    """Grey values of each brain; of a slice without brain 0."""
    batch = len(x)
    # Quantiles of the brain from one sort: what lies outside is sorted behind.
    ranked = jnp.sort(jnp.where(brain, x, jnp.inf).reshape(batch, -1), axis=1)
    count = brain.sum((1, 2))
    rank = (jnp.array(_QUANTILES)[:, None] * jnp.maximum(count - 1, 0)).astype(jnp.int32)
    values = jnp.take_along_axis(ranked, rank.T, axis=1).T
    values = jnp.where(count > 0, values, 0.0)[..., None, None]
    size = jnp.maximum(count, 1)[:, None, None]
    mean = (x * brain).sum((1, 2), keepdims=True) / size
    variance = (jnp.square(x - mean) * brain).sum((1, 2), keepdims=True) / size
    return Levels(*values, jnp.sqrt(variance))


def draw_bank(key: jax.Array, shape: tuple[int, int, int]) -> dict[str, jax.Array]:
    """Smooth fields of several widths."""
    keys = jax.random.split(key, len(_CELLS))
    cells = zip(_CELLS.items(), keys, strict=True)
    return {name: smooth_noise.draw(k, shape, cell) for (name, cell), k in cells}


def mean_change(a: jax.Array, b: jax.Array, inside: jax.Array) -> Float[jax.Array, "b 1 1"]:
    """The mean difference of two slices over a shape."""
    count = jnp.maximum(inside.sum((1, 2), keepdims=True), 1)
    return (jnp.abs(a - b) * inside).sum((1, 2), keepdims=True) / count


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape a slice.

    Attributes:
      weight: [b,H,W] in [0, 1], soft.
      inside: [b,H,W] its pixels.
      ratio: [b,H,W] distance from the middle, in units of the rim's.
      rows, columns: [b,H,W] pixels from the middle.
      radius: [b,1,1] in pixels.
    """

    weight: jax.Array
    inside: jax.Array
    ratio: jax.Array
    rows: jax.Array
    columns: jax.Array
    radius: jax.Array


def _draw_one(draws, x, brain, levels, fields, options) -> tuple[jax.Array, jax.Array]:
    """(slices with one more shape each, the shapes' pixels)."""
    shape = draw_shape(draws, brain, fields, options)
    return change_inside(draws, x, brain, levels, fields, shape, options), shape.inside


def change_inside(
    draws: Draws,
    x: jax.Array,
    brain: jax.Array,
    levels: Levels,
    fields: dict[str, jax.Array],
    shape: Shape,
    options: Options,
) -> jax.Array:
    """Slices [b,H,W] in [0, 1] whose shapes are filled."""
    filled, pushed = _fill(draws, x, brain, levels, fields, shape, options)
    # Tissue that a mass pushes away changes beyond the shape.
    weight = jnp.maximum(shape.weight * draws.uniform(0.55, 1.0), pushed)
    return jnp.where(brain, jnp.clip(x + weight * (filled - x), 0.0, 1.0), x)


def draw_shape(
    draws: Draws, brain: jax.Array, fields: dict[str, jax.Array], options: Options
) -> Shape:
    """A shape a slice, around a random pixel of its brain [b,H,W]."""
    _, height, width = brain.shape
    row, column = draws.pick_pixel(brain)
    rows, columns = jnp.broadcast_arrays(
        jnp.arange(height, dtype=jnp.float32)[None, :, None] - row,
        jnp.arange(width, dtype=jnp.float32)[None, None, :] - column,
    )
    side = min(height, width)
    octaves = np.log2(options.max_radius / options.min_radius)
    radius = options.min_radius * side * 2.0 ** (octaves * draws.uniform() ** options.small)
    distance = jnp.hypot(rows, columns) / radius
    angle = jnp.arctan2(rows, columns)
    # A closed curve: waves of one to five around it.
    waves = sum(
        0.28 / k * draws.normal() * jnp.cos(k * angle + draws.uniform(0.0, 2 * np.pi))
        for k in range(1, 6)
    )
    curve = distance / jnp.clip(1.0 + waves, 0.25, 2.0)
    corners = jnp.stack([row, column], -1)[:, 0] + _draw_corners(draws, radius)
    polygon = jnp.where(polygons.fill(corners, (height, width)), 0.8, 2.0)
    rough = jnp.where(radius > 8.0, fields["medium"], fields["fine"])
    cloud = jnp.square(distance / 1.3) - 0.5 * rough + 0.3
    kind = draws.uniform()
    is_curve = kind < 0.45
    ratio = jnp.where(is_curve, curve, jnp.where(kind < 0.75, polygon, cloud))
    inside = (ratio < 1.0) & brain
    sharp = inside.astype(jnp.float32)
    once = smooth_noise.blur(sharp)
    twice = smooth_noise.blur(once, 2)
    # Large closed curves may fade over half their radius, as infiltrating tissue does.
    fade = jnp.where(is_curve, jnp.clip((1.3 - curve) / 0.6, 0.0, 1.0), twice)
    softness = draws.uniform(0.0, 3.0)
    weight = jnp.where(softness < 1.0, once, jnp.where(softness < 2.2, twice, fade))
    return Shape(weight * brain, inside, ratio, rows, columns, radius)


def _draw_corners(draws: Draws, radius: Float[jax.Array, "b 1 1"], most: int = 9) -> jax.Array:
    """3 to `most` corners [b, most, 2] around (0, 0); those left over repeat the first."""
    spare = jnp.arange(most)[None] >= jnp.floor(draws.uniform(3.0, most + 1.0))[:, 0]
    angle = draws.several(most, 0.0, 2 * np.pi)[:, :, 0, 0].T
    angle = jnp.sort(jnp.where(spare, jnp.inf, angle), axis=1)
    reach = radius[:, 0] * draws.several(most, 0.45, 1.4)[:, :, 0, 0].T
    angle, reach = (jnp.where(spare, v[:, :1], v) for v in (angle, reach))
    return jnp.stack([reach * jnp.sin(angle), reach * jnp.cos(angle)], -1)


def _fill(draws, x, brain, levels, fields, shape, options) -> tuple[jax.Array, jax.Array]:
    """(what fills the shapes [b,H,W], weights of the tissue that a mass pushes away [b,H,W])."""
    kinds = jnp.array([KINDS.index(kind) for kind in options.kinds])
    kind = kinds[jnp.floor(draws.uniform(0.0, float(len(kinds)))).astype(jnp.int32)]
    is_kind = {name: kind == i for i, name in enumerate(KINDS)}
    moved = _move(draws, x, brain, levels, fields, shape, is_kind)
    present = smooth_noise.blur_wide(brain.astype(jnp.float32), 4)
    blurred = smooth_noise.blur_wide(x, 4) / jnp.maximum(present, 0.2)
    constant = _draw_constant(draws, levels, fields)
    within = shape.ratio < 1.0
    mass = jnp.where(within, _add_rim(draws, constant, levels, shape), moved)
    filled = jnp.select(
        [is_kind[name] for name in ("shift", "constant", "blur", "swap", "mass")],
        [_shift(draws, x, levels), constant, blurred, _swap(draws, x, levels), mass],
        moved,
    )
    # A fifth has another brightness besides.
    extra = 0.6 * draws.normal() * levels.deviation
    filled = filled + jnp.where(draws.coin(0.2) & ~is_kind["mass"], extra, 0.0)
    around = jnp.where(within, 0.0, jnp.clip((3.0 - shape.ratio) / 1.5, 0.0, 1.0))
    return filled, jnp.where(is_kind["mass"], around, 0.0)


def _shift(draws, x, levels) -> jax.Array:
    return x + draws.sign(0.4) * draws.uniform(0.5, 3.0) * levels.deviation


def _draw_constant(draws, levels, fields) -> jax.Array:
    bright, dark = draws.uniform(1.15, 1.9), draws.uniform(0.08, 0.9)
    grey = levels.middle * jnp.where(draws.coin(0.4), bright, dark)
    return grey + draws.uniform(0.0, 0.1) * levels.middle * fields["texture"]


def _add_rim(draws, constant, levels, shape) -> jax.Array:
    grey = levels.middle * draws.uniform(0.3, 1.6)
    return jnp.where(shape.ratio > 1.0 - draws.uniform(0.0, 0.4), grey, constant)


def _swap(draws, x, levels) -> jax.Array:
    step = (levels.high - levels.low) * draws.uniform(0.7, 1.2)
    darker = jnp.where(x > levels.middle, x - step, x)
    brighter = jnp.where((x > 0.6 * levels.low) & (x < levels.middle), x + step, x)
    mirrored = jnp.maximum(levels.low + levels.high - x, 0.1 * levels.middle)
    way = draws.uniform()
    return jnp.where(way < 0.4, darker, jnp.where(way < 0.7, brighter, mirrored))


def _move(draws, x, brain, levels, fields, shape, is_kind) -> jax.Array:
    """Tissue from elsewhere: of another slice, or of the slice itself, displaced."""
    _, height, width = x.shape
    # The neighbour in the batch: batches are shuffled, and a permutation would cost a sort.
    other, other_brain = jnp.roll(x, 1, axis=0), jnp.roll(brain, 1, axis=0)
    there = _places_in_another(draws, other_brain, shape)
    own = _displace(draws, fields, shape, is_kind["mass"], height / 128)
    here = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None, :]
    foreign = is_kind["foreign"]
    places = [jnp.where(foreign, a, h + d) for a, h, d in zip(there, here, own, strict=True)]
    # One look-up for both.
    found = smooth_noise.sample(jnp.where(foreign, other, x), *places)
    present = smooth_noise.sample(other_brain.astype(jnp.float32), *places) > 0.9
    scale = levels.middle / jnp.maximum(jnp.roll(levels.middle, 1, axis=0), 1e-3)
    scale = scale * draws.uniform(0.8, 1.2)
    # Outside the other brain the slice stays as it is.
    return jnp.where(foreign, jnp.where(present, found * scale, x), found)


def _places_in_another(draws, brain, shape) -> tuple[jax.Array, jax.Array]:
    """Rows and columns in another slice, turned and scaled around a pixel of its brain."""
    row, column = draws.pick_pixel(brain)
    turn, zoom = draws.uniform(0.0, 2 * np.pi), draws.uniform(0.7, 1.4)
    down, right = zoom * jnp.sin(turn), zoom * jnp.cos(turn)
    return (
        row + right * shape.rows + down * shape.columns,
        column + right * shape.columns - down * shape.rows,
    )


def _displace(draws, fields, shape, is_mass, scale) -> list[jax.Array]:
    """Rows and columns to move by: a mass pushes; others swirl, bulge or shrink."""
    wave = jnp.where(shape.radius > 10.0, fields["coarse"], fields["medium"])
    size = draws.uniform(2.5, 8.0) * scale
    swirl = size * wave, size * jnp.roll(wave, 1, axis=0)
    sign, strength = draws.sign(), draws.uniform(0.4, 0.9)
    squared = jnp.square(shape.rows) + jnp.square(shape.columns)
    near = sign * strength * jnp.exp(-0.5 * squared / jnp.square(shape.radius))
    # A mass takes the tissue around it from nearer to its middle.
    far = jnp.maximum(jnp.sqrt(squared) / shape.radius, 1.0)
    push = -strength * jnp.exp(1.0 - far) / far
    random = draws.coin()
    return [
        jnp.where(is_mass, push * offset, jnp.where(random, swirled, near * offset))
        for offset, swirled in zip((shape.rows, shape.columns), swirl, strict=True)
    ]
