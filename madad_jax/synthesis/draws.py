"""Random numbers of a batch, one a sample, out of a single draw."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int


class Draws:
    """Numbers [b,1,1] one after the other.

    A program that asks `jax.random` forty times compiles for seconds; this one asks once.
    """

    def __init__(self, key: jax.Array, batch: int, most: int):
        """Holds `most` numbers for each of `batch` samples."""
        self._table = jax.random.uniform(key, (most, batch, 1, 1), minval=1e-6, maxval=1 - 1e-6)
        self._next = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Float[jax.Array, "b 1 1"]:
        """U(low, high)."""
        if self._next == len(self._table):
            raise ValueError(f"more than {len(self._table)} draws were asked for")
        self._next += 1
        return low + (high - low) * self._table[self._next - 1]

    def log_uniform(self, low: float, high: float) -> Float[jax.Array, "b 1 1"]:
        """Numbers whose logarithm is uniform: as many in each octave."""
        return jnp.exp(self.uniform(math.log(low), math.log(high)))

    def normal(self) -> Float[jax.Array, "b 1 1"]:
        """N(0, 1)."""
        return jax.scipy.special.ndtri(self.uniform())

    def coin(self, share: float = 0.5) -> Bool[jax.Array, "b 1 1"]:
        """True for so many."""
        return self.uniform() < share

    def sign(self, positive: float = 0.5) -> Float[jax.Array, "b 1 1"]:
        """1 for a share of `positive`, else -1."""
        return jnp.where(self.coin(positive), 1.0, -1.0)

    def several(self, count: int, low: float = 0.0, high: float = 1.0) -> jax.Array:
        """`count` numbers a sample, U(low, high) [count,b,1,1]."""
        return jnp.stack([self.uniform(low, high) for _ in range(count)])

    def pick_pixel(
        self, mask: Bool[jax.Array, "b H W"]
    ) -> tuple[Int[jax.Array, "b 1 1"], Int[jax.Array, "b 1 1"]]:
        """Row and column of a random pixel of each mask; the first of an empty one."""
        width = mask.shape[2]
        rank = jnp.cumsum(mask.reshape(len(mask), -1), axis=1)
        wanted = self.uniform()[:, :, 0] * rank[:, -1:]
        place = (rank <= wanted).sum(1) % rank.shape[1]
        return (place // width)[:, None, None], (place % width)[:, None, None]
