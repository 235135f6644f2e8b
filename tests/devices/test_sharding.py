import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from madad_jax.core import errors, trees
from madad_jax.devices import batches, parameter_rules
from madad_jax.devices import mesh as mesh_lib
from madad_jax.models import registry
from madad_jax.training import optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The fields of a train state."""

    step: Any
    params: Any
    opt_state: Any
    ema_params: Any


def _params():
    """Names and shapes as in a DiT block, small."""
    return {
        "blocks_0": {
            "attn_qkv": {"kernel": jnp.ones((64, 192)), "bias": jnp.ones((192,))},
            "attn_proj": {"kernel": jnp.ones((64, 64)), "bias": jnp.ones((64,))},
            "mlp_fc1": {"kernel": jnp.ones((64, 256)), "bias": jnp.ones((256,))},
            "mlp_fc2": {"kernel": jnp.ones((256, 64)), "bias": jnp.ones((64,))},
        },
        "conv": {"kernel": jnp.ones((3, 3, 16, 32)), "bias": jnp.ones((32,))},
    }


def _abstract_state():
    tx, _ = optimizer.make_optimizer(lr=1e-3, schedule="constant", grad_clip_norm=1.0)
    p = _params()
    return jax.eval_shape(lambda: State(jnp.int32(0), p, tx.init(p), p))


def test_mesh_fills_the_free_axis():
    mesh = mesh_lib.make_mesh(data=-1, fsdp=2, tensor=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert mesh_lib.batch_shards(mesh) == 4


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 1), (2, 2, 1)])
def test_mesh_of_wrong_size_names_the_key(sizes):
    with pytest.raises(errors.UserError, match=r"config\.mesh: found data=.*"):
        mesh_lib.make_mesh(*sizes)


def test_mesh_of_some_devices():
    mesh = mesh_lib.make_mesh(data=2, devices=jax.devices()[:2])
    assert mesh.size == 2


def test_rules_split_megatron_pairs_and_fsdp_the_rest():
    specs = jax.tree.map(
        lambda s: s.spec, parameter_rules.param_shardings(_params(), mesh_lib.make_mesh(2, 2, 2))
    )
    block = specs["blocks_0"]
    assert block["attn_qkv"]["kernel"] == P("fsdp", "tensor")
    assert block["attn_qkv"]["bias"] == P("tensor")
    assert block["attn_proj"]["kernel"] == P("tensor", "fsdp")
    assert block["attn_proj"]["bias"] == P()
    assert block["mlp_fc1"]["kernel"] == P("fsdp", "tensor")
    assert block["mlp_fc2"]["kernel"] == P("tensor", "fsdp")
    assert specs["conv"]["kernel"] == P(None, None, None, "fsdp")


@pytest.mark.parametrize("name", ["dit", "unet"])
def test_the_rules_know_the_names_of_the_models(name):
    """Under tensor = 8 no attention pair is split on one side only, and much is split."""
    denoiser = registry.denoiser(name)
    params = jax.eval_shape(lambda: denoiser.init(jax.random.key(0), (1, 16, 16, 4)))
    flat = trees.flatten(parameter_rules.param_shardings(params, mesh_lib.make_mesh(1, 1, 8)))
    split = {path for path, s in flat.items() if "tensor" in s.spec}
    attention = {path for path in flat if re.search(r"(qkv|[^e]_?proj(_out)?)/kernel$", path)}
    assert len(attention) >= 6 and attention <= split
    assert {path for path in flat if re.search(r"fc[12]/kernel$", path)} <= split


def test_no_split_on_a_data_mesh():
    shardings = parameter_rules.param_shardings(_params(), mesh_lib.make_mesh())
    assert all(s.spec == P() for s in jax.tree.leaves(shardings))


def test_a_tensor_axis_that_does_not_divide_is_left_whole():
    params = {"attn_qkv": {"kernel": jnp.ones((64, 9))}}
    mesh = mesh_lib.make_mesh(4, 1, 2)
    assert parameter_rules.param_shardings(params, mesh)["attn_qkv"]["kernel"].spec == P()


def test_too_much_left_whole_is_an_error_that_names_it():
    mesh = mesh_lib.make_mesh(1, 8, 1)
    params = {"good": jnp.ones((1024, 1024)), "odd": {"kernel": jnp.ones((561, 527))}}
    with pytest.raises(errors.UserError, match=r"fsdp=8 leaves 22\.0 %.*odd/kernel"):
        parameter_rules.param_shardings(params, mesh)
    parameter_rules.param_shardings(params, mesh, max_replicated=0.3)


def test_state_follows_its_parameters():
    state = _abstract_state()
    shardings = parameter_rules.state_shardings(state, mesh_lib.make_mesh(1, 4, 2))
    params = jax.tree.leaves(shardings.params)
    assert any(s.spec == P("fsdp", "tensor") for s in params)
    adam = shardings.opt_state[1][0]
    for tree in (adam.mu, adam.nu, shardings.ema_params):
        assert jax.tree.leaves(tree) == params
    assert adam.count.spec == P() and shardings.step.spec == P()


def test_the_longest_matching_path_decides():
    """`b/a/kernel` must not take the sharding of `a/kernel`, whose path it ends in."""
    params = {"a": {"kernel": jnp.ones((64, 64))}, "b": {"mlp_fc1": {"kernel": jnp.ones((64, 64))}}}
    params["mlp_fc1"] = {"kernel": jnp.ones((64, 64))}
    params["b"]["a"] = {"kernel": jnp.ones((32, 64))}
    state = State(jnp.int32(0), params, {"mu": params}, None)
    shardings = parameter_rules.state_shardings(state, mesh_lib.make_mesh(1, 8, 1))
    assert shardings.opt_state["mu"] == shardings.params
    assert shardings.opt_state["mu"]["b"]["a"]["kernel"].spec == P(None, "fsdp")
    assert shardings.opt_state["mu"]["a"]["kernel"].spec == P("fsdp")


def test_memory_per_device_falls_and_is_described():
    state = _abstract_state()
    mesh = mesh_lib.make_mesh(1, 8, 1)
    arrays = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state),
        out_shardings=parameter_rules.state_shardings(state, mesh),
    )()
    first = jax.devices()[0]
    held = sum(
        s.data.nbytes
        for leaf in jax.tree.leaves(arrays.params)
        for s in leaf.addressable_shards
        if s.device == first
    )
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(state.params))
    assert count * 4 / 8 <= held < count * 4 / 7
    line = parameter_rules.describe(state, mesh)
    assert "data 1 x fsdp 8 x tensor 1" in line and f"{count:,} parameters" in line
    assert f"parameters {held / 1024:.1f} KiB" in line and "\n" not in line


def test_global_batch_splits_rows_and_replicates_scalars():
    mesh = mesh_lib.make_mesh(2, 2, 2)
    batch = {"image": np.arange(8 * 3, dtype=np.float32).reshape(8, 3), "step": np.int32(4)}
    result = batches.global_batch(mesh, batch)
    np.testing.assert_array_equal(result["image"], batch["image"])
    assert result["image"].sharding.shard_shape((8, 3)) == (2, 3)
    assert result["step"] == 4 and result["step"].sharding.is_fully_replicated


def test_global_batch_of_odd_rows_names_the_array():
    with pytest.raises(errors.UserError, match="'image': 6 rows"):
        batches.global_batch(mesh_lib.make_mesh(), {"image": np.zeros((6, 2), np.float32)})


@pytest.mark.parametrize(("size", "accum", "fine"), [(16, 1, True), (16, 2, True), (8, 2, False)])
def test_batch_size_must_divide(size, accum, fine):
    mesh = mesh_lib.make_mesh(4, 2, 1)
    if fine:
        batches.check_batch_size(size, mesh, accum)
    else:
        with pytest.raises(errors.UserError, match=r"config\.batch_size: found 8.*multiple of 16"):
            batches.check_batch_size(size, mesh, accum)


def test_one_process_reads_the_whole_batch():
    assert batches.data_process(mesh_lib.make_mesh(2, 2, 2)) == (0, 1)


@pytest.mark.parametrize(
    ("sizes", "processes", "expected"),
    [
        ((4, 1, 1), 2, [(0, 2), (1, 2)]),
        ((2, 1, 4), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ((1, 1, 8), 2, [(0, 1), (0, 1)]),
        ((2, 4, 1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ],
)
def test_slices_per_process(sizes, processes, expected):
    count = math.prod(sizes)
    owners = (np.arange(count) * processes // count).reshape(math.prod(sizes[:2]), sizes[2])
    assert [batches.slice_of(owners, p) for p in range(processes)] == expected


def test_slices_that_overlap_in_part_are_refused():
    with pytest.raises(errors.UserError, match=r"config\.mesh: .*unevenly over 2 processes"):
        batches.slice_of(np.array([[0], [0], [0], [1]]), 0)


def test_loss_and_gradients_agree_on_every_mesh():
    """One matrix product pair under four meshes: the same numbers within rounding."""
    params = {"mlp_fc1": {"kernel": jnp.linspace(-1, 1, 64 * 64).reshape(64, 64)}}
    params["mlp_fc2"] = {"kernel": jnp.linspace(1, -1, 64 * 64).reshape(64, 64) ** 3}
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)

    def loss(p, x):
        h = jnp.tanh(x @ p["mlp_fc1"]["kernel"]) @ p["mlp_fc2"]["kernel"]
        return jnp.mean(h**2)

    want, want_grad = jax.value_and_grad(loss)(params, x)
    for sizes in [(8, 1, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)]:
        mesh = mesh_lib.make_mesh(*sizes)
        shardings = parameter_rules.param_shardings(params, mesh)
        step = jax.jit(
            jax.value_and_grad(loss),
            in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
            out_shardings=(mesh_lib.replicated(mesh), shardings),
        )
        got, grad = step(jax.device_put(params, shardings), batches.global_batch(mesh, x))
        np.testing.assert_allclose(got, want, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(want_grad), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def _slice_of_each_row(mesh):
    """For each index of `data`, the slices (of four devices) that its devices lie in."""
    return [{d.id // 4 for d in row.flat} for row in mesh.devices]


def test_data_spans_slices_and_nothing_else_does():
    mesh = mesh_lib.make_mesh(data=4, fsdp=2, slices=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert _slice_of_each_row(mesh) == [{0}, {0}, {1}, {1}], "the outer part of the axis"
    assert mesh_lib.make_mesh(data=4, fsdp=2, dcn_data=2) == mesh, "a stated count is enough"


def test_fsdp_spans_slices_when_asked():
    mesh = mesh_lib.make_mesh(data=2, fsdp=4, dcn_data=1, dcn_fsdp=2, slices=2)
    assert _slice_of_each_row(mesh) == [{0, 1}, {0, 1}]
    assert [{d.id // 4 for d in column.flat} for column in mesh.devices.transpose(1, 0, 2)] == [
        {0},
        {0},
        {1},
        {1},
    ]


@dataclasses.dataclass(frozen=True)
class TpuLike:
    """What the library reads of a device that knows its slice."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


def test_slices_that_devices_tell_of():
    """Eight devices in two slices, numbered to and fro between them."""
    devices = [TpuLike(id=i, slice_index=i % 2) for i in range(8)]
    with pytest.raises(errors.UserError, match=r"dcn_data=3, .*there are 2 slices"):
        mesh_lib.make_mesh(data=4, fsdp=2, dcn_data=3, devices=devices)
    grid = mesh_lib.hybrid_grid((4, 2, 1), (2, 1, 1), devices)
    assert grid.shape == (4, 2, 1)
    assert [{d.slice_index for d in row.flat} for row in grid] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 4, "fsdp": 2, "dcn_data": 4, "slices": 2}, "dcn_data=4.*there are 2 slices"),
        ({"data": 1, "fsdp": 8, "slices": 2}, "data=1 does not divide over 2 slices"),
        ({"dcn_data": 0}, "dcn_data=0.*must be positive"),
        ({"fsdp": 2, "dcn_fsdp": 4}, "fsdp=2 does not divide over 4 slices"),
    ],
)
def test_slices_that_do_not_fit_the_mesh(sizes, message):
    with pytest.raises(errors.UserError, match=f"config.mesh: found .*{message}"):
        mesh_lib.make_mesh(**sizes)


def test_gathered_forgets_fsdp_and_keeps_tensor():
    shardings = parameter_rules.param_shardings(_params(), mesh_lib.make_mesh(2, 2, 2))
    specs = jax.tree.map(lambda s: s.spec, parameter_rules.gathered(shardings))
    assert specs["blocks_0"]["attn_qkv"]["kernel"] == P(None, "tensor")
    assert specs["blocks_0"]["attn_proj"]["kernel"] == P("tensor", None)
    assert specs["conv"]["kernel"] == P(None, None, None, None)
