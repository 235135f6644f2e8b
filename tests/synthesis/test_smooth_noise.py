import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from madad_jax.synthesis import smooth_noise


def test_fields_have_unit_moments_and_the_width_asked_for():
    shape, near = (3, 24, 24), []
    for cell in (3, 8):
        field = np.asarray(smooth_noise.draw(jax.random.key(0), shape, cell))
        np.testing.assert_allclose(field.mean((1, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(field.std((1, 2)), 1, atol=1e-4)
        near.append((field[:, 1:] * field[:, :-1]).mean())
    assert 0.3 < near[0] < near[1] < 1


def test_blurs_keep_a_constant_inside():
    x = jnp.full((1, 16, 16), 0.7)
    once, twice = smooth_noise.blur(x), smooth_noise.blur(x, 2)
    np.testing.assert_allclose(once[:, 2:-2, 2:-2], 0.7, rtol=1e-6)
    np.testing.assert_allclose(twice[:, 4:-4, 4:-4], 0.7, rtol=1e-6)
    assert (np.asarray(once[:, 0]) < 0.6).all()  # zeros beyond the edge
    np.testing.assert_allclose(smooth_noise.blur_wide(x, 4), 0.7, rtol=1e-6)


def test_a_blur_is_scipys_binomial():
    x = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    weights, expected = np.array([1, 4, 6, 4, 1]) / 16, x
    for axis in (1, 2):
        expected = ndimage.correlate1d(expected, weights, axis, mode="constant")
    np.testing.assert_allclose(smooth_noise.blur(jnp.asarray(x)), expected, atol=1e-6)


def test_sampling_is_scipys_bilinear():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 9, 11)).astype(np.float32)
    places = draw.uniform(-3, 13, (2, 2, 9, 11)).astype(np.float32)
    found = smooth_noise.sample(jnp.asarray(x), *(jnp.asarray(p) for p in places))
    expected = [
        ndimage.map_coordinates(image, places[:, n], order=1, mode="nearest")
        for n, image in enumerate(x)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
