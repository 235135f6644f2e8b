import jax
import numpy as np
import pytest

from madad_jax.models import registry

SHAPE = (1, 8, 8, 4)


@pytest.fixture(scope="module")
def denoiser():
    return registry.denoiser("dit", size=None, hidden_size=32, depth=2, num_heads=2)


def test_traced_and_concrete_keys_give_the_same_numbers(denoiser):
    eager = denoiser.init(jax.random.key(3), SHAPE)
    traced = jax.jit(lambda key: denoiser.init(key, SHAPE))(jax.random.key(3))
    for one, two in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_another_key_gives_other_numbers_and_tensors_differ(denoiser):
    one, two = (denoiser.init(jax.random.key(k), SHAPE) for k in (0, 1))
    kernel = one["blocks_0"]["mlp_fc1"]["kernel"]
    assert np.abs(kernel - two["blocks_0"]["mlp_fc1"]["kernel"]).max() > 0.1
    assert np.abs(kernel - one["blocks_1"]["mlp_fc1"]["kernel"]).max() > 0.1


def test_scales_of_the_published_initialisations(denoiser):
    params = denoiser.init(jax.random.key(0), SHAPE)
    block = params["blocks_0"]
    bound = np.sqrt(6 / (32 + 128))  # Glorot
    assert 0.98 * bound < np.abs(block["mlp_fc1"]["kernel"]).max() <= bound
    assert not np.any(block["mlp_fc1"]["bias"])
    assert not np.any(block["adaLN_modulation_1"]["kernel"])
    assert not np.any(params["final_layer_linear"]["kernel"])
    np.testing.assert_allclose(params["t_embedder_mlp_0"]["kernel"].std(), 0.02, rtol=0.05)

    conv = registry.autoencoder(channels=32, channel_mult=(1, 1)).init(
        jax.random.key(0), (1, 4, 4, 1)
    )["encoder"]["down_0_block_0"]["conv1"]
    bound = 1 / np.sqrt(9 * 32)  # PyTorch's default, kernel and bias alike
    assert 0.98 * bound < np.abs(conv["kernel"]).max() <= bound
    assert 0.5 * bound < np.abs(conv["bias"]).max() <= bound


def test_remat_does_not_change_the_numbers():
    kwargs = {"size": None, "hidden_size": 32, "depth": 1, "num_heads": 2}
    plain, remat = (
        registry.denoiser("dit", **kwargs, remat=flag).init(jax.random.key(0), SHAPE)
        for flag in (False, True)
    )
    assert jax.tree.structure(plain) == jax.tree.structure(remat)
    jax.tree.map(np.testing.assert_array_equal, plain, remat)
