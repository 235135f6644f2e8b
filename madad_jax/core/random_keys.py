"""Random keys: one root key from the seed, folded by stream name and step, never stored.

A key is a pure function of (seed, stream, step), so a resumed run, or one on another
number of devices, draws the same numbers without any generator state in a checkpoint.
"""

import zlib

import jax


def root_key(seed: int) -> jax.Array:
    """The run's root key. `seed` is any non-negative integer."""
    return jax.random.key(seed)


def stream(key: jax.Array, name: str) -> jax.Array:
    """An independent key for a named use, stable across versions of Python.

    `zlib.crc32` and not `hash`: Python salts string hashes per process.
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at_step(key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of stream `name` at `step` (traced or concrete)."""
    return jax.random.fold_in(stream(key, name), step)
