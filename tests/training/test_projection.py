"""A step on a second task against what the first must still say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from madad_jax.core import errors, trees
from madad_jax.devices import mesh as mesh_lib
from madad_jax.models import registry
from madad_jax.training import input_bases, optimizer, projection
from tests.models.test_dit import inputs, random_params
from tests.models.test_moments import NETWORKS

SHAPE = (1, 2, 2, 3)  # 4 cells: fewer inputs than most layers have dimensions


@functools.cache
def small(name):
    more = {
        "dit": {"patch_size": 1, "depth": 1},
        "unet": {"channel_mult": (1,), "attention_rates": (1,)},
    }
    return registry.denoiser(name, **{**NETWORKS[name], **more[name]})


def bases_of(network, params, x, t, energy=1.0 - 1e-9):
    recording = type(network)(network.name, network._module, records=True)
    gathering = input_bases.Gathering(input_bases.Options(energy=energy), {})
    # Compiled whole: one operation after another would be dozens of small programs.
    gathering.add(jax.jit(recording.apply)(params, x, t).moments)
    return gathering.result()


def train(params, bases, network, way="update", name="adamw", steps=3):
    """Some steps on random inputs with random targets, with decay of all weights."""
    tx, _ = optimizer.make_optimizer(
        name=name, lr=1e-2, schedule="constant", weight_decay=0.1, grad_clip_norm=1.0
    )
    tx = projection.with_projection(tx, way)
    x, t = inputs((4, *SHAPE[1:]), seed=7)

    @jax.jit
    def step(gradients, params, state):
        more = {} if way == "none" else {projection.KEY: bases}
        updates, state = tx.update(gradients, state, params, **more)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(steps):
        params, state = step(gradients_of(network, params, x, t), params, state)
    return params


# Compiled once for a network: most of what the tests here cost.
@functools.partial(jax.jit, static_argnums=0)
def gradients_of(network, params, x, t):
    def loss(params):
        out = network.apply(params, x, t)
        return jnp.square(out.x0 - 1.0).mean() + jnp.square(out.visible_logit - x[..., :1]).mean()

    return jax.grad(loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def answer(network, params, x, t):
    return network.apply(params, x, t)


def moved(network, before, after, x, t):
    one, other = answer(network, before, x, t), answer(network, after, x, t)
    return max(float(jnp.abs(a - b).max()) for a, b in zip(one[:2], other[:2], strict=True))


@pytest.mark.parametrize(
    ("name", "optimiser"), [("dit", "adamw"), ("dit", "muon"), ("unet", "adamw")]
)
def test_answers_on_the_first_task_stay_and_others_move(name, optimiser):
    network = small(name)
    params, (x, t) = random_params(network, SHAPE), inputs(SHAPE)
    bases = bases_of(network, params, x, t)
    assert any(b.shape[1] < b.shape[0] for b in bases.values())
    after = train(params, bases, network, name=optimiser)
    assert moved(network, params, after, x, t) < 2e-5
    new_x, new_t = inputs(SHAPE, seed=3)
    assert moved(network, params, after, new_x, new_t) > 1e-3
    free = train(params, bases, network, "none", optimiser)
    assert moved(network, params, free, x, t) > 1e-2


def test_projecting_the_gradient_before_adam_is_not_enough():
    """As published: Adam's division turns the step back into the span, and decay moves it too."""
    network = small("dit")
    params, (x, t) = random_params(network, SHAPE), inputs(SHAPE)
    bases = bases_of(network, params, x, t)
    published = train(params, bases, network, "gradient")
    assert moved(network, params, published, x, t) > 1e-3


def test_what_has_no_basis_stays():
    """Norms, maps of the time step and biases of convolutions; all else may move."""
    network, rng = small("unet"), np.random.default_rng(0)
    params = random_params(network, SHAPE)
    flat = trees.flatten(params)
    time = ("time_embed_0", "time_embed_2", "emb_layers_1")
    bases = {}
    for path, kernel in flat.items():
        layer, _, leaf = path.rpartition("/")
        if leaf == "kernel" and layer.rpartition("/")[2] not in time:
            d = kernel.shape[-2] + (kernel.ndim == 2)
            bases[layer] = np.linalg.qr(rng.standard_normal((d, 1)))[0].astype(np.float32)
    now = trees.flatten(projection.complement(params, bases))
    for path in flat:
        layer, _, leaf = path.rpartition("/")
        convolution = layer in bases and flat[f"{layer}/kernel"].ndim == 4
        stays = layer not in bases or (convolution and leaf == "bias")
        assert (now[path] == 0).all() == stays, path
    assert {path.rpartition("/")[2] for path in flat if (now[path] == 0).all()} >= {"scale"}


def test_a_convolution_keeps_every_patch_whose_pixels_lie_in_the_span():
    """The channel moment is enough: at the border too, where zeros stand for pixels."""
    rng = np.random.default_rng(0)
    channels, rank = 6, 2
    span = np.linalg.qr(rng.standard_normal((channels, rank)))[0].astype(np.float32)
    update = {"conv": {"kernel": rng.standard_normal((3, 3, channels, 5)).astype(np.float32)}}
    kept = projection.complement(update, {"conv": span})["conv"]["kernel"]
    inside = np.einsum("ij,hwjo->hwio", span @ span.T, update["conv"]["kernel"])
    np.testing.assert_allclose(kept, update["conv"]["kernel"] - inside, atol=1e-5)
    pixels = (rng.standard_normal((1, 5, 5, rank)) @ span.T).astype(np.float32)

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    assert jnp.abs(convolve(pixels, update["conv"]["kernel"])).max() > 1
    np.testing.assert_allclose(convolve(pixels, kept), 0, atol=2e-5)
    other = rng.standard_normal((1, 5, 5, channels)).astype(np.float32)
    assert jnp.abs(convolve(other, kept)).max() > 1


@pytest.mark.parametrize("axes", [{"data": 2}, {"data": 1, "fsdp": 2}, {"data": 1, "tensor": 2}])
def test_two_devices_project_as_one(axes):
    rng = np.random.default_rng(1)
    update = {
        "qkv": {"kernel": rng.standard_normal((8, 3, 4)), "bias": rng.standard_normal((3, 4))}
    }
    update = jax.tree.map(np.float32, update)
    basis = np.linalg.qr(rng.standard_normal((9, 4)))[0].astype(np.float32)
    alone = projection.complement(update, {"qkv": basis})
    mesh = mesh_lib.make_mesh(**axes, devices=jax.devices()[:2])
    axis = next(iter(axes.keys() - {"data"}), "data")
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
    whole = mesh_lib.replicated(mesh)
    shared = {
        "qkv": {
            "kernel": jax.device_put(update["qkv"]["kernel"], split),
            "bias": jax.device_put(update["qkv"]["bias"], whole),
        }
    }
    out = jax.jit(projection.complement)(shared, {"qkv": jax.device_put(basis, whole)})
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(out), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    joint = np.concatenate([out["qkv"]["kernel"].reshape(8, -1), out["qkv"]["bias"].reshape(1, -1)])
    np.testing.assert_allclose(basis.T @ joint, 0, atol=2e-6)


def test_no_projection_is_the_same_transformation():
    tx = optax.sgd(0.1)
    assert projection.with_projection(tx, "none") is tx


def test_a_second_network_is_refused():
    params = {"denoiser": {"a": {"kernel": np.ones((2, 2))}}, "pixel_head": {}}
    with pytest.raises(errors.UserError, match="found method=madad, which trains more than"):
        projection.check_layers(params, {"a": np.ones((3, 3))}, "madad")
