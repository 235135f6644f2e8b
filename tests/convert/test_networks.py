"""Published names to ours: DiT, autoencoders of three channels, and what a config must say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.convert import autoencoder_kl_weights, conversion, dit_weights
from madad_jax.core import errors
from madad_jax.models import registry
from tests.convert import cases
from tests.models import official


@pytest.mark.parametrize(
    ("kind", "state"),
    [("unet", cases.unet_state), ("autoencoder", cases.vae_state), ("dit", cases.dit_state)],
)
def test_round_trip_is_bit_identical(kind, state):
    converted = conversion.convert(kind, state())
    assert converted.kind == kind and converted.complete
    cases.same(conversion.to_official(kind, converted.params), state())


def test_imagenet_dit_starts_ours():
    state = cases.imagenet_dit()
    converted = conversion.convert("dit", state)
    params = converted.params
    assert not converted.complete
    assert converted.values == {
        "name": "dit",
        "size": "S/2",
        "hidden_size": 64,
        "depth": 2,
        "num_heads": 1,
    }
    notes = "\n".join(converted.notes)
    for words in ("label embedding dropped", "position table", "variance", "not a detector"):
        assert words in notes
    assert not np.any(params["final_layer_mask"]["kernel"])
    # A published row of the last layer is (row, column, channel of 8); ours has channels 0..3.
    weight = state["final_layer.linear.weight"].reshape(2, 2, 8, 64)
    kernel = params["final_layer_linear"]["kernel"].T.reshape(2, 2, 4, 64)
    np.testing.assert_array_equal(kernel, weight[:, :, :4])
    bias = state["final_layer.linear.bias"].reshape(2, 2, 8)
    np.testing.assert_array_equal(
        params["final_layer_linear"]["bias"].reshape(2, 2, 4), bias[..., :4]
    )
    qkv = state["blocks.1.attn.qkv.weight"]
    ours = params["blocks_1"]["attn_qkv"]["kernel"]
    assert ours.shape[1] == 3, "q, k and v have an axis of their own"
    np.testing.assert_array_equal(ours.reshape(len(ours), -1), qkv.T)


def test_dit_patch_embedding_is_the_published_convolution():
    """Our linear map on patches against a strided convolution of the published kernel."""
    state = cases.dit_state()
    converted = conversion.convert("dit", state)
    x = official.array("x", 1, 4, 6, 4)
    kernel = state["x_embedder.proj.weight"]
    wanted = jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", precision="highest")
    patches = x.transpose(0, 2, 3, 1).reshape(1, 3, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5)
    got = patches.reshape(1, 3, 2, 16) @ converted.params["x_embedder"]["kernel"]
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("hidden", "depth", "patch", "size", "heads"),
    [(1152, 28, 2, "XL/2", 16), (384, 12, 8, "S/8", 6), (768, 12, 4, "B/4", 12)],
)
def test_published_dit_sizes_are_recognised(hidden, depth, patch, size, heads):
    state = {f"blocks.{i}.mlp.fc1.weight": np.zeros((4 * hidden, 0)) for i in range(depth)}
    state["x_embedder.proj.weight"] = np.zeros((hidden, 0, patch, patch))
    config = dit_weights.infer_config(state)
    assert (config["size"], config["num_heads"]) == (size, heads)


def test_heads_are_taken_when_given():
    assert conversion.convert("unet", cases.unet_state(), num_heads=2).settings["num_heads"] == 2
    assert conversion.convert("dit", cases.dit_state(), num_heads=4).values["num_heads"] == 4


def test_official_unet_sizes_need_only_their_name():
    keys = official.key_list("unet_xs_keys.txt")
    state = {key: np.zeros(shape, np.float32) for key, shape in keys.items()}
    assert conversion.convert("unet", state).values == {"name": "unet", "size": "XS"}
    assert conversion.convert("unet", cases.unet_state()).values == {
        "name": "unet",
        "size": "L",
        "model_channels": 32,
        "num_heads": 4,
        "channel_mult": (1,),
        "num_res_blocks": 1,
        "attention_rates": (1,),
    }


def test_three_channels_need_a_choice():
    with pytest.raises(errors.UserError, match=r"--adapt=sum .* or --adapt=mean"):
        conversion.convert("autoencoder", cases.vae_state(3))


def test_sum_codes_a_grey_image_as_in_colour():
    state = cases.vae_state(3)
    grey = conversion.convert("autoencoder", state, adapt="sum")
    assert "sum of the input kernel, mean of the output kernel" in grey.notes[0]
    config = cases.VAE | {"in_channels": 3, "out_channels": 3}
    colour = registry.autoencoder(**config)
    params = autoencoder_kl_weights.to_ours(state, config)
    image = jnp.tanh(official.array("image", 1, 8, 8, 1))
    ours = registry.autoencoder(**grey.settings)
    with jax.default_matmul_precision("highest"):
        wanted, _ = colour.encode(params, jnp.repeat(image, 3, axis=-1))
        got, _ = ours.encode(grey.params, image)
        np.testing.assert_allclose(got, wanted, atol=2e-5)
        decoded = ours.decode(grey.params, got)
        wanted = colour.decode(params, got).mean(-1, keepdims=True)
        np.testing.assert_allclose(decoded, wanted, atol=2e-5)


def test_mean_is_a_third_of_the_sum():
    kernels = [
        conversion.adapt_channels(cases.vae_state(3), adapt)[0]["encoder.conv_in.weight"]
        for adapt in ("sum", "mean")
    ]
    np.testing.assert_allclose(kernels[0], 3 * kernels[1], rtol=1e-5)


def test_other_channels_and_latents_are_refused():
    state = dict(cases.vae_state())
    state["encoder.conv_in.weight"] = np.zeros((32, 2, 3, 3), np.float32)
    with pytest.raises(errors.UserError, match="2 input and 1 output channels"):
        conversion.convert("autoencoder", state)
    state = dict(cases.vae_state())
    state["post_quant_conv.weight"] = np.zeros((2, 3, 1, 1), np.float32)
    with pytest.raises(errors.UserError, match="embed_dim 3 and z_channels 2"):
        conversion.convert("autoencoder", state)


def test_a_dit_with_another_mlp_is_refused():
    state = dict(cases.dit_state())
    state["blocks.0.mlp.fc1.weight"] = np.zeros((128, 64), np.float32)
    with pytest.raises(errors.UserError, match=r"MLP of 2\.0 times its width; accepted is 4"):
        conversion.convert("dit", state)
