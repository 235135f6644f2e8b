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


def scan_of(scale=1.0, offset=0.0, background=None, noise=0.0):
    """(data, brain): a T1 brain as affine intensities; air is `background`, or moves along."""
    image, brain, _ = cases.see(cases.box((5.0, 5.0, 5.0)))
    air = np.abs(np.random.default_rng(0).normal(0.0, noise, image.shape)) if noise else 0.0
    data = scale * np.where(brain, image, air) + offset
    if background is not None:
        data = np.where(brain, data, background)
    return data.astype(np.float32), brain


def pictures(data, brain, *, high=98.0):
    """What a scaling from 0 makes of a scan."""
    laid, black, about = intensity.lay_zero(data, brain)
    scale = intensity.find_scale(laid, brain, low=0.0, high=high)
    return scale(laid), black, about


@pytest.mark.parametrize("noise", [0.0, 5.0])
@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, -1024.0), (0.001, -0.5), (3.0, -300.0), (2.0, 1024.0)]
)
def test_intensities_that_are_moved_give_the_same_pictures(scale, offset, noise):
    raw, brain = scan_of(noise=noise)
    wanted, black, about = pictures(raw, brain)
    assert black == 0.0 and about == []
    found, black, about = pictures(scan_of(scale, offset, noise=noise)[0], brain)
    np.testing.assert_allclose(found[brain], wanted[brain], atol=2e-3)
    assert black == pytest.approx(offset, rel=0.01) and "counts as black" in about[0]


def test_a_positive_constant_around_the_brain_is_black():
    raw, brain = scan_of()
    found, black, _ = pictures(scan_of(1.0, 30.0)[0], brain)
    np.testing.assert_allclose(found, pictures(raw, brain)[0], atol=1e-5)
    assert black == 30.0


@pytest.mark.parametrize("background", [0.0, -0.1])
def test_scores_on_a_background_of_middle_grey_look_like_the_raw_scan(background):
    raw, brain = scan_of()
    mean, spread = raw[brain].mean(), raw[brain].std()
    scores, _ = scan_of(1.0 / spread, -mean / spread, background)
    wanted, found = pictures(raw, brain)[0], pictures(scores, brain)
    # The brain's darkest half a per cent become black: what lies below white stays in place.
    assert np.abs(found[0] - wanted)[brain].mean() < 0.08
    assert found[0][~brain].max() == 0.0
    assert "of the brain lie at or under" in found[2][0]
    clipped = np.clip(scores / np.percentile(scores[brain], 98.0), 0, 1)
    assert np.abs(clipped - wanted)[brain].mean() > 0.4  # what scaling from 0 makes of them


def test_a_raw_scan_is_left_as_it_is():
    raw, brain = scan_of()
    raw[brain & (np.indices(raw.shape).sum(0) % 20 == 0)] = -3.0  # N4 and splines leave such
    assert intensity.lay_zero(raw, brain)[0] is raw


@pytest.mark.parametrize("offset", [-10.0, 10.0])
def test_air_next_to_zero_is_left_as_it_is(offset):
    for noise in (0.0, 5.0):
        moved, brain = scan_of(1.0, offset, noise=noise)
        assert intensity.lay_zero(moved, brain)[0] is moved


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
