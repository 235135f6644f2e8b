import dataclasses

import jax
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("vit", {}, r"denoiser\.name: found 'vit', accepted are dit, unet"),
        ("dit", {"size": "Z/2"}, r"denoiser\.size: found 'Z/2', accepted are .*XL"),
        ("dit", {"size": "S/two"}, r"denoiser\.size: found 'S/two'"),
        ("dit", {"sise": "S/2"}, r"denoiser\.sise: unknown key; did you mean 'size'"),
        ("dit", {"patchsize": 2}, "did you mean 'patch_size'"),
        ("dit", {"size": None, "depth": 2}, r"denoiser\.hidden_size: needed"),
        ("dit", {"num_heads": 5}, r"denoiser\.hidden_size: 384 .*num_heads=5"),
        ("dit", {"attention": "fast"}, r"denoiser\.attention: found 'fast'"),
        ("dit", {"dtype": "float64"}, r"denoiser\.dtype: found 'float64'"),
        ("unet", {"size": "XXL"}, r"denoiser\.size: found 'XXL', accepted are XS, S, M, L, XL"),
        ("unet", {"size": None, "num_heads": 2}, r"denoiser\.model_channels: needed"),
        ("unet", {"size": "XL", "num_heads": 12}, r"denoiser\.num_heads: 320 .* 12"),
        ("unet", {"size": "XS", "num_groups": 48}, r"denoiser\.model_channels: 64 .*=48"),
    ],
)
def test_settings_that_do_not_fit(name, config, message):
    with pytest.raises(errors.UserError, match=message):
        registry.denoiser(name, **config)


def test_size_name_and_overrides():
    def hidden_and_patch(**config):
        denoiser = registry.denoiser("dit", **config)
        params = jax.eval_shape(lambda k: denoiser.init(k, (1, 8, 8, 4)), jax.random.key(0))
        return params["x_embedder"]["kernel"].shape

    assert hidden_and_patch(size="T/4") == (4 * 4 * 4, 128)
    assert hidden_and_patch(size="T", patch_size=1, depth=1) == (4, 128)
    assert hidden_and_patch(size="T/2", hidden_size=64, depth=1) == (16, 64)


def test_same_settings_are_equal_and_hashable():
    """Methods hold these objects and are static arguments of jitted functions."""
    one = registry.denoiser("unet", size="XS", channel_mult=[1, 2])
    two = registry.denoiser("unet", size="XS", channel_mult=(1, 2))
    other = registry.denoiser("unet", size="XS")
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert registry.autoencoder() == registry.autoencoder(embed_dim=4)


def test_params_are_plain_dicts_of_float32():
    discriminator = registry.discriminator(channels=4)
    params = discriminator.init(jax.random.key(0), (1, 32, 32, 1))
    assert type(params) is dict
    assert all(type(child) is dict for child in params.values())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}


def test_objects_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        registry.discriminator()._module = None
