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
    ours, *moments = brain_extraction._conv(weights, name, jnp.asarray(x, jnp.float32), stride)
    for found, wanted in zip(moments, (ours.mean((1, 2)), ours.var((1, 2))), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for o in range(0, kernel.shape[0], 5):
        channels = [
            ndimage.correlate(x[..., c], kernel[o, c], mode="constant")
            for c in range(kernel.shape[1])
        ]
        # Without the bias: normalisation follows.
        expected = sum(channels)[::stride, ::stride, ::stride]
        np.testing.assert_allclose(ours[..., o], expected, atol=2e-4)


@pytest.mark.parametrize(
    "name,stride", [("up0.tp_conv.0", 2), ("up3.tp_conv.0", 1), ("tp_conv1.0", 2)]
)
def test_transposed_convolution_is_a_full_one_of_spread_voxels(weights, name, stride):
    """output[i * stride - padding + k] += x[i] w[k], as PyTorch defines it."""
    kernel = np.asarray(weights[f"{name}.weight"])
    x = np.random.default_rng(2).normal(size=(4, 4, 4, kernel.shape[0]))
    ours = brain_extraction._conv_transposed(weights, name, jnp.asarray(x, jnp.float32), stride)[0]
    spread = np.zeros((*(4 * stride,) * 3, kernel.shape[0]))
    spread[::stride, ::stride, ::stride] = x
    for o in range(kernel.shape[1]):
        full = sum(
            signal.convolve(spread[..., c], kernel[c, o], mode="full", method="direct")
            for c in range(kernel.shape[0])
        )
        kept = slice(1, 1 + 4 * stride)
        np.testing.assert_allclose(ours[..., o], full[kept, kept, kept], atol=2e-4)


def _published(weights, image):
    """Probability of brain by 3-D convolutions, layer by layer as the network is published."""

    def conv(name, x, stride=1, grow=1, normalise=True):
        kernel = weights[f"{name}.weight"]
        side = kernel.shape[-1]
        pads = [(side // 2, side // 2)] * 3
        if "tp_conv" in name:
            kernel = jnp.flip(kernel, (2, 3, 4)).swapaxes(0, 1)
            pads = [(1, grow - 1 + 1)] * 3 if side == 3 else [(1, 1)] * 3
        y = jax.lax.conv_general_dilated(x, kernel, (stride,) * 3, pads, (grow,) * 3)
        y = y + weights.get(f"{name}.bias", jnp.zeros(1))[:, None, None, None]
        if not normalise:
            return y
        return (y - y.mean((2, 3, 4), keepdims=True)) / jnp.sqrt(
            y.var((2, 3, 4), keepdims=True) + 1e-5
        )

    def block(name, x, stride=1):
        y = jax.nn.relu(conv(f"{name}.double_conv.0", x, stride))
        y = conv(f"{name}.double_conv.3", y)
        shorter = f"{name}.downsample.0"
        return jax.nn.relu(y + (conv(shorter, x, stride) if f"{shorter}.weight" in weights else x))

    x = jax.nn.relu(conv("init.0", image[None, None], 2))
    window, step = (1, 1, 3, 3, 3), (1, 1, 2, 2, 2)
    pads = [(0, 0)] * 2 + [(1, 1)] * 3
    stem = x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, step, pads)
    down = []
    for i in range(4):
        x = block(f"down{i}.block2", block(f"down{i}.block1", x, 2 if i else 1))
        down.append(x)
    for i in range(4):
        x = x + down[3 - i] if i else x
        x = jax.nn.relu(conv(f"up{i}.conv1.0", x))
        x = jax.nn.relu(conv(f"up{i}.tp_conv.0", x, grow=2 if i < 3 else 1))
        x = jax.nn.relu(conv(f"up{i}.conv2.0", x))
    x = jax.nn.relu(conv("tp_conv1.0", x + stem, grow=2))
    x = jax.nn.relu(conv("conv.0", x))
    return jax.nn.softmax(conv("tp_conv2", x, grow=2, normalise=False), 1)[0, 1]


@pytest.mark.slow
def test_the_whole_decides_as_the_published_layers_do(weights):
    image = jnp.asarray(np.random.default_rng(3).normal(size=(32, 64, 32)), jnp.float32)
    features = jax.jit(brain_extraction.encode)(weights, image)
    ours = np.asarray(jax.jit(brain_extraction.decide)(weights, features))
    wanted = np.asarray(jax.jit(_published)(weights, image))
    sure = np.abs(wanted - 0.5) > 1e-3
    assert ours.shape == image.shape and sure.mean() > 0.9
    assert 0.05 < ours.mean() < 0.95
    np.testing.assert_array_equal(ours[sure], wanted[sure] > 0.5)


def test_other_weights_are_refused(weights):
    brain_extraction.check("model.pt", weights)
    with pytest.raises(errors.UserError, match=r"model\.pt: weight conv\.0\.bias has shape None"):
        brain_extraction.check("model.pt", {k: v for k, v in weights.items() if k != "conv.0.bias"})
    with pytest.raises(errors.UserError, match=r"weight extra has shape \(1,\), accepted: None"):
        brain_extraction.check("model.pt", weights | {"extra": np.zeros(1)})
