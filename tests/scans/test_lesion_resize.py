"""Segmentations keep their lesions, and their size, at fewer pixels."""

import numpy as np
import pytest

from madad_jax.data.sources import encoded
from madad_jax.scans import lesion_resize


def square(side, row, column, width):
    out = np.zeros((side, side), bool)
    out[row : row + width, column : column + width] = True
    return out


@pytest.mark.parametrize(("side", "size"), [(256, 96), (256, 128), (512, 128), (100, 64)])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_no_lesion_vanishes(side, size, width):
    rng = np.random.default_rng(0)
    for row, column in rng.integers(0, side - width, (60, 2)):
        resized = encoded.resize_lesion(square(side, row, column, width), size)
        assert resized.any()
        # Where it was, within a pixel.
        middle = (np.array([row, column]) + width / 2) * size / side
        assert np.abs(np.argwhere(resized) + 0.5 - middle).max() <= 1.5


def test_the_pixel_that_is_kept_is_the_most_covered_and_is_counted():
    pixels = square(12, 3, 3, 2)  # 1 of 16 pixels in one cell of four, 1 in each of the others
    pixels[4, 5] = True  # and one more to the right
    resized, kept = lesion_resize.shrink(pixels, 3)
    assert np.argwhere(resized).tolist() == [[1, 1]] and kept == 1
    resized, kept = lesion_resize.shrink(square(12, 4, 4, 4) | square(12, 0, 11, 1), 3)
    assert np.argwhere(resized).tolist() == [[0, 2], [1, 1]] and kept == 1


def test_more_than_half_of_a_pixel_sets_it_and_less_does_not():
    pixels = np.zeros((8, 8), bool)
    pixels[:, :3] = True  # half of the second column of pixels: its nearest neighbour decides
    assert lesion_resize.shrink(pixels, 4)[0].sum(axis=1).tolist() == [1] * 4
    pixels[:, 3] = True
    assert lesion_resize.shrink(pixels, 4)[0].sum(axis=1).tolist() == [2] * 4


@pytest.mark.parametrize("size", [96, 128])
def test_lesions_neither_grow_nor_shrink_on_the_whole(size):
    rng = np.random.default_rng(1)
    areas = [
        lesion_resize.shrink(square(256, *rng.integers(0, 236, 2), 20), size)[0].sum()
        for _ in range(100)
    ]
    assert np.mean(areas) * (256 / size) ** 2 / 400 == pytest.approx(1.0, abs=0.03)
