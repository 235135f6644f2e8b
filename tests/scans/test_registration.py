"""Transforms: to the template and back, on disk, the same on every run."""

import json

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import geometry, registration, to_slices
from tests.scans import cases


def transform():
    matrix = np.eye(4)
    matrix[:3] = [[1.1, 0.1, 0, 3], [-0.1, 1.05, 0.2, -4], [0, -0.2, 1.2, 5]]
    return registration.Transform(matrix, "affine", 0.95, agreement=0.7)


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
    assert again.agreement == 0.7 and np.isnan(again.rival)
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["rival"] is None
    for key in ("overlap", "agreement", "rival"):  # as older versions wrote it
        del values[key]
    (tmp_path / "t.json").write_text(json.dumps(values))
    assert np.isnan(registration.load(tmp_path / "t.json").agreement)


@pytest.mark.parametrize(
    "text",
    [
        '{"matrix": [[1, 2], [3, 4]]}', "{}", "[]", "null", "[" * 90_000, '{"matrix": "x"}',
        '{"matrix": [[NaN,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}',
        '{"matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "overlap": "good"}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_transform_is_named(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(errors.UserError, match=r"t\.json"):
        registration.load(tmp_path / "t.json")


def test_none_is_the_header_and_the_shift():
    volume = cases.volume(np.ones((10, 10, 10)))
    found = registration.register(volume, "none", shift=(1.0, 2.0, 3.0))
    np.testing.assert_array_equal(found.matrix[:3, 3], (1, 2, 3))
    assert found.volume_ratio == 1.0
    with pytest.raises(errors.UserError, match="none, affine"):
        registration.register(volume, "rigid")


# Voxels of 4 mm cost 1.1 mm, turned or not.
_NEAR_MM = 1.5


def turned(axis, degrees, voxel=4.0):
    """(scan, brain, scan mm -> template mm) of a head that is turned about its middle."""
    angle, (i, j) = np.deg2rad(degrees), ((axis + 1) % 3, (axis + 2) % 3)
    moved, middle = np.eye(4), np.array((0.0, -18.0, 8.0))
    moved[i, i] = moved[j, j] = np.cos(angle)
    moved[i, j], moved[j, i] = -np.sin(angle), np.sin(angle)
    moved[:3, 3] = middle - moved[:3, :3] @ middle
    # A cube that holds the head at any angle.
    side = int(np.ceil(240.0 / voxel))
    affine = np.diag([voxel] * 3 + [1.0])
    affine[:3, 3] = middle - voxel * (side - 1) / 2
    grid = geometry.VoxelGrid((side,) * 3, affine)
    image, brain, _ = cases.see(grid, moved)
    return cases.volume(image, affine), brain, moved


def error_mm(found, wanted, volume, brain):
    """Mean distance over the brain."""
    points = np.argwhere(brain)[::10]
    points = volume.affine @ np.c_[points, np.ones(len(points))].T
    return np.linalg.norm(((found.matrix - wanted) @ points)[:3], axis=0).mean()


@pytest.mark.parametrize(("axis", "degrees"), [(0, 55.0), (1, -90.0), (2, 180.0)])
def test_a_head_that_is_turned_far_is_found(axis, degrees):
    volume, brain, wanted = turned(axis, degrees)
    found = registration.register(volume, brain=brain)
    assert error_mm(found, wanted, volume, brain) < _NEAR_MM
    assert np.linalg.det(found.matrix[:3, :3]) > 0
    assert found.agreement > 0.7 and not found.rival > 0.5  # nan: all poses climb to this one
    assert to_slices.find_doubts(found) == ()


@pytest.mark.slow
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [-45, 20, 90])
def test_heads_turned_by_every_angle_are_found(axis, degrees):
    volume, brain, wanted = turned(axis, degrees)
    found = registration.register(volume, brain=brain)
    assert error_mm(found, wanted, volume, brain) < _NEAR_MM


@pytest.mark.parametrize(("axis", "degrees"), [(0, 60.0), (1, 90.0), (2, 180.0)])
def test_a_header_that_turns_the_head_is_in_doubt(axis, degrees):
    """Two egg shapes overlap at any angle; what is inside them does not agree."""
    volume, brain, _ = turned(axis, degrees)
    found = registration.register(volume, "none", brain=brain)
    assert found.rival > found.agreement
    assert any("turned otherwise" in text for text in to_slices.find_doubts(found))
    upright, brain, _ = turned(axis, 0.0)
    found = registration.register(upright, "none", brain=brain)
    assert found.agreement > 0.8 and to_slices.find_doubts(found) == ()


@pytest.mark.slow
def test_the_same_to_the_bit():
    grid = cases.box((3.0, 3.0, 3.0))
    image, brain, _ = cases.see(grid, transform().matrix)
    volume = cases.volume(image, grid.affine)
    first, second = (registration.register(volume, "affine", brain=brain) for _ in range(2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert first.overlap > 0.96
