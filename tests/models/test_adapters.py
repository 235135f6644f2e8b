"""Adapters of a frozen DiT: nothing at first, then exactly the weights that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import adapters, registry


@pytest.fixture(scope="module")
def network():
    """(denoiser, its weights with heads that are not 0, inputs)."""
    denoiser = registry.denoiser("dit", size=None, hidden_size=16, depth=2, num_heads=2)
    weights = denoiser.init(jax.random.key(0), (1, 8, 8, 3))
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    # Fresh heads and gates are 0: nothing would reach the output.
    drawn = [0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    x = jax.random.normal(jax.random.key(2), (3, 8, 8, 3))
    t, kinds = jnp.array([0, 4, 9]), jnp.array([0, 1, 2])
    mask = jax.random.uniform(jax.random.key(3), (3, 8, 8))
    return denoiser, jax.tree.unflatten(tree, drawn), x, t, kinds, mask


def test_fresh_adapters_leave_the_denoiser_as_it_is(network):
    denoiser, weights, x, t, kinds, mask = network
    made = adapters.Adapters(denoiser, types=2, rank=4)
    fresh = made.init(jax.random.key(5), weights)
    adapted = jax.jit(made.apply)(weights, fresh, x, t, kinds, mask)
    frozen = jax.jit(denoiser.predict)(weights, x, t)
    assert np.abs(frozen).max() > 0.1
    np.testing.assert_array_equal(adapted, frozen)


def test_adapters_are_the_weights_that_they_say(network):
    denoiser, weights, x, t, kinds, mask = network
    made = adapters.Adapters(denoiser, types=2, rank=4)
    fresh = made.init(jax.random.key(5), weights)
    up = fresh["low_rank"]["blocks_1"]["attn_qkv"]["up"]
    fresh["low_rank"]["blocks_1"]["attn_qkv"]["up"] = jax.random.normal(jax.random.key(6), up.shape)
    other = jax.tree.map(lambda w: w, weights)
    pair = fresh["low_rank"]["blocks_1"]["attn_qkv"]
    product = np.einsum("ir,rpo->ipo", pair["down"], pair["up"])
    other["blocks_1"]["attn_qkv"]["kernel"] = weights["blocks_1"]["attn_qkv"]["kernel"] + product
    merged = adapters.merge(weights, fresh["low_rank"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), merged, other)
    adapted = made.apply(weights, fresh, x, t, kinds, mask)
    np.testing.assert_allclose(adapted, denoiser.predict(other, x, t), atol=1e-4)
    assert np.abs(adapted - denoiser.predict(weights, x, t)).max() > 1e-3


def test_a_type_moves_its_own_samples_and_a_mask_the_cells_under_it(network):
    denoiser, weights, x, t, kinds, mask = network
    made = adapters.Adapters(denoiser, types=2)
    fresh = made.init(jax.random.key(5), weights)
    before = made.apply(weights, fresh, x, t, kinds, mask)
    moved = fresh | {"types": fresh["types"].at[1].set(1.0)}
    after = made.apply(weights, moved, x, t, kinds, mask)
    assert [bool((a != b).any()) for a, b in zip(before, after, strict=True)] == [
        *(False, True, False)
    ]
    painted = fresh | {"mask_channel": jnp.ones_like(fresh["mask_channel"])}
    empty = made.apply(weights, painted, x, t, kinds, 0.0 * mask)
    np.testing.assert_array_equal(empty, before)
    assert (made.apply(weights, painted, x, t, kinds, mask) != before).any()


def test_another_network_is_refused():
    unet = registry.denoiser("unet", size=None, model_channels=8, num_heads=1, num_groups=4)
    with pytest.raises(errors.UserError, match=r"denoiser\.name: found 'unet', accepted: dit"):
        adapters.Adapters(unet, types=1)
    dit = registry.denoiser("dit", size="T/2")
    with pytest.raises(errors.UserError, match="--rank: found 0"):
        adapters.Adapters(dit, types=1, rank=0)
