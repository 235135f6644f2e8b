import numpy as np
import pytest
from scipy import stats

from madad_jax.metrics import intervals


def _uneven(rng, n):
    """Shares as healthy brains have them: spread as wide as their mean and more."""
    return 0.01 * rng.lognormal(-0.5, 1.0, n)  # mean 0.01


def test_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = plain = 0
    for _ in range(1000):
        values = _uneven(rng, 30)
        low, high = intervals.mean_interval(values, at_most=1.0)
        inside += low <= 0.01 <= high
        drawn = values[rng.integers(0, 30, (200, 30))].mean(axis=1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        plain += low <= 0.01 <= high
    assert 0.90 <= inside / 1000 <= 0.97
    assert inside > plain, "the percentile bootstrap is narrower"


def test_two_groups_hold_the_truth():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        fresh, known = _uneven(rng, 60), _uneven(rng, 40)
        low, high = intervals.fresh_mean_interval(fresh, known)
        # The known mean is what was asked for; both means estimate one truth.
        inside += low <= known.mean() <= high
    assert 0.92 <= inside / 1000 <= 0.98


def test_even_values_give_the_usual_t_interval():
    values = 1.0 + 1e-4 * np.random.default_rng(0).standard_normal(12)
    low, high = intervals.mean_interval(values)
    usual = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(usual, abs=1e-7)


def test_nothing_seen_is_not_nothing_there():
    zeros = np.zeros(20)
    low, high = intervals.mean_interval(zeros, at_most=1.0)
    clopper = stats.binomtest(0, 20).proportion_ci(0.95).high
    assert low == 0.0 and high == pytest.approx(clopper)
    low, high = intervals.mean_interval(zeros)
    assert low == 0.0 and high == pytest.approx(stats.chi2.ppf(0.975, 2) / 2 / 20)
    assert intervals.fresh_mean_interval(zeros, np.ones(5)) is None


def test_one_person_has_no_interval():
    assert intervals.mean_interval(np.array([0.3]), at_most=1.0) is None
    assert intervals.mean_interval(np.array([0.0])) is None


def test_a_share_stays_below_one():
    assert intervals.mean_interval(np.array([0.9, 0.01, 0.9]), at_most=1.0)[1] == 1.0


def test_the_next_value_stays_below_its_bound_as_often_as_said():
    rng = np.random.default_rng(0)
    for n in (9, 19, 30):
        held = [
            rng.poisson(2.0) <= intervals.bound_next_value(rng.poisson(2.0, n).astype(float))
            for _ in range(2000)
        ]
        assert np.mean(held) >= 0.9 - 0.02
    assert intervals.bound_next_value(np.arange(9.0)) == 8.0
    assert intervals.bound_next_value(np.arange(8.0)) is None
