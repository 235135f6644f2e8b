import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import image_networks
from madad_jax.models.networks import bottleneck, mask_unet

SMALL = {"levels": 1, "channels": 8, "max_channels": 8, "latent": 5, "num_groups": 4}


def image(side=8, count=2, seed=0):
    draw = np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 1))
    return jnp.asarray(draw, jnp.float32)


def test_published_dense_autoencoder_has_the_published_shapes():
    """128 pixels, 5x5 kernels of 32, 64, 128, 128 channels, 8 x 8 x 16 flattened, 128 numbers."""
    network = image_networks.reconstructor()
    params = jax.eval_shape(lambda k: network.init(k, (1, 128, 128, 1)), jax.random.key(0))
    kernels = [params[f"enc_conv_{i}"]["kernel"].shape for i in range(4)]
    assert kernels == [(5, 5, 1, 32), (5, 5, 32, 64), (5, 5, 64, 128), (5, 5, 128, 128)]
    assert params["squeeze"]["kernel"].shape == (128, 16)
    assert params["mean"]["kernel"].shape == (8 * 8 * 16, 128)
    assert params["expand"]["kernel"].shape == (128, 8 * 8 * 16)
    ups = [params[f"dec_conv_{i}"]["kernel"].shape[2:] for i in range(4)]
    assert ups == [(128, 128), (128, 64), (64, 32), (32, 32)]


def test_everything_passes_the_bottleneck():
    """The derivative of the dense one has no more directions than its latent has numbers."""
    x = image(count=1)
    network = image_networks.reconstructor(**SMALL)
    params = network.init(jax.random.key(0), x.shape)

    def flat(v):
        return network.apply(params, v.reshape(x.shape))[0].ravel()

    jacobian = np.asarray(jax.jit(jax.jacfwd(flat))(x.ravel()))
    values = np.linalg.svd(jacobian, compute_uv=False)
    assert values[4] > 1e-6 * values[0] and values[5] < 1e-5 * values[0]


def test_variational_latent_is_drawn_with_a_key_alone():
    x = image()
    network = image_networks.reconstructor(**SMALL, variational=True, dropout=0.0)
    params = network.init(jax.random.key(0), x.shape)
    drawn = jax.jit(lambda p, k: network.apply(p, x, key=k)[0])
    same, mean, log_sigma = jax.jit(network.apply)(params, x)
    assert mean.shape == log_sigma.shape == (2, 5)
    one, two = (drawn(params, jax.random.key(k)) for k in (1, 2))
    assert np.abs(one - two).max() > 1e-4
    params["log_sigma"] = jax.tree.map(lambda v: 0 * v - 30.0 * (v.ndim == 1), params["log_sigma"])
    np.testing.assert_allclose(drawn(params, jax.random.key(1)), same, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"kind": "round"}, "bottleneck.kind: found 'round'"),
        ({"kind": "spatial", "variational": True}, "must be"),
        ({"channels": 12}, "num_groups"),
    ],
)
def test_bad_settings_are_named(settings, found):
    with pytest.raises(errors.UserError, match=found):
        image_networks.reconstructor(**settings)


def test_side_must_halve():
    with pytest.raises(errors.UserError, match="multiples of 2, found 9x9"):
        image_networks.reconstructor(**SMALL).init(jax.random.key(0), (1, 9, 9, 1))


def test_hidden_squares_do_not_reach_the_masked_encoders_guess():
    x = image(count=1)
    encoder = image_networks.masked_autoencoder(patch=2, hidden_size=16, depth=1, num_heads=2)
    params = encoder.init(jax.random.key(0), x.shape)
    visible = jnp.ones((1, 4, 4)).at[0, 1:3, 2].set(0.0)
    apply = jax.jit(encoder.apply)
    reached = jax.jit(jax.grad(lambda v: jnp.square(encoder.apply(params, v, visible)).sum()))(x)
    by_square = np.abs(reached[0, ..., 0]).reshape(4, 2, 4, 2).max((1, 3))
    np.testing.assert_array_equal(by_square > 0, np.asarray(visible[0]) > 0)
    nothing = apply(params, x, jnp.zeros((1, 4, 4)))
    np.testing.assert_array_equal(nothing, apply(params, -x, jnp.zeros((1, 4, 4))))


def test_folded_convolutions_are_the_strided_and_the_transposed_one():
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal((2, 6, 8, 3)), jnp.float32)
    kernel = jnp.asarray(draw.standard_normal((5, 5, 3, 4)), jnp.float32)
    params = {"params": {"kernel": kernel, "bias": jnp.zeros(4)}}
    numbers = ("NHWC", "HWIO", "NHWC")
    strided = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
    found = jax.jit(bottleneck._Strided(4, "float32").apply)(params, x)
    np.testing.assert_allclose(found, strided, atol=1e-4)
    transposed = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
    found = jax.jit(bottleneck._Up(4, "float32").apply)(params, x)
    np.testing.assert_allclose(found, transposed, atol=1e-4)


MASK = {"widths": (8, 16), "num_groups": 4}


def test_a_mask_starts_near_its_prior_and_sees_the_image():
    network = image_networks.mask_network(**MASK)
    x = jnp.concatenate([image(), 0.5 * image(seed=1)], -1)
    params = network.init(jax.random.key(0), (2, 8, 8, 2))
    logit = np.asarray(jax.jit(network.apply)(params, x))
    assert logit.shape == (2, 8, 8) and logit.dtype == np.float32
    assert abs(logit.mean() - mask_unet.PRIOR) < 1 and logit.std() > 1e-3
    reached = jax.jit(jax.grad(lambda v: network.apply(params, v)[0, 3, 4]))(x)
    assert np.abs(reached[0]).max() > 0 and not np.abs(reached[1]).any()


@pytest.mark.parametrize(
    ("settings", "side", "found"),
    [
        ({}, 10, "multiples of 4, found 10x10"),
        ({"widths": (8, 8, 8)}, 12, "3 levels and patch=2 need image sides .* multiples of 8"),
        ({"widths": (8, 10)}, 8, "pixel_mask.widths: 10 channels do not divide"),
        ({"widths": ()}, 8, r"pixel_mask.widths, patch: found \(\), 2"),
        ({"patch": 0}, 8, "pixel_mask.widths, patch: found .*, 0"),
        ({"width": 8}, 8, "pixel_mask.width: unknown key; did you mean 'widths'"),
        ({"dtype": "int8"}, 8, "pixel_mask.dtype: found 'int8'"),
    ],
)
def test_bad_masks_are_named(settings, side, found):
    with pytest.raises(errors.UserError, match=found):
        image_networks.mask_network(**MASK | settings).init(jax.random.key(0), (1, side, side, 2))
