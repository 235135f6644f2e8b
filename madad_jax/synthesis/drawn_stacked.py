"""Anomalies drawn in several contrasts of a slice, and in its neighbours (`drawn.py`; ours).

A shape lies at one place in all channels and has a filling of its own in each contrast: what is
dark in one may be bright in another. Some contrasts do not show it. With neighbours half of the
shapes reach them, three in ten are the slice's alone, and two in ten lie in the neighbours alone.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.synthesis import drawn
from madad_jax.synthesis.draws import Draws

_REACHES, _ALONE = 0.5, 0.3  # shares of the shapes; the rest lies in the neighbours alone


def draw(
    key: jax.Array,
    images: Float[jax.Array, "b H W C"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: drawn.Options,
    *,
    contrasts: int,
    hidden: float,
) -> tuple[Float[jax.Array, "b H W C"], Bool[jax.Array, "b H W m"]]:
    """(slices with anomalies, pixels that each own contrast shows), of [-1, 1], background -1.

    Args:
      key: of all draws.
      images: the first `contrasts` channels are the slice's own, the others its neighbours'.
      brain_masks: of the slice.
      options: what is drawn.
      contrasts: in the order of the channels, which repeat them.
      hidden: share of the shapes that a contrast does not show.
    """
    k_count, k_noise, k_shapes = jax.random.split(key, 3)
    stack = jnp.moveaxis(images, -1, 0)
    channels, batch = stack.shape[:2]
    healthy_x = x = jnp.where(brain_masks, (stack + 1.0) * 0.5, 0.0)

    def measure(one: jax.Array) -> tuple[jax.Array, ...]:
        found = drawn.measure_levels(one, brain_masks)
        return found.low, found.middle, found.high, found.deviation

    levels = jax.vmap(measure)(x)
    bank = drawn.draw_bank(k_noise, x.shape[1:])
    u, healthy = jax.random.uniform(k_count, (2, batch, 1, 1))
    count = drawn.count_shapes(u, healthy, options)

    def add(carry: tuple[jax.Array, jax.Array], entry: tuple[jax.Array, jax.Array]):
        x, truth = carry
        k, n = entry
        k_shape, k_fill, k_show = jax.random.split(k, 3)
        fields = {name: jnp.roll(field, n, axis=0) for name, field in bank.items()}
        shape = drawn.draw_shape(Draws(k_shape, batch, 60), brain_masks, fields, options)

        def change(one: jax.Array, of_one: tuple[jax.Array, ...], k: jax.Array):
            grey = drawn.Levels(*of_one)
            draws = Draws(k, batch, 60)
            changed = drawn.change_inside(draws, one, brain_masks, grey, fields, shape, options)
            far = drawn.mean_change(changed, one, shape.inside)
            return changed, far > drawn.LEAST_CHANGE * grey.deviation

        # A contrast's neighbours share its filling.
        keys = jnp.tile(jax.random.split(k_fill, contrasts), channels // contrasts)
        changed, visible = jax.vmap(change)(x, levels, keys)
        use = visible & (n < count) & _show(k_show, channels, contrasts, batch, hidden)
        seen = jnp.moveaxis(shape.inside & use[:contrasts], 0, -1)
        return (jnp.where(use, changed, x), truth | seen), None

    entries = jax.random.split(k_shapes, options.max_shapes), jnp.arange(options.max_shapes)
    none = jnp.zeros((*x.shape[1:], contrasts), bool)
    (x, truth), _ = jax.lax.scan(add, (x, none), entries)
    # What was not drawn upon stays as it was, to the bit: there and back would round.
    out = jnp.where(x != healthy_x, x * 2.0 - 1.0, stack)
    return jnp.moveaxis(out, 0, -1), truth


def _show(
    key: jax.Array, channels: int, contrasts: int, batch: int, hidden: float
) -> Bool[jax.Array, "C b 1 1"]:
    """Which channels have the shape."""
    k_hide, k_reach = jax.random.split(key)
    shows = ~jax.random.bernoulli(k_hide, hidden, (contrasts, batch, 1, 1))
    if channels == contrasts:
        return shows
    reach = jax.random.uniform(k_reach, (1, batch, 1, 1))
    own = (jnp.arange(channels) < contrasts)[:, None, None, None]
    neighbours = (reach < _REACHES) | (reach >= _REACHES + _ALONE)
    here = jnp.where(own, reach < _REACHES + _ALONE, neighbours)
    return here & jnp.tile(shows, (channels // contrasts, 1, 1, 1))
