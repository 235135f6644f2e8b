"""NIfTI in and out: orientations, odd headers, damaged files."""

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.scans import volumes
from tests.scans import cases

CODES = ["".join(c) for axes in itertools.permutations(("RL", "AP", "SI"))
         for c in itertools.product(*axes)]  # fmt: skip


def array(shape=(8, 9, 10), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_reads_alike(tmp_path, code):
    data, affine = array(), np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-5, 7, 11)
    path = cases.save(tmp_path / "a.nii", *cases.reorder(data, affine, code))
    volume = volumes.read(path)
    np.testing.assert_array_equal(volume.data, data)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    np.testing.assert_allclose(volume.voxel_mm, (1, 2, 3))
    assert "".join(nib.aff2axcodes(volume.native.affine)) == code


def test_written_maps_lie_on_the_scan(tmp_path):
    scan = cases.save(tmp_path / "a.nii.gz", *cases.reorder(array(), np.eye(4), "PSL"))
    volume = volumes.read(scan)
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data * 2, like=volume)
    before, after = nib.load(scan), nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine)
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata() * 2)
    for get in ("get_sform", "get_qform"):
        matrix, code = getattr(after.header, get)(coded=True)
        assert code == 1
        np.testing.assert_allclose(matrix, before.affine, atol=1e-5)
    first = (tmp_path / "map.nii.gz").read_bytes()
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data * 2, like=volume)
    assert (tmp_path / "map.nii.gz").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".new")] == []


def test_slope_and_intercept_and_integers(tmp_path):
    image = nib.Nifti1Image(np.arange(720, dtype=np.int16).reshape(8, 9, 10), np.eye(4))
    image.header.set_slope_inter(0.5, -3.0)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_allclose(volumes.read(tmp_path / "a.nii").data, expected, rtol=1e-6)


def test_nifti_2_and_a_fourth_axis_of_one(tmp_path):
    nib.save(nib.Nifti2Image(array()[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volumes.read(tmp_path / "a.nii.gz").data, array())


def test_oblique_voxels_keep_their_place(tmp_path):
    grid = cases.box((1.0, 2.0, 3.0), turn=20.0)
    data = array(grid.shape)
    volume = volumes.read(cases.save(tmp_path / "a.nii", *cases.reorder(data, grid.affine, "LPI")))
    index = np.array([3, 4, 5, 1])
    np.testing.assert_allclose(volume.affine @ index, grid.affine @ index, atol=1e-3)
    assert volume.data[3, 4, 5] == data[3, 4, 5]


def test_nan_and_infinity_count_as_zero_and_are_remembered(tmp_path):
    data = array()
    data[1, 2, 3], data[2, 3, 4] = np.nan, np.inf
    volume = volumes.read(cases.save(tmp_path / "a.nii", *cases.reorder(data, np.eye(4), "LAS")))
    assert volume.data[1, 2, 3] == volume.data[2, 3, 4] == 0
    assert np.argwhere(volume.missing).tolist() == [[1, 2, 3], [2, 3, 4]]
    assert any("NaN" in text for text in volume.warnings)


def test_forms_that_disagree(tmp_path):
    image = nib.Nifti1Image(array(), np.eye(4))
    turned = np.diag([1.0, 1.0, 1.0, 1.0])
    turned[:3, 3] = 7
    image.set_sform(turned, 2)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "a.nii")
    volume = volumes.read(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.affine, turned)
    assert any("disagree by up to 12.1 mm" in text for text in volume.warnings)


def test_an_unusable_sform_gives_way_to_the_qform(tmp_path):
    image = nib.Nifti1Image(array(), np.eye(4))
    image.set_qform(np.diag([2.0, 2.0, 2.0, 1.0]), 1)
    image.set_sform(np.eye(4), 1)
    content = bytearray(image.to_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_allclose(volumes.read(tmp_path / "a.nii").voxel_mm, 2.0)


def test_no_orientation_is_said(tmp_path):
    volume = volumes.read(cases.save(tmp_path / "a.nii", array(), np.eye(4), code=0))
    assert any("left and right are a guess" in text for text in volume.warnings)


def damaged(folder, what):
    """Path of a file that is wrong in one way."""
    path = folder / f"{what}.nii.gz"
    content = gzip.compress(nib.Nifti1Image(array((16, 16, 16)), np.eye(4)).to_bytes())
    if what == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif what == "truncated_inside":
        path.write_bytes(gzip.compress(gzip.decompress(content)[:-100]))
    elif what == "flipped":
        path.write_bytes(content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    elif what == "no_header":
        path.write_bytes(gzip.compress(b"\0" * 4000))
    elif what == "text":
        path.write_bytes(b"not an image")
    elif what == "four":
        nib.save(nib.Nifti1Image(array((8, 8, 8, 3)), np.eye(4)), path)
    elif what == "flat":
        nib.save(nib.Nifti1Image(array((64, 64, 1)), np.eye(4)), path)
    elif what == "zeros":
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), path)
    elif what == "all_nan":
        nib.save(nib.Nifti1Image(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)), path)
    elif what == "complex":
        nib.save(nib.Nifti1Image(array().astype(np.complex64), np.eye(4)), path)
    elif what == "huge":
        header = nib.Nifti1Header()
        header.set_data_shape((32767, 32767, 32767))
        header["magic"], header["vox_offset"] = b"n+1", 352
        path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 100))
    elif what == "metres":
        nib.save(nib.Nifti1Image(array(), np.diag([1e-3, 1e-3, 1e-3, 1])), path)
        content = bytearray(gzip.decompress(path.read_bytes()))
        path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("truncated", "truncated or damaged"),
        ("truncated_inside", "truncated: 16636 of 16736 bytes"),
        ("flipped", "damaged"),
        ("no_header", "no header"),
        ("text", "no header"),
        ("four", r"4 dimensions \(8 x 8 x 8 x 3\)"),
        ("flat", "at least 8 a side"),
        ("zeros", "0 everywhere"),
        ("all_nan", "no finite value"),
        ("complex", "complex"),
        ("huge", "32767 x 32767 x 32767"),
        ("metres", "no usable grid"),
        ("missing", "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, what, text):
    path = damaged(tmp_path, what)
    with pytest.raises(errors.UserError, match=text) as error:
        volumes.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_masks_follow_their_own_header(tmp_path):
    data, mask = array(), array(seed=1) > 0
    scan = volumes.read(cases.save(tmp_path / "a.nii", *cases.reorder(data, np.eye(4), "PSR")))
    path = cases.save(tmp_path / "m.nii", *cases.reorder(mask, np.eye(4), "LIP"), kind=np.uint8)
    np.testing.assert_array_equal(volumes.read_labels(path, scan) > 0, mask)


def test_a_mask_without_orientation_shares_the_scans_array(tmp_path):
    data, mask = array(), array(seed=1) > 0
    scan = volumes.read(cases.save(tmp_path / "a.nii", *cases.reorder(data, np.eye(4), "PSR")))
    moved, _ = cases.reorder(mask, np.eye(4), "PSR")
    path = cases.save(tmp_path / "m.nii", moved, np.eye(4), kind=np.uint8, code=0)
    np.testing.assert_array_equal(volumes.read_labels(path, scan) > 0, mask)


def test_masks_of_another_grid_are_refused(tmp_path):
    scan = volumes.read(cases.save(tmp_path / "a.nii", array(), np.eye(4)))
    other = cases.save(tmp_path / "m.nii", np.ones((8, 9, 11)), np.eye(4))
    with pytest.raises(errors.UserError, match=r"8 x 9 x 11.*8 x 9 x 10"):
        volumes.read_labels(other, scan)
    moved = np.eye(4)
    moved[0, 3] = 30
    other = cases.save(tmp_path / "n.nii", np.ones((8, 9, 10)), moved)
    with pytest.raises(errors.UserError, match=r"30\.0 mm beside"):
        volumes.read_labels(other, scan)


def test_headers_alone_are_described(tmp_path):
    path = cases.save(tmp_path / "a.nii.gz", array(), np.diag([-1.0, 2.0, 3.0, 1.0]))
    assert volumes.describe(path) == "8 x 9 x 10 voxels of 1.00 x 2.00 x 3.00 mm, LAS"
    with pytest.raises(errors.UserError, match="4 dimensions"):
        volumes.describe(damaged(tmp_path, "four"))
