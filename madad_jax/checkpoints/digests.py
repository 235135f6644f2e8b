"""Content digests of array trees, computed on the devices that hold the arrays.

The digest of an array with n elements is two 32-bit sums (lanes), modulo 2^32,

    d_lane = sum_i mix_lane(bits_i, i),    mix_lane(b, i) = fmix(b xor key_lane(i)),

where `bits_i` is the element's bit pattern as uint32, `i` its row-major index and `fmix` the
32-bit finaliser of MurmurHash3 (A. Appleby, public domain). `fmix` and the xor are bijections
of b, so one changed element always changes both lanes: a flipped bit is never missed. Larger
damage is missed with probability of about 2^-64.

The sum is exact integer arithmetic, hence the same for every sharding, device count and
order of reduction; sharded arrays are summed where they lie, never gathered.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from madad_jax.core import json_digest, trees
from madad_jax.core.types import UInt32

# Odd constants with well spread bits; lanes differ in the index keys and in the multipliers.
_LANES = ((0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35), (0x27D4EB2F, 0x7FEB352D, 0x846CA68B))


def _fmix(h: jax.Array, first: int, second: int) -> jax.Array:
    """A bijection of uint32: xor-shifts and odd multiplications."""
    h = (h ^ (h >> 16)) * jnp.uint32(first)
    h = (h ^ (h >> 13)) * jnp.uint32(second)
    return h ^ (h >> 16)


def _bits(x: jax.Array) -> jax.Array:
    """The bit patterns of `x` as uint32; 64-bit elements become a trailing axis of two."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    if x.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _index(shape: Sequence[int]) -> jax.Array:
    """Row-major index of each element, modulo 2^32, built so that it can be sharded."""
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        iota = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        index = index + iota * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return index


def array_digest(x: jax.Array) -> UInt32[jax.Array, "2"]:
    """The two lanes of one array of any shape. Traceable.

    Raises:
      KeyError: for element types without a whole number of bytes up to 8.
    """
    bits = _bits(x)
    index = _index(bits.shape)
    lanes = []
    for key, first, second in _LANES:
        keyed = bits ^ _fmix(index * jnp.uint32(key) + jnp.uint32(first), first, second)
        lanes.append(jnp.sum(_fmix(keyed, first, second), dtype=jnp.uint32))
    return jnp.stack(lanes)


@functools.lru_cache(maxsize=64)
def _compiled(out_sharding: NamedSharding | None):
    # Replicated, because every host has to read the result.
    return jax.jit(array_digest, out_shardings=out_sharding)


# Words of a piece of an array that lies in this process's memory: small arrays are many.
_PIECES = (1 << 12, 1 << 18)


@jax.jit
def _piece_digest(words: jax.Array, start: jax.Array, count: jax.Array) -> UInt32[jax.Array, "2"]:
    """The lanes of the first `count` of `words`, the array's words from `start` on."""
    place = jnp.arange(words.size, dtype=jnp.uint32)
    lanes = []
    for key, first, second in _LANES:
        keyed = words ^ _fmix((place + start) * jnp.uint32(key) + jnp.uint32(first), first, second)
        mixed = jnp.where(place < count, _fmix(keyed, first, second), jnp.uint32(0))
        lanes.append(jnp.sum(mixed, dtype=jnp.uint32))
    return jnp.stack(lanes)


def _lies_here(leaf: Any) -> bool:
    """Whether an array's bytes are in this process's memory, whole, in this order."""
    if isinstance(leaf, np.ndarray):
        return True
    return (
        isinstance(leaf, jax.Array)
        and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        and len(leaf.devices()) == 1
        and next(iter(leaf.devices())).platform == "cpu"
        and leaf.is_fully_addressable
    )


def _host_digest(array: np.ndarray) -> np.ndarray:
    """`array_digest` in pieces of two sizes: two programs, whatever the arrays' shapes."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.bool_ or flat.dtype.itemsize < 4:
        unsigned = np.uint16 if flat.dtype.itemsize == 2 else np.uint8
        words = flat.view(unsigned)
    else:
        words = flat.view(np.uint32)
    lanes = np.zeros(2, np.uint32)
    start = 0
    while start < len(words):
        left = len(words) - start
        size = _PIECES[0] if left <= _PIECES[0] else _PIECES[1]
        piece = words[start : start + size].astype(np.uint32, copy=False)
        if len(piece) < size:
            piece = np.pad(piece, (0, size - len(piece)))
        lanes += np.asarray(_piece_digest(piece, np.uint32(start % 2**32), np.uint32(left)))
        start += size
    return lanes


def tree_digests(tree: Any) -> dict[str, str]:
    """`{path: "float32[3,4]:<16 hex digits>"}` for every array of `tree`.

    Arrays in this process's memory are summed by two programs in pieces. On devices there is a
    program for every shape and not one for all: parameters, their moments and their average
    share theirs, and a tree of hundreds of arrays compiles in a quarter of the time. The result is
    equal on every host and for every sharding. Arrays may be JAX or numpy arrays, or random keys.
    """
    flat = trees.flatten(tree)
    sums = {}
    for path, leaf in flat.items():
        if _lies_here(leaf):
            # Shapes are many, and a program for each would take longer than all sums.
            # In the type that JAX would give it: 64 bits are 32 unless they were asked for.
            kind = jax.dtypes.canonicalize_dtype(leaf.dtype)
            sums[path] = _host_digest(np.asarray(leaf).astype(kind, copy=False))
            continue
        sharding = getattr(leaf, "sharding", None)
        where = None
        if isinstance(sharding, NamedSharding):
            where = NamedSharding(sharding.mesh, PartitionSpec())
        sums[path] = _compiled(where)(leaf)
        if where is not None and where.num_devices > 1:
            # Never two sums in flight: on a CPU that plays many devices the waits of one
            # all-reduce can hold every thread that the other needs, for good.
            sums[path].block_until_ready()
    lanes = {path: np.asarray(value) for path, value in sums.items()}
    return {
        path: f"{trees.signature(leaf)}:{lanes[path][0]:08x}{lanes[path][1]:08x}"
        for path, leaf in flat.items()
    }


def weights_digest(tree: Any) -> str:
    """One digest of a whole tree: sha256 of the JSON text of `tree_digests`."""
    return json_digest.json_digest(tree_digests(tree))
