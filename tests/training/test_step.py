import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from madad_jax.core import random_keys, trees
from madad_jax.devices import batches, parameter_rules
from madad_jax.devices import mesh as mesh_lib
from madad_jax.diffusion import schedule
from madad_jax.methods import madad
from madad_jax.models import registry
from madad_jax.training import state as state_lib
from madad_jax.training import step as step_lib
from tests.methods import stand_ins


@pytest.fixture(autouse=True)
def compile_quickly():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@dataclasses.dataclass(frozen=True)
class Line:
    """Least squares; with `noisy` the draw of the key is a metric and part of the gradient."""

    noisy: bool = False
    name: str = "line"

    def init(self, key, batch_spec):
        raise NotImplementedError

    def anomaly_map(self, params, frozen, batch, key):
        raise NotImplementedError

    def loss(self, params, frozen, batch, key, *, train=True):
        error = batch["x"] @ params["w"] - batch["y"] * frozen["scale"]
        total = jnp.square(error).mean()
        draw = jax.random.uniform(key) if self.noisy else jnp.float32(0)
        total = total + draw * params["w"].sum()
        quiet = jnp.float32(not train)
        return total, {
            "loss": total,
            "draw": draw,
            "seen_step": batch["step"] * 1.0,
            "quiet": quiet,
        }


FROZEN = {"scale": jnp.float32(2.0)}
ROOT = random_keys.root_key(3)


def line_batch():
    draw = np.random.RandomState(0)
    x = draw.standard_normal((8, 3)).astype(np.float32)
    return {"x": x, "y": draw.standard_normal(8).astype(np.float32)}


def line_state(tx, ema=False):
    return state_lib.create({"w": jnp.array([0.5, -1.0, 2.0])}, tx, ema=ema)


def gradient_by_hand(w):
    b = line_batch()
    return 2 * b["x"].T @ (b["x"] @ w - 2 * b["y"]) / 8


@pytest.mark.parametrize("accum_steps", [1, 2, 4, 8])
def test_microbatches_add_up_to_the_batch(accum_steps):
    tx = optax.sgd(0.1)
    step = step_lib.make_train_step(Line(), tx, accum_steps=accum_steps)
    state, metrics = step(line_state(tx), FROZEN, line_batch(), ROOT)
    w = np.array([0.5, -1.0, 2.0])
    b = line_batch()
    gradient = gradient_by_hand(w)
    np.testing.assert_allclose(state.params["w"], w - 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["loss"], np.square(b["x"] @ w - 2 * b["y"]).mean(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient), rtol=1e-5)
    assert int(state.step) == 1 and metrics["seen_step"] == 0


def test_microbatches_draw_for_themselves():
    tx = optax.sgd(0.0)
    step = step_lib.make_train_step(Line(noisy=True), tx, accum_steps=4)
    _, metrics = step(line_state(tx), FROZEN, line_batch(), ROOT)
    keys = jax.random.split(random_keys.at_step(ROOT, "train", 0), 4)
    draws = [float(jax.random.uniform(k)) for k in keys]
    assert len(set(draws)) == 4
    np.testing.assert_allclose(metrics["draw"], np.mean(draws), rtol=1e-6)


def test_draws_follow_the_step_and_not_the_history():
    tx = optax.sgd(0.0)
    step = step_lib.make_train_step(Line(noisy=True), tx)
    state, draws = line_state(tx), []
    for i in range(3):
        state, metrics = step(state, FROZEN, line_batch(), ROOT)
        draws.append(float(metrics["draw"]))
        assert metrics["seen_step"] == i
    assert len(set(draws)) == 3
    later = dataclasses.replace(line_state(tx), step=jnp.int32(2))
    _, metrics = step(later, FROZEN, line_batch(), ROOT)
    assert float(metrics["draw"]) == draws[2]


def test_the_state_is_donated():
    tx = optax.adam(0.1)
    step = step_lib.make_train_step(Line(), tx, ema_decay=0.9)
    state = line_state(tx, ema=True)
    after, _ = step(state, FROZEN, line_batch(), ROOT)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not FROZEN["scale"].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_average_is_the_formula():
    tx = optax.sgd(0.05)
    step = step_lib.make_train_step(Line(), tx, ema_decay=0.25)
    state = line_state(tx, ema=True)
    w = ema = np.array([0.5, -1.0, 2.0])
    for i in range(5):
        state, _ = step(state, FROZEN, line_batch(), ROOT)
        w = w - 0.05 * gradient_by_hand(w)
        decay = min(0.25, (1 + i) / (10 + i))
        ema = decay * ema + (1 - decay) * w
        np.testing.assert_allclose(state.ema_params["w"], ema, rtol=1e-4)
    assert np.abs(ema - w).max() > 1e-3
    assert state.eval_params is state.ema_params


def test_no_average_when_none_is_kept():
    tx = optax.sgd(0.05)
    state, _ = step_lib.make_train_step(Line(), tx)(line_state(tx), FROZEN, line_batch(), ROOT)
    assert state.ema_params is None and state.eval_params is state.params


def test_averages_do_not_share_memory_with_parameters():
    state = line_state(optax.sgd(0.1), ema=True)
    pointer = state.ema_params["w"].unsafe_buffer_pointer()
    assert pointer != state.params["w"].unsafe_buffer_pointer()


def test_validation_is_quiet_and_training_is_not():
    method = Line()
    loss = step_lib.make_loss(method)
    params = {"w": jnp.array([0.5, -1.0, 2.0])}
    metrics = loss(params, FROZEN, line_batch(), ROOT, jnp.int32(7))
    assert metrics["quiet"] == 1 and metrics["seen_step"] == 7
    tx = optax.sgd(0.1)
    _, metrics = step_lib.make_train_step(method, tx)(line_state(tx), FROZEN, line_batch(), ROOT)
    assert metrics["quiet"] == 0


# On a mesh: MAD-AD with a small transformer.

SIDE, BATCH, STEPS = 32, 8, 3


@functools.cache
def method():
    # A width at which less than 5 % of the parameters are too small to split.
    denoiser = registry.denoiser("dit", size=None, hidden_size=64, depth=1, num_heads=4)
    return madad.MadAd(
        denoiser=denoiser,
        autoencoder=stand_ins.autoencoder(logvar=-4.0),
        schedule=schedule.make_schedule("cosine", 10),
        masking=madad.Masking(brain_cells=1, per="sample"),
        loss_options=madad.Loss(mask="bce", mask_weight=0.1),
    )


def images():
    draw = np.random.RandomState(1)
    return {
        "image": draw.uniform(-1, 1, (BATCH, SIDE, SIDE, 1)).astype(np.float32),
        "brain_mask": draw.rand(BATCH, SIDE, SIDE) < 0.98,
    }


@functools.cache
def first_params():
    """Every tensor moved off zero, so that all of them have a gradient at once."""
    params = jax.jit(lambda key: method().init(key, images()))(jax.random.key(0))
    draw = np.random.RandomState(2)
    return jax.tree.map(
        lambda p: np.asarray(p) + 0.05 * draw.standard_normal(p.shape).astype(np.float32), params
    )


def initial(tx):
    # New arrays every time: a step takes those of its state for its own.
    return state_lib.create(jax.tree.map(jnp.array, first_params()), tx, ema=True)


def run(mesh, accum_steps=1):
    """(losses of the steps, final state) on a mesh, or on one device."""
    tx = optax.adam(1e-3)
    frozen = {"autoencoder": {}, "scaling_factor": jnp.float32(1.0)}
    state, batch, shardings = initial(tx), images(), None
    if mesh is not None:
        state_s = parameter_rules.state_shardings(state, mesh)
        whole, split = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
        shardings = (state_s, whole, {k: split for k in batch}, whole)
        state, batch = jax.device_put(state, state_s), batches.global_batch(mesh, batch)
    step = step_lib.make_train_step(
        method(), tx, accum_steps=accum_steps, ema_decay=0.9, shardings=shardings
    )
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, frozen, batch, ROOT)
        losses.append(float(metrics["loss"]))
    return losses, state


@functools.cache
def alone():
    losses, state = run(None)
    assert len(set(losses)) == STEPS
    return losses, jax.device_get(state)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_a_mesh_of_eight_gives_what_one_device_gives(sizes):
    mesh = mesh_lib.make_mesh(*sizes)
    losses, state = run(mesh)
    expected_losses, expected = alone()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for ours, theirs in ((state.params, expected.params), (state.ema_params, expected.ema_params)):
        difference = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), ours, theirs)
        # Adam turns a rounding error of a tiny gradient into a share of a step of 1e-3.
        assert max(jax.tree.leaves(difference)) < 1e-4
    check_split(state, mesh)


def check_split(state, mesh):
    """What a device really holds, of the parameters and of all that follows them."""
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    for tree in (state.params, state.opt_state[0].mu, state.ema_params):
        held = whole = 0
        for path, leaf in trees.flatten(tree).items():
            shard = leaf.addressable_shards[0].data
            assert len(leaf.addressable_shards) == 8
            held, whole = held + shard.size, whole + leaf.size
            if tensor > 1 and path.endswith(("qkv/kernel", "fc1/kernel", "fc2/kernel")):
                assert shard.size * fsdp * tensor == leaf.size, path
        assert held < whole / fsdp * 1.1
        assert held >= whole / (fsdp * tensor)
        if tensor > 1:  # a fifth of this network is modulation, which has no tensor rule
            assert held < whole / fsdp * 0.85


def test_accumulation_on_a_mesh_keeps_rows_on_their_devices():
    """Two microbatches on (2, 2, 2): the same rows as on one device."""
    mesh = mesh_lib.make_mesh(2, 2, 2)
    np.testing.assert_allclose(run(mesh, 2)[0], run(None, 2)[0], rtol=1e-5)
