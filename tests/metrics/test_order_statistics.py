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
    found = order_statistics.upper_quantiles(lambda: np.array_split(values, 3), shares)
    order = np.sort(values)
    for share, value in zip(shares, found, strict=True):
        assert value == order[values.size - 1 - int(share * values.size + 1e-9)]
        assert (values > value).mean() <= share + 1e-9


def test_ties_zeros_of_both_signs_and_nothing():
    values = np.array([0.0, -0.0, 1.0, 1.0, -3.0], np.float32)
    assert order_statistics.upper_quantiles(lambda: [values], [0.0, 0.4, 0.8]) == [1.0, 0.0, -3.0]
    assert order_statistics.upper_quantiles(lambda: [], [0.1]) == []


def test_spilled_maps_give_the_thresholds_of_those_in_memory():
    rng = np.random.default_rng(0)
    maps, brain = rng.random((9, 10, 10), np.float32), rng.random((9, 10, 10)) < 0.6
    kept, masks = disk_arrays.DiskArray(), disk_arrays.DiskArray()
    for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
        kept.append(maps[part])
        masks.append(brain[part])
    assert isinstance(kept.read(), np.memmap)
    np.testing.assert_array_equal(kept.read(), maps)
    rates, few = [0.01, 0.1], 200  # pixels: a slice or two at a time
    expected = thresholds.at_rates(maps, brain, rates)
    assert thresholds.at_rates(kept.read(), masks.read(), rates, chunk_pixels=few) == expected
    above = thresholds.pixels_above(kept.read(), masks.read(), 0.5, chunk_pixels=few)
    assert above.tolist() == ((maps > 0.5) & brain).sum(axis=(1, 2)).tolist()


def test_parts_are_alike():
    kept = disk_arrays.DiskArray()
    with pytest.raises(ValueError, match="no part"):
        kept.read()
    kept.append(np.zeros((0, 2), np.float32))
    assert kept.read().shape == (0, 2)
    with pytest.raises(ValueError, match="found float64"):
        kept.append(np.zeros((1, 2)))
