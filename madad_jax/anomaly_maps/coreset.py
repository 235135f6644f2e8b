"""Few rows that stand for many: PatchCore's greedy k-centre coreset.

Roth et al. (arXiv 2106.08265), as its authors' code does: rows are projected at random to 128
numbers. The first distance of a row is its mean distance to ten rows drawn at random. Then the
farthest row is taken, and every row keeps the smallest distance to those taken.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

PROJECTION = 128  # numbers a row; 0 does not project
_STARTS = 10
_AT_ONCE = 128  # rows taken in one call


def greedy(
    rows: Float32[np.ndarray, "n d"],
    count: int,
    key: jax.Array,
    *,
    projection: int = PROJECTION,
    progress: Callable[[str], None] = lambda _: None,
) -> Int[np.ndarray, " count"]:
    """Indices of `count` rows, in the order that they were taken.

    Args:
      rows: at least `count` of them.
      count: how many are taken.
      key: of the projection and of the first ten.
      projection: numbers that a row is projected to; rows no wider than that stay as they are.
      progress: called now and then with what is done.
    """
    k_project, k_start = jax.random.split(key)
    x = jnp.asarray(rows)
    if 0 < projection < x.shape[1]:
        x = x @ (jax.random.normal(k_project, (x.shape[1], projection)) / projection**0.5)
    starts = jax.random.choice(k_start, len(x), (min(_STARTS, len(x)),), replace=False)
    distance = jnp.mean(jnp.stack([_distances(x, x[i]) for i in starts]), axis=0)
    taken = []
    for begin in range(0, count, _AT_ONCE):
        progress(f"coreset: row {begin} of {count}")
        distance, chosen = _take(x, distance, min(_AT_ONCE, count - begin))
        taken.append(np.asarray(chosen))
    return np.concatenate(taken)


def _distances(x: jax.Array, row: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(x - row).sum(-1))


def _take(x: jax.Array, distance: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    def step(distance: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        farthest = jnp.argmax(distance)
        return jnp.minimum(distance, _distances(x, x[farthest])), farthest

    return jax.lax.scan(step, distance, None, length=count)


_take = jax.jit(_take, static_argnums=2)
