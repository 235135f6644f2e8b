import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry

TINY = {"channels": 8, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "num_groups": 4}


def count(**config):
    autoencoder = registry.autoencoder(**config)
    params = jax.eval_shape(lambda k: autoencoder.init(k, (1, 64, 64, 1)), jax.random.key(0))
    parts = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in params.items()}
    return sum(parts.values()), parts


def test_parameter_counts_of_kl_f8():
    total, parts = count()
    assert total == 83_649_253
    assert parts == {
        "encoder": 34_161_288,
        "decoder": 49_487_873,
        "quant_conv": 72,
        "post_quant_conv": 20,
    }


def test_decoder_sized_apart_leaves_the_encoder_alone():
    _, whole = count(**TINY)
    _, light = count(**TINY, decoder_channels=4, decoder_num_res_blocks=0)
    assert light["encoder"] == whole["encoder"]
    assert light["decoder"] < 0.3 * whole["decoder"]


@pytest.mark.parametrize(
    ("mult", "factor", "attention"), [((1, 2, 2), 4, True), ((1, 1, 2, 2), 8, False)]
)
def test_shapes(mult, factor, attention):
    config = TINY | {"channel_mult": mult, "latent_channels": 3, "embed_dim": 5}
    autoencoder = registry.autoencoder(**config, mid_attention=attention)
    assert (autoencoder.factor, autoencoder.latent_channels) == (factor, 5)
    params = jax.eval_shape(lambda k: autoencoder.init(k, (1, 16, 16, 1)), jax.random.key(0))
    assert ("mid_attn_1" in params["encoder"]) == attention
    image = jax.ShapeDtypeStruct((2, 16, 32, 1), jnp.float32)
    mean, logvar = jax.eval_shape(autoencoder.encode, params, image)
    assert mean.shape == logvar.shape == (2, 16 // factor, 32 // factor, 5)
    assert jax.eval_shape(autoencoder.decode, params, mean).shape == image.shape


def test_folded_pixels_multiply_the_factor_and_do_not_change_the_image_size():
    config = TINY | {"channel_mult": (1, 2), "patch": 2}
    autoencoder = registry.autoencoder(**config)
    assert autoencoder.factor == 4
    params = autoencoder.init(jax.random.key(0), (1, 16, 16, 1))
    assert params["encoder"]["conv_in"]["kernel"].shape[2] == 4
    mean, _ = autoencoder.encode(params, jnp.ones((1, 16, 24, 1)))
    assert mean.shape == (1, 4, 6, 4)
    assert autoencoder.decode(params, mean).shape == (1, 16, 24, 1)


@pytest.fixture(scope="module")
def tiny():
    autoencoder = registry.autoencoder(**TINY)
    return autoencoder, autoencoder.init(jax.random.key(0), (1, 16, 16, 1))


def test_output_layer_is_a_convolution_with_the_named_kernel(tiny):
    autoencoder, params = tiny
    latent = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
    h = jax.jit(autoencoder.decode_features)(params, latent)
    leaf = params
    for key in autoencoder.output_kernel_path:
        leaf = leaf[key]
    bias = params[autoencoder.output_kernel_path[0]][autoencoder.output_kernel_path[1]]["bias"]
    padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
    wanted = bias + sum(
        padded[:, i : i + 16, j : j + 16] @ np.asarray(leaf[i, j])
        for i in range(3)
        for j in range(3)
    )
    np.testing.assert_allclose(autoencoder.output_layer(params, h), wanted, atol=1e-5)
    np.testing.assert_allclose(jax.jit(autoencoder.decode)(params, latent), wanted, atol=1e-5)


def test_log_variance_is_clamped(tiny):
    autoencoder, params = tiny
    bias = np.zeros(8, np.float32)
    bias[4:] = (-100, 100, -5, 5)
    kernel = np.zeros((8, 8), np.float32)
    loud = params | {"quant_conv": {"kernel": kernel, "bias": bias}}
    _, logvar = jax.jit(autoencoder.encode)(loud, jnp.zeros((1, 16, 16, 1)))
    np.testing.assert_array_equal(logvar[0, 0, 0], (-30, 20, -5, 5))


def test_remat_changes_neither_values_nor_gradients():
    image = jax.random.normal(jax.random.key(2), (1, 8, 8, 1))

    def outputs(**flags):
        small = TINY | {"channel_mult": (1,), "num_res_blocks": 0}
        autoencoder = registry.autoencoder(**small, **flags)

        def loss(params):
            latent = autoencoder.encode(params, image)[0]
            return jnp.square(autoencoder.decode(params, latent)).mean()

        params = autoencoder.init(jax.random.key(0), image.shape)
        return jax.jit(jax.value_and_grad(loss))(params)

    plain, remat = outputs(), outputs(remat=True)
    np.testing.assert_allclose(plain[0], remat[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain[1], remat[1])


def test_bfloat16_is_close_and_outputs_stay_float32(tiny):
    autoencoder, params = tiny
    latent = jax.random.normal(jax.random.key(2), (1, 4, 4, 4))
    full = jax.jit(autoencoder.decode)(params, latent)
    half = jax.jit(registry.autoencoder(**TINY, dtype="bfloat16").decode)(params, latent)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": 48}, r"autoencoder\.channels: 48 .*num_groups=32"),
        ({"decoder_channels": 40}, r"autoencoder\.decoder_channels: 40"),
        ({"decoder_channel_mult": (1, 2)}, r"decoder_channel_mult: found 2 .* 4"),
        ({"patch": 0}, r"autoencoder\.patch: found 0"),
        ({"chanels": 32}, "'channels'"),
        ({"dtype": "float16"}, r"autoencoder\.dtype: .*float16.*bfloat16"),
        ({"attention": "fast"}, r"autoencoder\.attention: .*'fast'.*chunked"),
    ],
)
def test_settings_that_do_not_fit(config, message):
    with pytest.raises(errors.UserError, match=message):
        registry.autoencoder(**config)


def test_image_size_that_the_factor_does_not_divide(tiny):
    autoencoder, params = tiny
    with pytest.raises(errors.UserError, match=r"18x16 .* factor 4"):
        autoencoder.encode(params, jnp.zeros((1, 18, 16, 1)))
