import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from madad_jax.metrics import disk_arrays, order_statistics, thresholds

_NUMBERS = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-(2.0**90), 2.0**90, width=32)
)


@hypothesis.given(_NUMBERS, st.lists(st.floats(0.0, 0.99), min_size=1, max_size=4))
def test_it_is_the_number_that_a_sort_finds(values, shares):
    found = order_statistics.exceeded_by(lambda: np.array_split(values, 3), shares)
    order = np.sort(values)
    for share, value in zip(shares, found, strict=True):
        assert value == order[values.size - 1 - int(share * values.size + 1e-9)]
        assert (values > value).mean() <= share + 1e-9


def test_ties_zeros_of_both_signs_and_nothing():
    values = np.array([0.0, -0.0, 1.0, 1.0, -3.0], np.float32)
    assert order_statistics.exceeded_by(lambda: [values], [0.0, 0.4, 0.8]) == [1.0, 0.0, -3.0]
    assert order_statistics.exceeded_by(lambda: [], [0.1]) == []


def test_spilled_maps_give_the_thresholds_of_those_in_memory(monkeypatch):
    monkeypatch.setattr(thresholds, "_CHUNK_PIXELS", 200)  # a slice or two at a time
    rng = np.random.default_rng(0)
    maps, brain = rng.random((9, 10, 10), np.float32), rng.random((9, 10, 10)) < 0.6
    kept, masks = disk_arrays.Spill(), disk_arrays.Spill()
    for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
        kept.add(maps[part])
        masks.add(brain[part])
    assert isinstance(kept.whole(), np.memmap)
    np.testing.assert_array_equal(kept.whole(), maps)
    rates = [0.01, 0.1]
    expected = thresholds.at_rates(maps, brain, rates)
    assert thresholds.at_rates(kept.whole(), masks.whole(), rates) == expected
    above = thresholds.pixels_above(kept.whole(), masks.whole(), 0.5)
    assert above.tolist() == ((maps > 0.5) & brain).sum(axis=(1, 2)).tolist()


def test_parts_are_alike():
    kept = disk_arrays.Spill()
    with pytest.raises(ValueError, match="no part"):
        kept.whole()
    kept.add(np.zeros((0, 2), np.float32))
    assert kept.whole().shape == (0, 2)
    with pytest.raises(ValueError, match="found float64"):
        kept.add(np.zeros((1, 2)))
