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


def tree_digests(tree: Any) -> dict[str, str]:
    """`{path: "float32[3,4]:<16 hex digits>"}` for every array of `tree`.

    A program for every shape and not one for all: parameters, their moments and their average
    share theirs, and a tree of hundreds of arrays compiles in a quarter of the time. The result is
    equal on every host and for every sharding. Arrays may be JAX or numpy arrays, or random keys.
    """
    flat = trees.flatten(tree)
    sums = {}
    for path, leaf in flat.items():
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
