"""Tokens of slices, one for each patch of an image: neighbourhoods, brain, and the way to a map."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

_LEAST_BRAIN = 0.5  # share of a token's patch


def unit(x: Float[jax.Array, "*n d"]) -> Float[jax.Array, "*n d"]:
    """Vectors of length 1; those of length 0 stay."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def pool(tokens: Float[jax.Array, "b h w d"], size: int) -> Float[jax.Array, "b h w d"]:
    """Means of `size` x `size` neighbours, `size` odd; beyond the edge there are zeros.

    PatchCore's neighbourhoods (Roth et al., arXiv 2106.08265), whose average counts the zeros.
    1 and 0 change nothing.
    """
    if size <= 1:
        return tokens
    window = (1, size, size, 1)
    sums = jax.lax.reduce_window(tokens, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    return sums / size**2


def inside(
    brain_masks: Bool[jax.Array, "b H W"], grid: tuple[int, int]
) -> Bool[jax.Array, "b h w"]:
    """Tokens whose patch is brain for at least a half; `grid` is (h, w)."""
    down, across = map(_areas, brain_masks.shape[1:], grid)
    share = jnp.einsum("hr,wc,brc->bhw", down, across, brain_masks.astype(jnp.float32))
    # Sums of areas are rounded: exactly half must count.
    return share >= _LEAST_BRAIN - 1e-4


def _areas(before: int, after: int) -> np.ndarray:
    """Share of each pixel in each of `after` equal parts of a side, float32 [after, before]."""
    edges = np.arange(after + 1)[:, None] * (before / after)
    pixels = np.arange(before)
    # Patches need not be whole pixels of the mask.
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0.0) * (after / before)).astype(np.float32)


def to_maps(scores: Float[jax.Array, "b h w"], shape: tuple[int, int]) -> Float[jax.Array, "b H W"]:
    """Bilinear upsampling to the image, cut to [0, 1]."""
    maps = jax.image.resize(scores, (len(scores), *shape), "linear")
    return jnp.clip(maps, 0.0, 1.0)


def nearest_distance(
    tokens: Float[jax.Array, "n d"], bank: Float[jax.Array, "m d"], chunk: int = 1024
) -> Float[jax.Array, " n"]:
    """1 - the largest cosine with a row of the bank = min ||t - b||^2 / 2, for unit vectors.

    `chunk` rows at a time, so that no [n, m] array is made.
    """
    count, chunk = len(bank), min(chunk, len(bank))
    # The rest is filled with rows once more, which move no maximum.
    rows = jnp.arange(-(-count // chunk) * chunk) % count

    def look(best: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        cosine = jnp.matmul(tokens, bank[index].T, precision=jax.lax.Precision.HIGHEST)
        return jnp.maximum(best, cosine.max(-1)), None

    first = jnp.full(len(tokens), -jnp.inf, tokens.dtype)
    return 1.0 - jax.lax.scan(look, first, rows.reshape(-1, chunk))[0]
