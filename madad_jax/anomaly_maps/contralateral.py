"""The other half of the head as a reference for each pixel (ours).

    other(y, x) = z(y, 2 c - x)          c: mean column of the slice's brain
    difference  = G * (z - other)        over pixels whose counterpart is brain too

A healthy brain is nearly symmetric about its midline, and a lesion seldom is. Faint and wide
changes, which no neighbourhood of a pixel shows, stand out against their counterpart.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference

_SIGMA = 1 / 32  # of the smoothing, share of the side: sulci have no exact counterpart
_LEAST_SHARE = 0.05  # of the window that has counterparts


def compare(
    z: Float[jax.Array, "b H W"], brain_masks: Bool[jax.Array, "b H W"]
) -> tuple[Float[jax.Array, "b H W"], Float[jax.Array, "b H W"]]:
    """(counterpart, smoothed difference from it) of each pixel; 0 outside the brain.

    Args:
      z: slices whose columns run from one side of the head to the other.
      brain_masks: True in the brain.
    """
    brain = brain_masks.astype(jnp.float32)
    width = z.shape[2]
    columns = jnp.arange(width)
    size = jnp.maximum(brain.sum((1, 2)), 1.0)
    middle = (brain * columns).sum((1, 2)) / size
    # A whole number: pixels are exchanged and not interpolated.
    index = jnp.floor(2.0 * middle + 0.5).astype(jnp.int32)[:, None] - columns
    there = (index >= 0) & (index < width)
    index = jnp.clip(index, 0, width - 1)[:, None]

    def exchange(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, index, axis=2) * there[:, None]

    other = exchange(z * brain)
    both = brain * exchange(brain)
    sigma = _SIGMA * z.shape[1]
    share = jnp.maximum(difference.gaussian_smooth(both, sigma), _LEAST_SHARE)
    apart = difference.gaussian_smooth((z - other) * both, sigma) / share
    return other * brain, apart * both
