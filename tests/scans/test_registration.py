"""Transforms: to the template and back, on disk, the same on every run."""

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import geometry, registration
from tests.scans import cases


def transform():
    matrix = np.eye(4)
    matrix[:3] = [[1.1, 0.1, 0, 3], [-0.1, 1.05, 0.2, -4], [0, -0.2, 1.2, 5]]
    return registration.Transform(matrix, "affine", 0.95)


def test_to_the_template_and_back():
    grid = cases.box((2.0, 2.0, 3.0))
    image, brain, _ = cases.see(grid, transform().matrix)
    volume = cases.volume(image, grid.affine)
    there = transform().to_template(volume.data, volume, order=1)
    assert there.shape == geometry.TEMPLATE_GRID.shape
    expected = cases.see(geometry.TEMPLATE_GRID)[0]
    assert np.abs(there - expected)[expected > 0].mean() < 60  # Of about 700.
    back = transform().to_scan(there, volume, order=1)
    assert np.abs(back - volume.data)[brain].mean() < 60
    mask = transform().to_template(brain.astype(np.float32), volume, order=1) >= 0.5
    assert cases.dice(transform().to_scan(mask, volume, order=0), brain) > 0.97


def test_labels_stay_labels():
    volume = cases.volume(np.random.default_rng(0).integers(0, 5, (20, 20, 20)))
    moved = transform().to_template(volume.data.astype(np.int16), volume, order=0)
    assert moved.dtype == np.int16 and set(np.unique(moved)) <= set(range(5))


def test_kept_on_disk(tmp_path):
    transform().save(tmp_path / "t.json")
    again = registration.load(tmp_path / "t.json")
    np.testing.assert_array_equal(again.matrix, transform().matrix)
    assert again.method == "affine" and again.overlap == 0.95
    (tmp_path / "t.json").write_text('{"matrix": [[1, 2], [3, 4]]}')
    with pytest.raises(errors.UserError, match="4 x 4"):
        registration.load(tmp_path / "t.json")


def test_none_is_the_header_and_the_shift():
    volume = cases.volume(np.ones((10, 10, 10)))
    found = registration.register(volume, "none", shift=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(found.matrix[:3, 3], (1, 2, 3))
    assert found.volume_ratio == 1.0
    with pytest.raises(errors.UserError, match="none, affine"):
        registration.register(volume, "rigid")


@pytest.mark.slow
def test_the_same_to_the_bit():
    grid = cases.box((3.0, 3.0, 3.0))
    image, brain, _ = cases.see(grid, transform().matrix)
    volume = cases.volume(image, grid.affine)
    first, second = (registration.register(volume, "affine", brain=brain) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert first.overlap > 0.96
