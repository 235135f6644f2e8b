"""Random keys: one root key from the seed, folded by stream name and step, never stored.

A key is a pure function of (seed, stream, step), so a resumed run, or one on another
number of devices, draws the same numbers without any generator state in a checkpoint.

Keys that are known on the host are made there, with the numbers of `jax.random`: each call of that
would trace and compile a small program in every process.
"""

import zlib

import jax
import numpy as np

_IMPLEMENTATION = "threefry2x32"
_WORD = 0xFFFFFFFF


def root_key(seed: int) -> jax.Array:
    """The run's root key. `seed` is any non-negative integer."""
    # Larger seeds are cut or kept by JAX as its own settings say.
    if jax.config.values["jax_default_prng_impl"] == _IMPLEMENTATION and 0 <= seed < 2**31:
        return _wrap((0, seed))
    return jax.random.key(seed)


def stream(key: jax.Array, name: str) -> jax.Array:
    """An independent key for a named use, stable across versions of Python.

    `zlib.crc32` and not `hash`: Python salts string hashes per process.
    """
    number = zlib.crc32(name.encode())
    known = not isinstance(key, jax.core.Tracer) and key.is_fully_addressable
    if known and key.shape == () and str(jax.random.key_impl(key)) == _IMPLEMENTATION:
        # Where something else is being traced, too: this key is none of its values.
        with jax.ensure_compile_time_eval():
            first, second = (int(word) for word in np.asarray(jax.random.key_data(key)))
        return _wrap(_threefry((first, second), (0, number)))
    return jax.random.fold_in(key, number)


def at_step(key: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of stream `name` at `step` (traced or concrete)."""
    return jax.random.fold_in(stream(key, name), step)


def _wrap(words: tuple[int, int]) -> jax.Array:
    return jax.random.wrap_key_data(np.array(words, np.uint32), impl=_IMPLEMENTATION)


def _threefry(key: tuple[int, int], count: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011, doi 10.1145/2063384.2063405)."""
    words = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    a, b = (count[0] + words[0]) & _WORD, (count[1] + words[1]) & _WORD
    for i in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            a = (a + b) & _WORD
            b = (((b << turn) | (b >> (32 - turn))) & _WORD) ^ a
        a = (a + words[(i + 1) % 3]) & _WORD
        b = (b + words[(i + 2) % 3] + i + 1) & _WORD
    return a, b
