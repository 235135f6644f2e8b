"""The template's space: files on its grid, and a transform that other programs read alike."""

import dataclasses
import itertools

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.predict import spaces
from madad_jax.scans import geometry, registration

FLIP = np.diag([-1.0, -1.0, 1.0])  # To ITK's millimetres.


@pytest.fixture(scope="module")
def moved(result):
    """The result of a scan that is turned, stretched and moved against the template."""
    matrix = np.array(
        [[1.05, 0.10, 0.0, 3.7], [-0.09, 1.02, 0.06, -5.2], [0.02, -0.05, 0.97, 8.1], [0, 0, 0, 1]]
    )
    return dataclasses.replace(result, transform=registration.Transform(matrix, "affine"))


@pytest.fixture(scope="module")
def folder(moved, tmp_path_factory):
    out = epath.Path(tmp_path_factory.mktemp("spaces"))
    moved.save(out, report=False, space=spaces.TEMPLATE, output_format="nifti")
    return out


def _load(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image


def _points():
    return np.array(list(itertools.product((-40.0, 35.0), (-60.0, 20.0), (-10.0, 50.0))))


def test_files_lie_on_the_templates_grid_and_say_so(folder):
    assert spaces.are_there(folder)
    for name in spaces.NAMES:
        array, image = _load(folder / name)
        assert array.shape == geometry.TEMPLATE_GRID.shape and "MNI152NLin2009aSym" in name
        np.testing.assert_array_equal(image.affine, geometry.TEMPLATE_GRID.affine)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 4)
        assert image.header["cal_max"] > image.header["cal_min"] == 0 and array.any()
    assert {p.name for p in folder.iterdir()} >= {"anomaly.nii.gz", "anomaly_mask.nii.gz"}


def test_the_template_is_the_one_of_the_registration():
    """nilearn's file says which average it is."""
    from nilearn import datasets
    from nilearn.datasets import struct

    image = datasets.load_mni152_template(resolution=1)
    assert image.shape == geometry.TEMPLATE_GRID.shape
    np.testing.assert_array_equal(image.affine, geometry.TEMPLATE_GRID.affine)
    assert "nlin_sym_09a" in str(struct.MNI152_FILE_PATH)


def test_simpleitk_reads_the_transform_and_resamples_alike(folder, moved):
    sitk = pytest.importorskip("SimpleITK")
    transform = sitk.ReadTransform(str(folder / spaces.TRANSFORM))
    for place in _points():
        found = FLIP @ transform.TransformPoint((FLIP @ place).tolist())
        back = moved.transform.matrix[:3, :3] @ found + moved.transform.matrix[:3, 3]
        np.testing.assert_allclose(back, place, atol=1e-9)
    grid = sitk.ReadImage(str(folder / spaces.ANOMALY))
    pairs = (
        ("anomaly.nii.gz", spaces.ANOMALY, sitk.sitkLinear),
        ("anomaly_mask.nii.gz", spaces.MASK, sitk.sitkNearestNeighbor),
    )
    for native, name, how in pairs:
        native = sitk.ReadImage(str(folder / native))
        theirs = sitk.GetArrayFromImage(sitk.Resample(native, grid, transform, how)).T
        ours, _ = _load(folder / name)
        # Points on the face of two voxels may be either's.
        assert (np.abs(theirs.astype(float) - ours) > 1e-4).mean() < 1e-5
        assert ours.any()


def test_simpleitk_writes_what_it_has_read(folder, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    transform = sitk.ReadTransform(str(folder / spaces.TRANSFORM))
    for name in ("again.tfm", "again.txt", "again.mat", "again.h5"):
        sitk.WriteTransform(transform, str(tmp_path / name))
        again = sitk.ReadTransform(str(tmp_path / name))
        np.testing.assert_array_equal(again.GetParameters(), transform.GetParameters())


def test_ants_reads_the_transform_and_resamples_alike(folder, moved):
    ants = pytest.importorskip("ants", reason="antspyx is not installed")
    path = str(folder / spaces.TRANSFORM)
    transform = ants.read_transform(path)
    for place in _points():
        found = FLIP @ np.array(transform.apply_to_point((FLIP @ place).tolist()))
        back = moved.transform.matrix[:3, :3] @ found + moved.transform.matrix[:3, 3]
        np.testing.assert_allclose(back, place, atol=1e-3)
    fixed = ants.image_read(str(folder / spaces.SCAN))
    native = ants.image_read(str(folder / "anomaly.nii.gz"))
    theirs = ants.apply_transforms(fixed, native, [path], interpolator="linear").numpy()
    ours, _ = _load(folder / spaces.ANOMALY)
    assert np.abs(theirs - ours).max() < 1e-3 and ours.max() > 0.1


def test_the_same_result_gives_the_same_bytes(folder, moved, tmp_path):
    moved.save(tmp_path, report=False, space=spaces.TEMPLATE, output_format="nifti")
    for name in (*spaces.NAMES, spaces.TRANSFORM):
        assert (epath.Path(tmp_path) / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("text", ["MNI152NLin2009cSym", "MNI", "native,scanner"])
def test_other_spaces_are_refused(text):
    with pytest.raises(errors.UserError, match="accepted: native, MNI152NLin2009aSym"):
        spaces.choose(text)
    assert not spaces.choose("") and not spaces.choose("native")
    assert spaces.choose("native,MNI152NLin2009aSym") and spaces.choose(spaces.TEMPLATE)
