"""The template's files, held against nilearn's own readers."""

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.predict import regions
from madad_jax.scans import geometry, registration, template_files


def test_equal_to_nilearns_own_readers():
    from nilearn import datasets

    t1 = template_files.read_t1()
    for found, load in (
        (t1, datasets.load_mni152_template),
        (template_files.find_brain(t1), datasets.load_mni152_brain_mask),
        (template_files.read_grey_matter(), datasets.load_mni152_gm_template),
        (template_files.read_white_matter(), datasets.load_mni152_wm_template),
    ):
        wanted = load(resolution=1)
        np.testing.assert_array_equal(found, np.asarray(wanted.dataobj))
        assert found.shape == geometry.TEMPLATE_GRID.shape
        np.testing.assert_array_equal(wanted.affine, geometry.TEMPLATE_GRID.affine)


def test_regions_in_nilearns_order():
    from nilearn import datasets

    wanted = datasets.fetch_coords_dosenbach_2010()
    centres, names = template_files.read_regions()
    np.testing.assert_array_equal(centres, np.asarray(wanted["rois"]))
    assert list(names) == [label.rsplit(" ", 1)[0] for label in wanted["labels"]]


def test_tissues_are_those_of_nilearns_resampling():
    from nilearn import datasets

    atlas = regions._load()
    for name, load in (
        ("grey matter", datasets.load_mni152_gm_template),
        ("white matter", datasets.load_mni152_wm_template),
    ):
        wanted = load(resolution=2)
        values = np.asarray(wanted.dataobj, np.float32)
        sides = zip(values.shape, atlas.tissues[name].shape, strict=True)
        shape = tuple(min(pair) for pair in sides)
        cut = tuple(slice(n) for n in shape)
        values = values / values.max()
        np.testing.assert_allclose(atlas.tissues[name][cut], values[cut], atol=2e-6)
        np.testing.assert_allclose(np.linalg.inv(atlas.to_voxel), wanted.affine, atol=1e-9)
        assert not values[shape[0] :].any() and values.shape == atlas.tissues[name].shape


def test_a_missing_file_is_named(monkeypatch):
    monkeypatch.setitem(template_files._NAMES, "t1", "gone.nii.gz")
    with pytest.raises(errors.UserError, match=r"gone\.nii\.gz.*nilearn>=0\.14"):
        template_files.read_t1()


def test_means_of_eight_voxels():
    image, brain, grid = registration.template_brain()
    t1 = template_files.read_t1()
    np.testing.assert_allclose(image[50, 60, 40], t1[100:102, 120:122, 80:82].mean(), rtol=1e-6)
    assert brain.shape == grid.shape == image.shape
