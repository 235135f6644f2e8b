"""Grey morphology with flat square windows, on device; edges as SciPy's (reflected)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float


def dilate(maps: Float[jax.Array, "b H W"], side: int) -> Float[jax.Array, "b H W"]:
    """The largest value within a square of an odd `side` pixels."""
    window = (1, side, side)
    # Padding with -inf: what a reflection adds lies within the window already.
    return jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, window, (1, 1, 1), "SAME")


def erode(maps: Float[jax.Array, "b H W"], side: int) -> Float[jax.Array, "b H W"]:
    """The smallest value within a square of an odd `side` pixels."""
    # Erosion is dilation of the negative: one reduction to keep right.
    return -dilate(-maps, side)


def close(maps: Float[jax.Array, "b H W"], side: int) -> Float[jax.Array, "b H W"]:
    """Dilation, then erosion: fills what is narrower than the window."""
    return erode(dilate(maps, side), side)


def largest_of_cells(maps: Float[jax.Array, "b H W"], side: int) -> Float[jax.Array, "b h w"]:
    """The largest value of each square cell of `side` pixels."""
    batch, height, width = maps.shape
    return maps.reshape(batch, height // side, side, width // side, side).max((2, 4))
