"""Polygons of random walks, filled on device (the anomaly masks of REFLECT).

A walk starts at a random cell of the brain and takes `vertices` steps; its heading turns by
2 pi / vertices on average, with a random part, so that it comes round to about where it began.
The last vertex is joined with the first and the polygon filled by the even-odd rule: a cell is
inside when a ray from its centre crosses the outline an odd number of times. The published text
says "random-walk polygons"; step lengths and turns are our choice.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

TURN = 0.7  # standard deviation of the random part of a turn, radians


def fill(vertices: Float[jax.Array, "*batch n 2"], shape: tuple[int, int]) -> jax.Array:
    """True where a cell centre (row, column) lies inside, bool [*batch, h, w]; even-odd rule."""
    h, w = shape
    rows = jnp.arange(h, dtype=jnp.float32)[:, None, None]
    columns = jnp.arange(w, dtype=jnp.float32)[None, :, None]
    start = vertices[..., None, None, :, :]
    end = jnp.roll(vertices, -1, axis=-2)[..., None, None, :, :]
    straddles = (start[..., 0] > rows) != (end[..., 0] > rows)
    # Edges along a row would divide by 0; they never straddle, so any number serves.
    rise = jnp.where(straddles, end[..., 0] - start[..., 0], 1.0)
    along = start[..., 1] + (rows - start[..., 0]) / rise * (end[..., 1] - start[..., 1])
    return (straddles & (columns < along)).sum(-1) % 2 == 1


def walk(
    key: jax.Array,
    starts: Float[jax.Array, "*batch 2"],
    *,
    vertices: int,
    min_step: float,
    max_step: float,
) -> Float[jax.Array, "*batch n 2"]:
    """Corners (row, column) of the walks; steps ~ U(min_step, max_step) in cells."""
    k_heading, k_turn, k_step = jax.random.split(key, 3)
    batch = starts.shape[:-1]
    turns = 2 * jnp.pi / vertices + TURN * jax.random.normal(k_turn, (*batch, vertices))
    first = jax.random.uniform(k_heading, (*batch, 1), maxval=2 * jnp.pi)
    heading = first + jnp.cumsum(turns, axis=-1)
    # One length for a walk, so that sizes differ more than the steps of one walk do.
    k_walk, k_each = jax.random.split(k_step)
    size = jax.random.uniform(k_walk, (*batch, 1), minval=min_step, maxval=max_step)
    step = size * jax.random.uniform(k_each, (*batch, vertices), minval=0.6, maxval=1.4)
    moves = step[..., None] * jnp.stack([jnp.sin(heading), jnp.cos(heading)], -1)
    path = jnp.cumsum(moves, axis=-2)
    # Centred on its mean: a walk wanders off its first vertex by about its diameter.
    return starts[..., None, :] + path - path.mean(-2, keepdims=True)


def draw(
    key: jax.Array,
    brain: Bool[jax.Array, "b h w"] | Float[jax.Array, "b h w"],
    count: int,
    *,
    vertices: int = 10,
    min_radius: float = 0.03,
    max_radius: float = 0.15,
) -> Bool[jax.Array, "b n h w"]:
    """`count` filled walks a sample around random brain cells; radii as shares of the side.

    A sample without brain has them anywhere.
    """
    batch, h, w = brain.shape
    k_start, k_walk = jax.random.split(key)
    flat = brain.reshape(batch, -1) > 0.5
    # All -inf could not be drawn from: without brain every cell is as likely.
    logits = jnp.where(flat | ~flat.any(-1, keepdims=True), 0.0, -jnp.inf)
    cell = jax.random.categorical(k_start, logits[:, None], shape=(batch, count))
    starts = jnp.stack([cell // w, cell % w], -1).astype(jnp.float32)
    # A closed walk of n steps of length s is about a circle of radius n s / (2 pi).
    per_radius = min(h, w) * 2 * jnp.pi / vertices
    corners = walk(
        k_walk,
        starts,
        vertices=vertices,
        min_step=min_radius * per_radius,
        max_step=max_radius * per_radius,
    )
    return fill(corners, (h, w))
