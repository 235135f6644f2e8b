"""Resampling at the borders: voxels are boxes, as SimpleITK has them."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from madad_jax.scans import geometry, registration, resample, slices
from tests.scans import cases

IDENTITY = registration.Transform(np.eye(4), "none")


def itk(grid, array=None):
    """A grid as an image; the axes' signs are the same on both sides, so mm stay as they are."""
    array = np.zeros(grid.shape, np.float32) if array is None else array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    sides = np.linalg.norm(grid.affine[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((grid.affine[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(grid.affine[:3, 3].tolist())
    return image


def grids(seed):
    """Some voxels, and finer ones around them at an angle; every third a single slice."""
    rng = np.random.default_rng(seed)
    source = np.diag([2.0, 2.0, rng.uniform(1, 6), 1.0])
    source[:3, 3] = rng.normal(0, 3, 3)
    shape = (9, 8, 1 if seed % 3 == 0 else 5)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    axes = turned * np.sign(np.linalg.det(turned)) * rng.uniform(0.5, 1.1, 3)
    target = np.eye(4)
    middle = (source @ [*(np.array(shape) - 1) / 2, 1.0])[:3]
    target[:3, :3], target[:3, 3] = axes, middle - axes @ (14.5, 14.5, 14.5)
    return geometry.VoxelGrid(shape, source), geometry.VoxelGrid((30, 30, 30), target)


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("order", [0, 1])
def test_borders_are_where_simpleitk_has_them(seed, order):
    source, target = grids(seed)
    array = np.random.default_rng(seed).random(source.shape).astype(np.float32) + 1
    how = sitk.sitkLinear if order else sitk.sitkNearestNeighbor
    expected = sitk.Resample(itk(source, array), itk(target), sitk.Transform(), how, 0.0)
    found = resample.resample(array, source, target, np.eye(4), order=order)
    assert (found != 0).sum() > 300
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(expected).T, atol=1e-4)


def test_a_lesion_in_the_outermost_thick_slice_keeps_its_volume():
    """Three slices of 5 mm; a lesion of 10 x 10 x 5 mm in the last of them."""
    data = np.ones((80, 80, 3), np.float32)
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[:3, 3] = -40.25, -60.25, 0
    volume = cases.volume(data, affine)
    lesion = np.zeros(data.shape, bool)
    lesion[30:40, 30:40, 2] = True
    g = geometry.Geometry(image_size=128, field_of_view=128.0)
    seen = slices.sample_masks(lesion, volume, IDENTITY, g, range(60, 100))
    assert seen.sum() == pytest.approx(500, rel=0.02)
    # What is in the outermost slice is as bright there as in the middle of the box.
    images = slices.sample_images(data, volume, IDENTITY, g, range(60, 100))
    inside = slices.sample_masks(data > 0, volume, IDENTITY, g, range(60, 100))
    np.testing.assert_allclose(images[inside], 1.0, atol=1e-5)
    assert not images[~inside].any()


def test_no_lesion_of_a_voxel_vanishes_on_coarse_slices():
    """64 lesions of 1 mm3, seen on pixels of 4 mm: one pixel each, where most were lost."""
    lesion = np.zeros((64, 64, 9), bool)
    lesion[3::8, 5::8, 4] = True
    affine = np.eye(4)
    affine[:3, 3] = -31.5, -49.5, -4.0
    volume = cases.volume(np.ones(lesion.shape, np.float32), affine)
    g = geometry.Geometry(image_size=32, field_of_view=128.0)
    seen = slices.sample_lesions(lesion, volume, IDENTITY, g, [72])
    assert ndimage.label(seen[0], structure=np.ones((3, 3)))[1] == seen.sum() == 64
    assert slices.sample_masks(lesion, volume, IDENTITY, g, [72]).sum() < 32
    # On pixels of the voxels' size both are the same.
    fine = geometry.Geometry(image_size=128, field_of_view=128.0)
    both = [f(lesion, volume, IDENTITY, fine, [72]) for f in
            (slices.sample_lesions, slices.sample_masks)]  # fmt: skip
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("numbers", [[80], [80, 84, 88]], ids=["one slice", "three with gaps"])
@pytest.mark.parametrize("order", [0, 1])
def test_slices_come_back_half_way_to_their_neighbours(numbers, order):
    data = np.ones((40, 40, 60), np.float32)
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] = -39, -57, -20.25
    volume = cases.volume(data, affine)
    g = geometry.Geometry(image_size=64, field_of_view=128.0)
    maps = np.ones((len(numbers), 64, 64), np.float32 if order else np.int32)
    back = slices.to_scan(maps, numbers, volume, IDENTITY, g, order=order)
    heights = affine[2, 3] + np.arange(60)
    step = 4 if len(numbers) > 1 else 1
    low, high = (g.level(n) for n in (numbers[0], numbers[-1]))
    expected = (heights >= low - step / 2) & (heights < high + step / 2)
    np.testing.assert_allclose(back[20, 20], expected, atol=1e-6)
    assert expected.sum() == len(numbers) * step


def test_what_is_coarser_is_not_darkened_at_the_border():
    data = np.ones((32, 32, 32), np.float32)
    source = geometry.VoxelGrid(data.shape, np.eye(4))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = 1.5
    target = geometry.VoxelGrid((8, 8, 8), affine)
    np.testing.assert_allclose(resample.resample(data, source, target, np.eye(4), order=1), 1.0)


def test_cubic_splines_end_at_the_same_faces():
    source, target = grids(1)
    array = np.full(source.shape, 3.0, np.float32)
    found = resample.resample(array, source, target, np.eye(4), order=3)
    expected = resample.resample(array, source, target, np.eye(4), order=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_several_arrays_inside_a_mask_are_what_each_alone_is_there(seed):
    source, target = grids(seed)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=source.shape).astype(np.float32)
    labels = rng.integers(0, 5, source.shape).astype(np.int32)
    inside = rng.random(target.shape) < 0.4
    arrays = ((values, 1), (labels, 0), (labels > 2, 0), (2 * values, 1))
    found = resample.resample_inside(arrays, source, target, np.eye(4), inside)
    for one, (array, order) in zip(found, arrays, strict=True):
        alone = resample.resample(array, source, target, np.eye(4), order=order)
        assert one.dtype == alone.dtype and one.any()
        np.testing.assert_allclose(one, np.where(inside, alone, 0), rtol=0, atol=5e-7)
        assert order or np.array_equal(one, np.where(inside, alone, 0))
