"""Scaling by what is inside the brain, and the bias field."""

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import intensity
from tests.scans import cases


def values():
    data = np.linspace(0, 1000, 1001, dtype=np.float32).reshape(7, 11, 13)
    return data, data >= 100


def test_percentiles_of_the_brain_become_black_and_white():
    data, mask = values()
    scale = intensity.find_scale(data, mask)
    assert scale.low == pytest.approx(109.0) and scale.high == pytest.approx(991.0)
    unit = intensity.find_scale(data, mask, "percentile", low=1.0, high=99.0)(data)
    assert unit.dtype == np.float32 and unit.min() == 0 and unit.max() == 1
    assert unit.ravel()[550] == pytest.approx((550 - 109) / 882, abs=1e-6)


def test_a_low_of_zero_is_the_value_zero():
    data, mask = values()
    scale = intensity.find_scale(data, mask, low=0.0, high=98.0)
    assert scale.low == 0 and scale.high == pytest.approx(982.0)


def test_zscore_keeps_three_deviations():
    data, mask = values()
    scale = intensity.find_scale(data, mask, "zscore")
    inside = data[mask]
    assert scale.low == pytest.approx(inside.mean() - 3 * inside.std(), rel=1e-5)
    assert scale.high == pytest.approx(inside.mean() + 3 * inside.std(), rel=1e-5)


def test_constant_brains_and_bad_names():
    data, mask = values()
    with pytest.raises(errors.UserError, match="nothing to scale"):
        intensity.find_scale(np.ones_like(data), mask)
    with pytest.raises(errors.UserError, match="percentile, zscore"):
        intensity.find_scale(data, mask, "minmax")


@pytest.mark.slow
def test_n4_flattens_a_bias_field():
    grid = cases.box((4.0, 4.0, 4.0))
    image, brain, _ = cases.see(grid)
    x = np.linspace(-1, 1, grid.shape[0], dtype=np.float32)[:, None, None]
    bent = cases.volume(image * np.exp(0.5 * x), np.diag([4.0, 4.0, 4.0, 1.0]))
    flat = intensity.correct_bias(bent, brain)

    def lean(data):
        left, right = data[: len(x) // 2], data[len(x) // 2 :]
        halves = brain[: len(x) // 2], brain[len(x) // 2 :]
        return abs(np.log(right[halves[1]].mean() / left[halves[0]].mean()))

    assert lean(bent.data) > 0.2
    assert lean(flat) < 0.3 * lean(bent.data)
    np.testing.assert_array_equal(intensity.correct_bias(bent, brain), flat)
