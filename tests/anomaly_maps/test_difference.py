import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from madad_jax.anomaly_maps import difference as difference_lib
from madad_jax.core import errors
from tests.diffusion import fixtures


def images(seed, count=2, side=48):
    return jnp.asarray(np.random.RandomState(seed).uniform(-1, 1, (count, side, side, 1)), "f4")


def test_the_map_is_the_official_one():
    g = fixtures.load("f_anomaly_map")
    corrected = jnp.asarray(fixtures.nhwc(g["x_rec_corrected"]))
    autoencoded = jnp.asarray(fixtures.nhwc(g["x_rec_input"]))
    clipped = difference_lib.clipped_difference(corrected, autoencoded, difference="l1", gamma=0.25)
    np.testing.assert_allclose(clipped, g["pre_smooth"].reshape(clipped.shape), atol=1e-6)
    smoothed = difference_lib.gaussian_smooth(clipped, 5.0)
    np.testing.assert_allclose(smoothed, g["anomaly_map"].reshape(clipped.shape), atol=1e-6)
    kernel = difference_lib.gaussian_kernel(5.0)
    np.testing.assert_allclose(kernel, g["gauss_kernel_sigma5"], rtol=1e-12)
    assert len(kernel) == 41


@settings(max_examples=15, deadline=None)
@given(sigma=st.sampled_from([0.3, 0.625, 1.0, 2.5, 5.0]), seed=st.integers(0, 2**31))
def test_smoothing_is_scipys(sigma, seed):
    maps = np.random.RandomState(seed).rand(2, 24, 31).astype(np.float32)
    ours = difference_lib.gaussian_smooth(jnp.asarray(maps), sigma)
    theirs = np.stack([ndimage.gaussian_filter(m, sigma) for m in maps])
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_smoothing_keeps_a_constant_and_zero_sigma_changes_nothing():
    flat = jnp.full((1, 48, 48), 0.7)
    np.testing.assert_allclose(difference_lib.gaussian_smooth(flat, 5.0), 0.7, rtol=1e-6)
    maps = images(0)[..., 0]
    np.testing.assert_array_equal(difference_lib.gaussian_smooth(maps, 0.0), maps)


@pytest.mark.parametrize("gamma", [0.05, 0.2, 0.0])
@pytest.mark.parametrize(("difference", "power"), [("l1", 1), ("l2", 2)])
def test_clip_and_scale(difference, power, gamma):
    x, y = images(1), images(2)
    found = difference_lib.clipped_difference(x, y, difference=difference, gamma=gamma)
    d = np.abs(np.asarray(x) - np.asarray(y))[..., 0] ** power
    limit = gamma or 2.0**power  # the largest difference of two images in [-1, 1]
    np.testing.assert_allclose(found, np.clip(d / limit, 0, 1), atol=1e-6)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    saturated = float((found == 1).mean())
    assert saturated > 0.1 if gamma else saturated == 0


def test_bad_options_name_the_key():
    x = images(0)
    with pytest.raises(errors.UserError, match=r"score.difference: found 'l3', accepted: l1, l2"):
        difference_lib.clipped_difference(x, x, difference="l3", gamma=0.2)
    with pytest.raises(errors.UserError, match=r"score.sigma: 20.0 pixels reach beyond"):
        difference_lib.gaussian_smooth(x[..., 0], 20.0)


def test_median_filter_is_scipys():
    maps = np.random.default_rng(4).random((2, 9, 12)).astype(np.float32)
    expected = ndimage.median_filter(maps, size=(1, 5, 5), mode="reflect")
    np.testing.assert_array_equal(difference_lib.median_filter(jnp.asarray(maps), 5), expected)
    np.testing.assert_array_equal(difference_lib.median_filter(jnp.asarray(maps), 0), maps)
    with pytest.raises(errors.UserError, match="median: found 4"):
        difference_lib.median_filter(jnp.asarray(maps), 4)


def test_erosion_keeps_pixels_whose_surroundings_are_brain():
    brain = np.zeros((1, 20, 20), bool)
    brain[0, 4:16, 4:16] = True
    brain[0, 9, 9] = False  # one of 25 pixels is no more than 4 %: still more than 0.95 brain
    expected = ndimage.uniform_filter(brain[0].astype(float), 5, mode="constant") > 0.95
    found = np.asarray(difference_lib.erode_mask(jnp.asarray(brain), 5))[0]
    np.testing.assert_array_equal(found, expected & brain[0])
    assert found[8, 8] and not found[9, 9] and not found[4, 10]


def test_residual_erodes_before_it_filters():
    x = jnp.zeros((1, 16, 16, 1))
    brain = jnp.zeros((1, 16, 16), bool).at[0, 3:13, 3:13].set(True)
    rim = jnp.where(brain[..., None], 1.0, 0.0).at[0, 6:10, 6:10].set(0.0)
    plain = difference_lib.Residual(gamma=1.0)(rim, x, brain)
    filtered = difference_lib.Residual(gamma=1.0, median=3, erosion=5)(rim, x, brain)
    assert plain[0, 3, 3] == 1 and filtered[0, 3, 3] == filtered[0, 4, 7] == 0
    assert filtered[0, 5, 8] == 0  # two kept pixels deep are left: no majority of nine
