import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.checkpoints import digests
from madad_jax.core import json_digest, trees
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "int16"]


def _digest(array):
    return digests.tree_digests({"x": array})["x"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_single_bit_counts(dtype):
    """All digests of an array and of its one-bit neighbours differ from each other."""
    raw = np.random.default_rng(0).integers(0, 256, 12 * jnp.dtype(dtype).itemsize, np.uint8)
    seen = {_digest(jnp.asarray(raw.view(jnp.dtype(dtype)).reshape(3, 4)))}
    bits = range(8 * raw.size)
    for bit in bits:
        flipped = raw.copy()
        flipped[bit // 8] ^= 1 << (bit % 8)
        seen.add(_digest(jnp.asarray(flipped.view(jnp.dtype(dtype)).reshape(3, 4))))
    assert len(seen) == 1 + len(bits)


def test_places_count():
    """Rotations of one array, and zeros of different length, all differ."""
    x = np.arange(16, dtype=np.float32)
    assert len({_digest(np.roll(x, n)) for n in range(16)}) == 16
    lanes = [_digest(np.zeros(n, np.float32)).split(":")[1] for n in range(8)]
    assert len(set(lanes)) == 8


def test_a_pair_of_equal_changes_does_not_cancel():
    """The sign bits of two elements: a plain sum or xor of bits would miss the pair."""
    x = np.arange(1, 9, dtype=np.float32)
    seen = {_digest(x)}
    for i, j in itertools.combinations(range(8), 2):
        y = x.copy()
        y[[i, j]] *= -1
        seen.add(_digest(y))
    assert len(seen) == 1 + 28


def test_many_split_arrays_do_not_wait_for_each_other():
    """Sums of sixty arrays at once made eight CPU devices wait for ever (XLA then aborts)."""
    mesh = mesh_lib.make_mesh(2, 2, 2)
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor"))
    arrays = {f"a{i}": np.full((64 + 8 * (i % 6), 64), i, np.float32) for i in range(60)}
    placed = jax.device_put(arrays, split)
    expected = digests.tree_digests(arrays)
    for _ in range(20):
        assert digests.tree_digests(placed) == expected


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (1, 2, 4)])
def test_sharding_does_not_matter(sizes):
    mesh = mesh_lib.make_mesh(*sizes)
    x = jax.random.normal(jax.random.key(0), (64, 64))
    params = {"mlp_fc1": {"kernel": x}, "step": jnp.int32(3)}
    split = jax.device_put(params, parameter_rules.param_shardings(params, mesh))
    assert digests.tree_digests(split) == digests.tree_digests(params)
    for axis in (0, 1):
        spec = jax.sharding.PartitionSpec(*[None] * axis, ("tensor", "fsdp", "data"))
        whole = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
        assert _digest(whole) == _digest(x)


def test_no_gather_in_the_compiled_program():
    mesh = mesh_lib.make_mesh()
    x = jax.device_put(jnp.zeros((64, 64)), mesh_lib.batch_sharding(mesh))
    out = mesh_lib.replicated(mesh)
    text = jax.jit(digests.array_digest, out_shardings=out).lower(x).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text


def test_type_and_shape_are_part():
    x = jnp.zeros((2, 3))
    assert _digest(x).startswith("float32[2,3]:")
    assert len({_digest(x), _digest(x.reshape(3, 2)), _digest(x.astype(jnp.int32))}) == 3


def test_known_value():
    """Checkpoints outlive versions: the function may never change under format 1."""
    assert _digest(np.arange(6, dtype=np.float32).reshape(2, 3)) == "float32[2,3]:f325d6719ad2d17e"


def test_keys_bools_scalars_and_empty_arrays():
    found = digests.tree_digests(
        {"key": jax.random.key(1), "flag": jnp.array(True), "none": jnp.zeros((0, 2)), "n": 3.0}
    )
    other = digests.tree_digests({"key": jax.random.key(2), "flag": jnp.array(False)})
    assert found["key"] != other["key"] and found["flag"] != other["flag"]
    assert found["none"] == "float32[0,2]:" + "0" * 16


def test_paths_that_collide_are_refused():
    with pytest.raises(ValueError, match="same path"):
        trees.flatten({"a": {"b": 1}, "a/b": 2})


def test_json_digest_is_of_the_content():
    assert json_digest.json_digest({"a": (1, 2), "b": 0.1}) == json_digest.json_digest(
        {"b": 0.1, "a": [1, 2]}
    )
    assert json_digest.json_digest({"a": 1}) != json_digest.json_digest({"a": 1.5})


@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "float64", "int64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (5000,), (61, 71, 67)])
def test_pieces_in_memory_are_summed_as_devices_sum_whole_arrays(dtype, shape):
    raw = np.random.default_rng(1).integers(0, 2, (*shape, 8), np.uint8) * 3
    array = raw[..., 0].astype(jnp.dtype(dtype))
    # 64-bit arrays reach a device as two words each.
    with jax.enable_x64(True):
        wanted = np.asarray(jax.jit(digests.array_digest)(array))
    np.testing.assert_array_equal(digests._host_digest(array), wanted)


def test_numbers_of_64_bits_are_digested_as_jax_holds_them():
    x = np.arange(7, dtype=np.float64)
    lanes = [_digest(a).split(":")[1] for a in (x, x.astype(np.float32), jnp.asarray(x))]
    assert len(set(lanes)) == 1
