"""The network of the brain extraction against NumPy, and what its weights must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal

from madad_jax.core import errors
from madad_jax.models.networks import brain_extraction


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {
        key: jnp.asarray(rng.normal(size=shape).astype(np.float32) * 0.2)
        for key, shape in brain_extraction.shapes().items()
    }


@pytest.mark.parametrize(
    "name,side,stride",
    [("init.0", 9, 2), ("down1.block1.double_conv.0", 8, 2), ("conv.0", 5, 1)],
)
def test_convolution_is_that_of_scipy(weights, name, side, stride):
    kernel = np.asarray(weights[f"{name}.weight"])
    x = np.random.default_rng(1).normal(size=(side, side, side, kernel.shape[1]))
    ours = brain_extraction._conv(weights, name, jnp.asarray(x, jnp.float32)[None], stride)[0]
    for o in range(0, kernel.shape[0], 5):
        channels = [
            ndimage.correlate(x[..., c], kernel[o, c], mode="constant")
            for c in range(kernel.shape[1])
        ]
        expected = sum(channels)[::stride, ::stride, ::stride]
        expected = expected + (float(weights[f"{name}.bias"][o]) if name == "conv.0" else 0.0)
        np.testing.assert_allclose(ours[..., o], expected, atol=2e-4)


@pytest.mark.parametrize(
    "name,stride,cut",
    [("up0.tp_conv.0", 2, 1), ("up3.tp_conv.0", 1, 1), ("tp_conv1.0", 2, 1), ("tp_conv2", 2, 0)],
)
def test_transposed_convolution_is_a_full_one_of_spread_voxels(weights, name, stride, cut):
    """output[i * stride - padding + k] += x[i] w[k], as PyTorch defines it."""
    kernel = np.asarray(weights[f"{name}.weight"])
    x = np.random.default_rng(2).normal(size=(4, 4, 4, kernel.shape[0]))
    ours = brain_extraction._conv_transposed(
        weights, name, jnp.asarray(x, jnp.float32)[None], stride
    )[0]
    spread = np.zeros((*(4 * stride,) * 3, kernel.shape[0]))
    spread[::stride, ::stride, ::stride] = x
    for o in range(kernel.shape[1]):
        full = sum(
            signal.convolve(spread[..., c], kernel[c, o], mode="full", method="direct")
            for c in range(kernel.shape[0])
        )
        side = 4 * stride
        expected = full[cut : cut + side, cut : cut + side, cut : cut + side]
        bias = weights.get(f"{name}.bias")
        expected = expected + (0.0 if bias is None else float(bias[o]))
        np.testing.assert_allclose(ours[..., o], expected, atol=2e-4)


@pytest.mark.slow
def test_the_whole_is_a_probability_at_every_voxel(weights):
    image = jnp.asarray(np.random.default_rng(3).normal(size=(32, 64, 32)), jnp.float32)
    out = jax.jit(brain_extraction.probability)(weights, image)
    assert out.shape == image.shape and 0 <= out.min() < out.max() <= 1


def test_other_weights_are_refused(weights):
    brain_extraction.check("model.pt", weights)
    with pytest.raises(errors.UserError, match=r"model\.pt: weight conv\.0\.bias has shape None"):
        brain_extraction.check("model.pt", {k: v for k, v in weights.items() if k != "conv.0.bias"})
    with pytest.raises(errors.UserError, match=r"weight extra has shape \(1,\), accepted: None"):
        brain_extraction.check("model.pt", weights | {"extra": np.zeros(1)})
