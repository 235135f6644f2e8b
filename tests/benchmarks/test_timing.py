import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from benchmarks.speed import timing


def sample(seconds):
    return timing.Sample(seconds, 2 * seconds)


def test_rounds_alternate_and_warm_ups_do_not_count():
    order = []

    def side(name):
        return lambda: order.append(name) or sample(float(len(order)))

    taken = timing.interleave({"a": side("a"), "b": side("b")}, repeats=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert [s.seconds for s in taken["a"]] == [5, 7, 9]
    assert [s.seconds for s in taken["b"]] == [6, 8, 10]


def test_each_side_settles_before_the_run_that_counts():
    order = []

    def side(name):
        return lambda: order.append(name) or sample(float(len(order)))

    taken = timing.interleave({"a": side("a"), "b": side("b")}, repeats=2, warmup=0, settle=1)
    assert order == ["a", "a", "b", "b"] * 2
    assert [s.seconds for s in taken["a"]] == [2, 6]


def test_a_limit_ends_after_one_round_at_least():
    calls = []
    taken = timing.interleave(
        {"a": lambda: calls.append(0) or sample(1.0)}, repeats=50, warmup=1, limit=1e-9
    )
    assert len(taken["a"]) == 1 and len(calls) == 2


def test_summary_and_ratio_by_round():
    ours, theirs = [sample(s) for s in (1.0, 2.0, 9.0)], [sample(s) for s in (2.0, 4.0, 3.0)]
    assert timing.summary(ours) == {
        "seconds": {"median": 2.0, "low": 1.0, "high": 9.0, "runs": 3},
        "cpu_seconds": 4.0,
    }
    # The round in which both were disturbed differently does not move the median.
    assert timing.ratio(ours, theirs) == {"median": 0.5, "low": 0.5, "high": 3.0, "runs": 3}
    with pytest.raises(ValueError):
        timing.ratio(ours, theirs[:2])


@hypothesis.given(
    st.floats(-3, 3), st.floats(1e-3, 1e3), st.lists(st.integers(1, 999), min_size=2, unique=True)
)
def test_the_exponent_of_a_power_law_is_found(power, factor, sizes):
    values = [factor * n**power for n in sizes]
    assert timing.exponent(sizes, values) == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize("sizes,values", [([4, 4], [1, 2]), ([1, 2], [0, 1]), ([0, 2], [1, 1])])
def test_no_exponent(sizes, values):
    with pytest.raises(ValueError):
        timing.exponent(sizes, values)


def test_timed_sees_the_work():
    found = timing.timed(lambda: np.linalg.svd(np.ones((200, 200))))
    assert found.seconds > 0 and found.cpu_seconds > 0
