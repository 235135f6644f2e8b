"""Recorded second moments against direct sums, and a forward pass that does not know of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.models import registry
from madad_jax.models.layers import basic, moments
from tests.models.test_dit import TINY, inputs, random_params

UNET = {
    "size": None,
    "model_channels": 8,
    "num_heads": 1,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_rates": (2,),
    "num_groups": 4,
    "dropout": 0.0,
}
NETWORKS = {"dit": {**TINY, "patch_size": 2}, "unet": UNET}


def recorded(module, x):
    x = jnp.asarray(x)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    assert set(params) == {"params"}, "initialisation makes parameters alone"
    params = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), params)
    return module.apply(params, x, mutable=[moments.COLLECTION])[1]["moments"]["inputs"]


@pytest.mark.parametrize("layer", [basic.Linear(5), basic.ParallelLinear(3, 5)])
def test_linear_moment_is_the_sum_over_rows_with_a_one(layer):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    rows = np.concatenate([x.reshape(-1, 4), np.ones((6, 1))], axis=1)
    np.testing.assert_allclose(recorded(layer, x), rows.T @ rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_moment_is_that_of_its_channels(stride):
    x = np.random.default_rng(1).standard_normal((2, 4, 4, 3)).astype(np.float32)
    rows = x.reshape(-1, 3)
    found = recorded(basic.Conv(5, stride=stride), x)
    np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_recording_changes_no_answer_and_leaves_out_the_time_step(name):
    plain = registry.denoiser(name, **NETWORKS[name])
    asked = type(plain)(name, plain._module, records=True)
    shape = (2, 4, 4, 3)
    params, (x, t) = random_params(plain, shape), inputs(shape)
    one, other = (jax.jit(network.apply)(params, x, t) for network in (plain, asked))
    assert one.moments is None
    for a, b in zip(one[:2], other[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [p for p in other.moments if "time_embed" in p or "emb_layers" in p or "adaLN" in p]
    assert not [p for p in other.moments if "t_embedder" in p]
    kernels = {
        p.removesuffix("/kernel") for p in moments.trees.flatten(params) if p.endswith("/kernel")
    }
    time = {p for p in kernels if any(w in p for w in ("time_", "emb_l", "adaLN", "t_embedder"))}
    assert set(other.moments) == kernels - time


def test_a_loop_over_blocks_and_recomputed_ones_record_the_same():
    shape = (2, 4, 4, 3)
    plain = registry.denoiser("dit", **NETWORKS["dit"])
    params, (x, t) = random_params(plain, shape), inputs(shape)
    found = []
    for more in ({}, {"scan": True}, {"remat": True}):
        made = registry.denoiser("dit", **NETWORKS["dit"], **more)
        asked = type(made)("dit", made._module, records=True)
        found.append(jax.jit(asked.apply)(params, x, t).moments)
    for other in found[1:]:
        assert set(other) == set(found[0])
        for layer, moment in found[0].items():
            np.testing.assert_allclose(other[layer], moment, rtol=1e-5, atol=1e-5)
