"""Masks and segmentations: what is a label, and which voxels of the scan a label lies on."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.scans import brain_mask, volumes
from tests.scans import cases, forms

SHAPE = forms.SHAPE


def put(folder, array, name="mask.nii.gz"):
    array = np.asarray(array)
    image = nib.Nifti1Image(array, np.eye(4), dtype=array.dtype)
    nib.save(image, folder / name)
    return folder / name


@pytest.fixture
def scan(tmp_path):
    rng = np.random.default_rng(1)
    return volumes.read(cases.save(tmp_path / "a.nii", rng.random((24, 24, 24)) + 1, np.eye(4)))


@pytest.fixture
def ball():
    """float: 1 in the middle, falling to 0."""
    distance = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0)
    return (1 / (1 + np.exp((distance - 6) * 1.2))).astype(np.float32)


def test_a_mask_of_probabilities_is_refused(tmp_path, scan, ball):
    for array in (ball, np.where(ball > 0.001, ball, 0), ball * 255, ball.astype(np.float64) * 3):
        path = put(tmp_path, array)
        with pytest.raises(
            errors.UserError, match=r"between whole numbers.*accepted: whole labels"
        ) as e:
            volumes.read_labels(path, scan)
        assert str(path) in str(e.value) and "0.5" in str(e.value)
        with pytest.raises(errors.UserError, match="probabilities"):
            brain_mask.find(scan, "given", given=str(path))


def test_a_mask_resampled_linearly_is_refused(tmp_path, scan, ball):
    coarse = (ball[::2, ::2, ::2] > 0.5).astype(np.float32)
    with pytest.raises(errors.UserError, match="resampled linearly"):
        volumes.read_labels(put(tmp_path, ndimage.zoom(coarse, 2, order=1)), scan)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_probabilities_in_whole_numbers_are_refused(tmp_path, scan, ball, kind):
    for scale in (100, 255, 1000):
        with pytest.raises(errors.UserError, match="change from voxel to voxel"):
            volumes.read_labels(put(tmp_path, np.round(ball * min(scale, 255)).astype(kind)), scan)


@pytest.mark.parametrize(("radius", "top"), [(1.5, 255), (3, 255), (6, 10)])
def test_probabilities_of_a_small_lesion_in_a_few_whole_numbers_are_refused(
    tmp_path, scan, radius, top
):
    lesion = np.linalg.norm(np.indices((24, 24, 24)) - 12.0, axis=0) <= radius
    soft = np.rint(ndimage.gaussian_filter(lesion * float(top), 1.0)).astype(np.uint8)
    assert len(np.unique(soft)) < 40
    with pytest.raises(errors.UserError, match="from voxel to voxel"):
        volumes.read_labels(put(tmp_path, soft), scan)


def test_a_picture_is_no_mask(tmp_path, scan):
    picture = np.random.default_rng(0).integers(0, 900, (24, 24, 24)).astype(np.int16)
    with pytest.raises(errors.UserError, match="a picture"):
        volumes.read_labels(put(tmp_path, picture), scan)


def parcels(values, seed=0):
    """Every voxel has the value of the nearest of some seeds: regions that touch."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 24, (len(values), 3, 1, 1, 1))
    nearest = np.linalg.norm(np.indices((24, 24, 24)) - seeds, axis=1).argmin(axis=0)
    return np.asarray(values)[nearest]


@pytest.mark.parametrize(
    "labels",
    [
        lambda: (parcels([0, 1]) * 255).astype(np.uint8),
        lambda: (parcels([0, 1]) * -1).astype(np.int8),
        lambda: parcels([0, 1, 2, 4]).astype(np.float32),
        lambda: parcels(np.arange(200)).astype(np.uint8),
        lambda: parcels(np.arange(1000, 1180)).astype(np.int32),
        lambda: parcels([0, 2, 14175, -3]).astype(np.float64),
    ],
)
def test_whole_numbers_of_any_size_are_labels(tmp_path, scan, labels):
    expected = labels()
    np.testing.assert_array_equal(volumes.read_labels(put(tmp_path, expected), scan), expected)


def test_labels_with_a_slope_are_whole_again(tmp_path, scan):
    image = nib.Nifti1Image((parcels([0, 1, 3]) * 10).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.1, 0.0)
    nib.save(image, tmp_path / "m.nii")
    found = volumes.read_labels(tmp_path / "m.nii", scan)
    assert np.unique(found).tolist() == [0, 1, 3]


@pytest.mark.parametrize("slope", [0.0039, 0.00392, 0.004])
def test_255_with_a_slope_of_three_digits_is_1(tmp_path, scan, slope):
    expected = parcels([0, 1])
    image = nib.Nifti1Image((expected * 255).astype(np.uint8), np.eye(4)).to_bytes()
    header = nib.Nifti1Header(image[:348], check=False)
    header["scl_slope"], header["scl_inter"] = slope, 0
    (tmp_path / "m.nii").write_bytes(header.binaryblock + image[348:])
    if abs(255 * slope - 1) > 0.01:
        with pytest.raises(errors.UserError, match="between whole numbers"):
            volumes.read_labels(tmp_path / "m.nii", scan)
    else:
        found = volumes.read_labels(tmp_path / "m.nii", scan)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("error")
def test_single_voxels_each_numbered_are_labels(tmp_path, scan):
    expected = np.zeros(scan.data.shape, np.int16)
    expected[2:22:4, 2:22:4, 2:22:4] = np.arange(1, 126).reshape(5, 5, 5)
    np.testing.assert_array_equal(volumes.read_labels(put(tmp_path, expected), scan), expected)


def test_nan_lies_outside_and_infinity_is_refused(tmp_path, scan):
    mask = parcels([0, 1]).astype(np.float32)
    mask[0, 0, :2] = np.nan
    found = volumes.read_labels(put(tmp_path, mask), scan)
    np.testing.assert_array_equal(found, np.nan_to_num(mask))
    mask[0, 0, 0] = np.inf
    with pytest.raises(errors.UserError, match="infinite"):
        volumes.read_labels(put(tmp_path, mask), scan)


@pytest.mark.parametrize("other", forms.OTHERS)
@pytest.mark.parametrize("codes", forms.CODES, ids=str)
def test_a_mask_that_itk_wrote_lies_on_the_voxels_that_it_saw(tmp_path, codes, other):
    path = forms.save(tmp_path / "scan.nii", codes, forms.OTHERS[other])
    scan = volumes.read(path)
    sitk.WriteImage(sitk.ReadImage(str(path)) > 600, str(tmp_path / "mask.nii.gz"))
    mask = volumes.read_labels(tmp_path / "mask.nii.gz", scan)
    np.testing.assert_array_equal(mask > 0, scan.data > 600)


@pytest.mark.parametrize("codes", [(1, 0), (1, 1), (2, 0)], ids=str)
def test_a_mask_that_itk_wrote_with_the_sides_of_pixdim(tmp_path, codes):
    """A registration scaled the sform by 1.5; ITK takes directions alone from there."""
    sform = np.diag([1.5, 1.5, 1.5, 1.0]) @ forms.turn(10) @ forms.AFFINE
    path = forms.save(tmp_path / "scan.nii", codes, sform=sform)
    scan = volumes.read(path)
    np.testing.assert_allclose(scan.voxel_mm, (1.5, 1.5, 2.25), rtol=1e-6)
    sitk.WriteImage(sitk.ReadImage(str(path)) > 600, str(tmp_path / "mask.nii.gz"))
    mask = volumes.read_labels(tmp_path / "mask.nii.gz", scan)
    np.testing.assert_array_equal(mask > 0, scan.data > 600)


def test_a_mask_elsewhere_is_refused_with_its_distance(tmp_path):
    scan = volumes.read(forms.save(tmp_path / "scan.nii", (2, 1)))
    place = forms.AFFINE.copy()
    place[0, 3] += 30
    mask = forms.save(tmp_path / "mask.nii", (1, 1), place, sform=place)
    with pytest.raises(errors.UserError, match=r"30\.0 mm beside"):
        volumes.read_labels(mask, scan)
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), tmp_path / "eye.nii")
    with pytest.raises(errors.UserError, match="mm beside"):
        volumes.read_labels(tmp_path / "eye.nii", scan)


def test_damage_to_a_packed_mask_is_seen(tmp_path, scan, ball):
    path = put(tmp_path, (ball > 0.5).astype(np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    with pytest.raises(errors.UserError, match="CRC"):
        volumes.read_labels(path, scan)
