import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import joined
from madad_jax.core import errors

BRAIN = jnp.ones((1, 64, 64), bool)


def constant(value):
    return jnp.full((1, 64, 64), value, jnp.float32)


def test_the_pixels_alone_come_back_as_they_are():
    weights = joined.Join(pixels=1.0, atlas=0.0, cells=0.0)
    pixels = jnp.linspace(0.001, 0.999, 64 * 64, dtype=jnp.float32).reshape(1, 64, 64)
    out = joined.join(pixels, None, constant(0.9), BRAIN, weights)
    np.testing.assert_allclose(out, pixels, atol=1e-5)


def test_each_signal_adds_its_log_odds():
    weights = joined.Join(pixels=2.0, atlas=1.0, cells=0.5)
    out = joined.join(constant(0.2), constant(-1.6), constant(0.9), BRAIN, weights)
    # Odds: (1/4)^2 of the pixels, 1.6 / 0.8 of the deviation, 9^0.5 of the cells.
    odds = 0.25**2 * 2.0 * 3.0
    np.testing.assert_allclose(out, odds / (1 + odds), rtol=2e-3)


def test_without_an_atlas_the_deviation_counts_nothing():
    weights = joined.Join(pixels=1.0, atlas=5.0, cells=0.0)
    out = joined.join(constant(0.3), None, constant(0.1), BRAIN, weights)
    np.testing.assert_allclose(out, 0.3, rtol=1e-4)


def test_outside_the_brain_it_is_zero_and_at_its_rim_no_less_than_within():
    brain = BRAIN.at[:, :, 32:].set(False)
    weights = joined.Join(pixels=1.0, atlas=1.0, cells=1.0)
    out = np.asarray(joined.join(constant(0.5), constant(2.0), constant(0.5), brain, weights))
    assert not out[:, :, 32:].any()
    np.testing.assert_allclose(out[:, :, :32], out[0, 0, 0], rtol=1e-3)


def test_probabilities_of_0_and_1_give_numbers():
    for value in (0.0, 1.0):
        out = joined.join(constant(value), constant(0.0), constant(value), BRAIN, joined.Join())
        assert np.isfinite(out).all()


@pytest.mark.parametrize("bad", [{"pixels": 0.0}, {"atlas": -1.0}, {"cells": -0.1}])
def test_weights_that_cannot_be_are_refused(bad):
    with pytest.raises(errors.UserError, match=r"inference\.join"):
        joined.Join(**bad)
