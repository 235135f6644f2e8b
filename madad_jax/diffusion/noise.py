"""Noise fields with unit variance at every cell.

`gaussian` is white, as in paper and official code. `pyramid` (ours here; pyramid noise is
what ANDi trains with) adds Gaussian fields that are constant over squares of 1, 2, 4, ... cells,
each shifted at random:

    eps = sum_k w_k n_k,   sum_k w_k^2 = 1,   w drawn anew for every sample

Marginally it is the same noise, so schedule and DDIM hold as they are. But white noise on a
latent looks like nothing in a brain, and a mask head that has only seen white noise flags
nothing else; a lesion is a smooth change over several cells, as the coarse fields are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.core import errors
from madad_jax.diffusion import simplex

KINDS = ("gaussian", "pyramid")


@dataclasses.dataclass(frozen=True)
class Noise:
    """A kind of noise and its numbers, for methods on images.

    Attributes:
      kind: one of `KINDS`, or `simplex`.
      octaves, persistence, frequency: of simplex noise (`simplex.py`); `frequency` is the
        period of the coarsest octave in pixels.
    """

    kind: str = "gaussian"
    octaves: int = 6
    persistence: float = 0.8
    frequency: float = 64.0

    def __post_init__(self):
        if self.kind != "simplex":
            check_kind(self.kind, (*KINDS, "simplex"))

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Float[jax.Array, "b h w c"]:
        """Noise of `shape` (b, h, w, c), every sample and channel its own."""
        if self.kind == "simplex":
            return simplex.fractal(
                key,
                shape,
                octaves=self.octaves,
                persistence=self.persistence,
                frequency=self.frequency,
            )
        return draw(key, shape, self.kind)


def check_kind(kind: str, accepted: tuple[str, ...] = KINDS) -> None:
    """Raises UserError for an unknown kind."""
    if kind not in accepted:
        raise errors.UserError(f"diffusion.noise: found {kind!r}, accepted: {', '.join(accepted)}")


def draw(key: jax.Array, shape: tuple[int, ...], kind: str) -> Float[jax.Array, "b h w c"]:
    """Noise of `shape` (b, h, w, c). Raises UserError for an unknown kind."""
    check_kind(kind)
    if kind == "gaussian":
        return jax.random.normal(key, shape)
    batch, h, w, _ = shape
    levels = _levels(h, w)
    k_weights, *keys = jax.random.split(key, levels + 1)
    weights = jax.random.uniform(k_weights, (levels, batch, 1, 1, 1))
    # Independent fields of unit variance: weights of unit length give unit variance.
    weights = weights / jnp.sqrt(jnp.square(weights).sum(0))
    fields = [_squares(k, shape, 2**level) for level, k in enumerate(keys)]
    return (weights * jnp.stack(fields)).sum(0)


def _levels(h: int, w: int) -> int:
    """As many halvings as leave at least two squares a side, at most four (1, 2, 4, 8)."""
    return min(4, max(1, min(h, w).bit_length() - 1))


def _squares(key: jax.Array, shape: tuple[int, ...], side: int) -> Float[jax.Array, "b h w c"]:
    """White noise on squares of `side` cells whose grid lies at random, a sample at a time."""
    batch, h, w, c = shape
    k_noise, k_shift = jax.random.split(key)
    # One square more than fits, so that every shift still covers the field.
    rows, columns = -(-h // side) + 1, -(-w // side) + 1
    coarse = jax.random.normal(k_noise, (batch, rows, columns, c))
    fine = coarse.repeat(side, 1).repeat(side, 2)
    shift = jax.random.randint(k_shift, (batch, 2), 0, side)

    def cut(field: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(field, (at[0], at[1], 0), (h, w, c))

    return jax.vmap(cut)(fine, shift)
