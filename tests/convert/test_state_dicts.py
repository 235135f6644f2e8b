"""Names and layouts of both networks against the lists of the official state dicts."""

import jax
import numpy as np
import pytest

from madad_jax.convert import autoencoder_kl_weights, unet_weights
from madad_jax.core import errors
from madad_jax.models import registry
from tests.models import official

CASES = [
    pytest.param(unet_weights, "unet_xs_keys.txt", id="unet"),
    pytest.param(autoencoder_kl_weights, "vae_klf8_keys.txt", id="autoencoder"),
]
LIGHT = {
    "channels": 8,
    "channel_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "latent_channels": 3,
    "embed_dim": 5,
    "decoder_channels": 4,
    "decoder_channel_mult": (2, 3, 5),
    "decoder_num_res_blocks": 0,
    "num_groups": 4,
    "mid_attention": False,
    "in_channels": 2,
    "out_channels": 1,
}
SMALL = {
    "size": None,
    "model_channels": 16,
    "num_heads": 2,
    "channel_mult": (1, 3),
    "num_res_blocks": 1,
    "attention_rates": (2,),
}


def numbered(shapes):
    """A state dict of zeros: enough for names and shapes, cheap at any size."""
    return {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize(("module", "keys"), CASES)
def test_keys_and_shapes_are_the_official_ones(module, keys):
    wanted = official.key_list(keys)
    back = module.to_official(module.to_ours(numbered(wanted)))
    assert {key: array.shape for key, array in back.items()} == wanted


@pytest.mark.parametrize(
    ("module", "config", "channels"),
    [(unet_weights, SMALL, (4,)), (autoencoder_kl_weights, LIGHT, ())],
)
def test_round_trip_is_bit_identical_and_sizes_are_inferred(module, config, channels):
    template = module.template(config | {"num_groups": 4}, *channels)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)
    state = official.state({k: v.shape for k, v in module.to_official(zeros).items()})
    args = {"num_groups": 4} if module is autoencoder_kl_weights else {"num_heads": 2}
    inferred = module.infer_config(state, **args)
    if module is unet_weights:
        inferred["num_groups"] = 4
    assert inferred == config | {"num_groups": 4}
    params = module.to_ours(state, inferred)
    back = module.to_official(params)
    assert back.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(back[key], state[key])
    assert jax.tree.structure(params) == jax.tree.structure(template)


@pytest.mark.parametrize(
    ("width", "heads"), [(32, 4), (64, 4), (128, 4), (192, 6), (256, 8), (320, 10)]
)
def test_heads_are_guessed_from_the_width(width, heads):
    shapes = {
        "input_blocks.0.0.weight": (width, 4, 3, 3),
        "input_blocks.1.0.out_layers.3.weight": (width, width, 1, 1),
    }
    assert unet_weights.infer_config(numbered(shapes))["num_heads"] == heads


def test_everything_that_does_not_fit_is_listed():
    state = numbered(official.key_list("unet_xs_keys.txt"))
    config = {"size": "XS"}
    del state["time_embed.0.bias"]
    state["ema.decay"] = np.zeros(())
    state["out.2.bias"] = np.zeros(5, np.float32)
    with pytest.raises(errors.UserError) as caught:
        unet_weights.to_ours(state, config)
    message = str(caught.value)
    assert "1 missing (time_embed.0.bias)" in message
    assert "1 unexpected (ema.decay)" in message
    assert "1 misshapen (out.2.bias (5,) instead of (4,))" in message
    assert "\n" not in message


def test_long_lists_are_cut_at_ten():
    state = numbered(official.key_list("unet_xs_keys.txt"))
    with pytest.raises(errors.UserError, match=r"124 misshapen|misshapen \(.*, \.\.\.\)") as caught:
        unet_weights.to_ours(state, {"size": "S"})
    assert str(caught.value).count("instead of") == 10


@pytest.mark.parametrize("module", [unet_weights, autoencoder_kl_weights])
def test_another_file_is_refused_by_the_name_of_a_tensor(module):
    with pytest.raises(errors.UserError, match=r"no .* state dict: \w+.*no such tensor"):
        module.infer_config({"layer1.weight": np.zeros(3)})


def test_converted_params_run():
    autoencoder = registry.autoencoder(**LIGHT)
    zeros = jax.tree.map(
        lambda x: np.zeros(x.shape, np.float32), autoencoder_kl_weights.template(LIGHT)
    )
    state = official.state(
        {k: v.shape for k, v in autoencoder_kl_weights.to_official(zeros).items()}
    )
    params = autoencoder_kl_weights.to_ours(state, LIGHT)
    mean, _ = jax.jit(autoencoder.encode)(params, np.ones((1, 8, 8, 2), np.float32))
    assert np.isfinite(mean).all()
