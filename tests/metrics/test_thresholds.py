import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import thresholds


def _healthy(seed=0):
    rng = np.random.default_rng(seed)
    maps = rng.random((20, 16, 16)).astype(np.float32) ** 3
    brain = np.zeros(maps.shape, bool)
    brain[:, 3:13, 3:13] = True
    maps[~brain] = 1.0  # must play no part
    return maps, brain


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2])
def test_rate_is_kept_and_used(rate):
    maps, brain = _healthy()
    threshold = thresholds.healthy_threshold(maps, brain, rate)
    above = (maps[brain] > np.float32(threshold)).mean()
    assert above <= rate
    assert above >= rate - 2 / brain.sum()


def test_rate_is_kept_with_ties():
    maps, brain = _healthy()
    maps = np.round(maps, 1)
    threshold = thresholds.healthy_threshold(maps, brain, 0.05)
    assert (maps[brain] > np.float32(threshold)).mean() <= 0.05


@pytest.mark.parametrize("slice_rate", [0.0, 0.05, 0.5])
def test_alarm_pixels_keep_the_slice_rate(slice_rate):
    maps, brain = _healthy()
    threshold = thresholds.healthy_threshold(maps, brain, 0.02)
    k = thresholds.alarm_pixels(maps, brain, threshold, slice_rate)
    above = thresholds.pixels_above(maps, brain, threshold)
    assert (above >= k).mean() <= slice_rate
    assert (above >= k - 1).mean() > slice_rate


def test_alarm_looks_inside_the_brain_only():
    maps, brain = _healthy()
    assert (thresholds.pixels_above(maps, brain, 0.9999) < 60).all()
    assert thresholds.pixels_above(maps, ~brain, 0.5).tolist() == [156] * 20


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_bad_rate(rate):
    with pytest.raises(errors.UserError, match="false_positive_rate: found"):
        thresholds.healthy_threshold(*_healthy(), rate)


def test_nothing_to_learn_a_threshold_from():
    maps, brain = _healthy()
    with pytest.raises(errors.UserError, match="no brain pixel"):
        thresholds.healthy_threshold(maps, np.zeros_like(brain))
    with pytest.raises(errors.UserError, match="0 validation slices"):
        thresholds.alarm_pixels(maps[:0], brain[:0], 0.5)
    with pytest.raises(errors.UserError, match="slice_rate: found"):
        thresholds.alarm_pixels(maps, brain, 0.5, 1.0)
    maps[0, 5, 5] = np.nan
    with pytest.raises(errors.UserError, match="NaN"):
        thresholds.healthy_threshold(maps, brain)
