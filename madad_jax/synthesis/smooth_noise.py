"""Smooth random fields, Gaussian blurs of a few pixels and images sampled elsewhere, on device."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

# [1 4 6 4 1] / 16: a Gaussian of one pixel by binomial weights, in five shifted sums.
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def draw(key: jax.Array, shape: tuple[int, int, int], cell: int) -> Float[jax.Array, "b H W"]:
    """Fields of mean 0 and deviation 1 whose features are about `cell` pixels wide."""
    batch, height, width = shape
    coarse = (batch, max(2, -(-height // cell) + 1), max(2, -(-width // cell) + 1))
    field = jax.image.resize(jax.random.normal(key, coarse), shape, "cubic")
    field = field - field.mean((1, 2), keepdims=True)
    return field / (field.std((1, 2), keepdims=True) + 1e-6)


def blur(x: Float[jax.Array, "b H W"], times: int = 1) -> Float[jax.Array, "b H W"]:
    """Gaussian blur of `sqrt(times)` pixels, zeros beyond the edge."""
    height, width = x.shape[1:]
    for _ in range(times):
        padded = jnp.pad(x, ((0, 0), (2, 2), (0, 0)))
        x = sum(w * padded[:, i : i + height] for i, w in enumerate(_BINOMIAL))
        padded = jnp.pad(x, ((0, 0), (0, 0), (2, 2)))
        x = sum(w * padded[:, :, i : i + width] for i, w in enumerate(_BINOMIAL))
    return x


def blur_wide(x: Float[jax.Array, "b H W"], side: int) -> Float[jax.Array, "b H W"]:
    """Means of squares of `side` pixels, enlarged again: a blur of about `0.6 side` pixels."""
    batch, height, width = x.shape
    h, w = height // side, width // side
    cells = x[:, : h * side, : w * side].reshape(batch, h, side, w, side).mean((2, 4))
    return jax.image.resize(cells, x.shape, "linear")


def sample(
    x: Float[jax.Array, "b H W"],
    rows: Float[jax.Array, "b H W"],
    columns: Float[jax.Array, "b H W"],
) -> Float[jax.Array, "b H W"]:
    """Values at (row, column) by bilinear interpolation; those of the edge beyond it."""

    def one(image: jax.Array, r: jax.Array, c: jax.Array) -> jax.Array:
        return jax.scipy.ndimage.map_coordinates(image, [r, c], order=1, mode="nearest")

    return jax.vmap(one)(x, rows, columns)
