import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models.layers import basic, convolution


def group_norm_direct(x, groups, scale, bias, eps):
    """Two passes over explicit groups, float64."""
    b, h, w, c = x.shape
    g = x.astype(np.float64).reshape(b, h * w, groups, c // groups)
    y = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + eps)
    return y.reshape(x.shape) * scale + bias


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_group_norm_also_far_from_zero(offset):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 5, 4, 12)) * rng.uniform(0.5, 2, 12) + offset).astype(np.float32)
    scale, bias = rng.standard_normal((2, 12)).astype(np.float32)
    norm = basic.GroupNorm(num_groups=4, epsilon=1e-5)
    ours = norm.apply({"params": {"scale": scale, "bias": bias}}, jnp.asarray(x))
    wanted = group_norm_direct(x, 4, scale, bias, 1e-5)
    # float32 spacing at 300 is 3e-5; E[x^2] - E[x]^2 would be off by 1e-2 there.
    np.testing.assert_allclose(ours, wanted, atol=2e-6 if offset == 0 else 2e-4)


def test_group_norm_takes_statistics_in_float32():
    x = 100 + jax.random.normal(jax.random.key(0), (1, 16, 16, 8))
    coarse = x.astype(jnp.bfloat16)
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    half = basic.GroupNorm(4, dtype="bfloat16").apply({"params": params}, coarse)
    full = basic.GroupNorm(4).apply({"params": params}, coarse.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), full, atol=0.02)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(errors.UserError, match=r"12 channels .* num_groups=32"):
        basic.GroupNorm(32).init(jax.random.key(0), jnp.zeros((1, 2, 2, 12)))


def convolve_direct(x, kernel, bias, stride, padding):
    k = kernel.shape[0]
    x = np.pad(x, ((0, 0), padding, padding, (0, 0)))
    rows = range(0, x.shape[1] - k + 1, stride)
    columns = range(0, x.shape[2] - k + 1, stride)
    out = [
        [np.einsum("bijc,ijcd->bd", x[:, r : r + k, s : s + k], kernel) for s in columns]
        for r in rows
    ]
    return np.array(out).transpose(2, 0, 1, 3) + bias


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (1, 1)), (2, (0, 1))])
def test_conv_padding_and_stride(stride, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 4, 3)).astype(np.float32)
    params = {
        "kernel": rng.standard_normal((3, 3, 3, 5)).astype(np.float32),
        "bias": rng.standard_normal(5).astype(np.float32),
    }
    ours = basic.Conv(5, stride=stride, padding=padding).apply({"params": params}, jnp.asarray(x))
    wanted = convolve_direct(x, params["kernel"], params["bias"], stride, padding)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_layer_norm():
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) * 3 + 1
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(basic.layer_norm(jnp.asarray(x), "float32"), wanted, atol=1e-5)


def test_upsample_repeats_each_cell():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    wanted = np.kron(x[0, :, :, 0], np.ones((2, 2)))
    np.testing.assert_array_equal(convolution.upsample_nearest(jnp.asarray(x))[0, :, :, 0], wanted)


def test_space_to_depth_keeps_a_square_in_a_cell_and_is_undone():
    x = np.random.default_rng(0).standard_normal((2, 6, 9, 2)).astype(np.float32)
    folded = basic.space_to_depth(jnp.asarray(x), 3)
    assert folded.shape == (2, 2, 3, 18)
    np.testing.assert_array_equal(folded[1, 1, 2], x[1, 3:6, 6:9].ravel())
    np.testing.assert_array_equal(basic.depth_to_space(folded, 3), x)


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (2, 4, 5, 3)])
def test_linear_maps_the_last_axis_whatever_stands_before_it(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rng = np.random.default_rng(1)
    kernel, bias = (rng.standard_normal(s).astype(np.float32) for s in ((3, 7), 7))
    ours = basic.Linear(7).apply({"params": {"kernel": kernel, "bias": bias}}, jnp.asarray(x))
    np.testing.assert_allclose(ours, x @ kernel + bias, atol=1e-5)


def test_timestep_embedding_is_cosine_first():
    t = np.array([0, 1, 9])
    f = 10000.0 ** (-np.arange(3) / 3)
    wanted = np.concatenate([np.cos(t[:, None] * f), np.sin(t[:, None] * f)], axis=1)
    np.testing.assert_allclose(basic.timestep_embedding(jnp.asarray(t), 6), wanted, atol=1e-6)
