import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import sliding_window
from madad_jax.core import errors

WINDOW = sliding_window.Window(8, 0.25, 0.125)


def slices(height=19, width=13):
    draw = np.random.default_rng(0)
    image = jnp.asarray(draw.uniform(-1, 1, (2, height, width, 1)), jnp.float32)
    return image, jnp.asarray(draw.uniform(size=(2, height, width)) > 0.3)


def apply(function, images, brain, window=WINDOW):
    return jax.jit(lambda x, m: sliding_window.apply(function, x, m, window))(images, brain)


def test_weights_sum_to_1_and_every_pixel_comes_back_to_its_place():
    images, brain = slices()
    found, masks, ones = apply(lambda x, m: (x, m * 1.0, jnp.ones_like(x)), images, brain)
    np.testing.assert_allclose(ones, 1.0, atol=1e-6)
    np.testing.assert_allclose(found, images, atol=1e-6)
    np.testing.assert_allclose(masks, brain, atol=1e-6)


def test_windows_are_weighted_by_the_formula():
    """A number a window, blended by loops over windows."""
    images, brain = slices()
    mean = lambda x, m: jnp.broadcast_to(x.mean((1, 2, 3))[:, None, None], m.shape)  # noqa: E731
    found = np.asarray(apply(mean, images, brain))
    height, width, side, step = 20, 14, 8, 2
    x = np.full((2, height, width), -1.0)
    x[:, :19, :13] = np.asarray(images)[..., 0]
    at = np.arange(8) - 3.5
    g = np.exp(-0.5 * (at[:, None] ** 2 + at**2) / 1.0)
    g = np.maximum(g / g.max(), 1e-3)
    total, sums = np.zeros((height, width)), np.zeros(x.shape)
    for r in range(0, height - side + 1, step):
        for c in range(0, width - side + 1, step):
            here = np.s_[r : r + side, c : c + side]
            total[here] += g
            sums[(slice(None), *here)] += g * x[(slice(None), *here)].mean((1, 2))[:, None, None]
    np.testing.assert_allclose(found, (sums / total)[:, :19, :13], atol=1e-5)


def test_published_windows_are_a_quarter_apart():
    window = sliding_window.Window()
    assert window.starts(256) == ([0, 32, 64, 96, 128], 256)
    assert window.starts(240) == ([0, 32, 64, 96, 128], 256)
    assert window.starts(128) == ([0], 128) and window.starts(100) == ([0], 128)
    middle = window.weights()[64]
    np.testing.assert_allclose(middle[80] / middle[64], np.exp(-0.5 * (16.5**2 - 0.25) / 16**2))


def test_a_slice_within_the_window_is_given_whole():
    images, brain = slices(7, 5)
    found = apply(lambda x, m: jnp.full(m.shape, float(m.size)), images, brain)
    np.testing.assert_array_equal(found, np.full((2, 7, 5), 70.0))


def test_bad_windows_are_named():
    with pytest.raises(errors.UserError, match=r"window, step, sigma: found 8, 0\.0, 0\.1"):
        sliding_window.Window(8, 0.0, 0.1)
