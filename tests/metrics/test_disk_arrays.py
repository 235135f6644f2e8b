"""Arrays on disk leave no file open."""

import gc
import os
import warnings

import numpy as np
import pytest

from madad_jax.metrics import disk_arrays


def _open_files():
    return len(os.listdir("/proc/self/fd"))


def test_parts_come_back_as_one_array():
    array = disk_arrays.DiskArray()
    parts = [np.arange(6.0).reshape(2, 3), np.full((1, 3), 7.0)]
    for part in parts:
        array.append(part)
    np.testing.assert_array_equal(array.read(), np.concatenate(parts))


@pytest.mark.parametrize("reads", [True, False])
def test_no_file_is_left_for_the_garbage_collector(reads):
    gc.collect()
    before = _open_files()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            array = disk_arrays.DiskArray()
            array.append(np.ones((2, 3)))
            if reads:
                assert array.read().sum() == 6
            del array
        gc.collect()
    assert not said and _open_files() == before


def test_nothing_at_all_is_an_error_and_no_pixels_are_none():
    with pytest.raises(ValueError):
        disk_arrays.DiskArray().read()
    array = disk_arrays.DiskArray()
    array.append(np.ones((0, 3)))
    assert array.read().shape == (0, 3)
