import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.synthesis import acquisition

NONE = {"gamma": 0.0, "field": 0.0, "blur": 0.0, "noise": 0.0, "flip": 0.0}


def slices(count=6, side=16):
    draw = np.random.default_rng(0)
    brain = np.zeros((count, side, side), bool)
    brain[1:, 2:-2, 3:-6] = True  # the first has none
    image = np.where(brain, draw.uniform(-1, 1, brain.shape), -1.0).astype(np.float32)
    return jnp.asarray(image[..., None]), jnp.asarray(brain)


def vary(seed=0, **options):
    images, brain = slices()
    options = acquisition.Options(**options)
    varied = jax.jit(lambda k: acquisition.vary(k, images, brain, options))(jax.random.key(seed))
    return [np.asarray(part) for part in (*varied, images, brain)]


def test_options_of_nothing_give_the_slice_back():
    out, brain, image, before = vary(**NONE)
    np.testing.assert_allclose(out, image, atol=1e-6)
    np.testing.assert_array_equal(brain, before)


def test_slice_and_mask_are_mirrored_together():
    out, brain, image, before = vary(**NONE | {"flip": 1.0})
    np.testing.assert_allclose(out, image[:, :, ::-1], atol=1e-6)
    np.testing.assert_array_equal(brain, before[:, :, ::-1])


def test_a_varied_slice_stays_a_slice():
    out, brain, image, before = vary(3)
    flipped = (brain != before).any((1, 2))
    assert 0 < flipped.sum() < len(out) - 1
    # Without what was mirrored: brightness differs, the place of the brain does not.
    assert (np.abs(out - image)[~flipped & before.any((1, 2))].mean((1, 2, 3)) > 1e-3).all()
    assert np.isfinite(out).all() and out.min() >= -1 and out.max() <= 1
    assert (out[~brain] == -1).all()


@pytest.mark.parametrize("name", NONE)
def test_bad_options_are_named(name):
    with pytest.raises(errors.UserError, match=rf"appearance\.{name}: found -0\.1, accepted"):
        acquisition.Options(**{name: -0.1})
