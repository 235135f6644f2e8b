"""Where voxels lie: for this package, and for readers that trust the header's other matrix."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from madad_jax.core import errors
from madad_jax.scans import volumes
from tests.scans import cases, forms

turn, AFFINE, DATA, save = forms.turn, forms.AFFINE, forms.DATA, forms.save


def see(path):
    """Origin, direction and spacing, as ITK reads them."""
    image = sitk.ReadImage(str(path))
    return np.array([*image.GetOrigin(), *image.GetDirection(), *image.GetSpacing()])


@pytest.mark.parametrize("other", forms.OTHERS)
@pytest.mark.parametrize("codes", forms.CODES, ids=str)
def test_maps_lie_on_the_scan_for_every_reader(tmp_path, codes, other):
    scan = save(tmp_path / "scan.nii", codes, forms.OTHERS[other])
    volume = volumes.read(scan)
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data, like=volume)
    np.testing.assert_array_equal(see(tmp_path / "map.nii.gz"), see(scan))
    before, after = nib.load(scan), nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.get_fdata(), before.get_fdata())
    image = volumes.to_image(volume.data, like=volume)
    np.testing.assert_allclose(image.affine, before.affine)
    nib.save(image, tmp_path / "again.nii")
    np.testing.assert_allclose(see(tmp_path / "again.nii"), see(scan), atol=1e-5)


FIELDS = (
    *("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c"),
    *("quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units"),
)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("unit", ["mm", "unknown", "meter", "micron"])
@pytest.mark.parametrize("qfac", [1.0, 0.0, -1.0])
def test_maps_keep_the_scans_geometry_fields(tmp_path, kind, unit, qfac):
    per_mm = {"meter": 1e-3, "micron": 1e3}.get(unit, 1.0)
    scale = np.diag([per_mm] * 3 + [1.0])
    scan = save(
        tmp_path / "scan.nii", (2, 1), scale @ turn(10) @ AFFINE, kind, scale @ AFFINE, unit
    )
    made = bytearray(scan.read_bytes())
    size = kind.header_class.sizeof_hdr
    header = kind.header_class(bytes(made[:size]), check=False)
    header["pixdim"][0] = qfac
    made[:size] = header.binaryblock
    scan.write_bytes(bytes(made))
    volume = volumes.read(scan)
    np.testing.assert_allclose(volume.voxel_mm, (1, 1, 1.5), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data > 9, like=volume)
    written = gzip.decompress((tmp_path / "map.nii.gz").read_bytes())
    written = kind.header_class(written[:size], check=False)
    for name in FIELDS:
        np.testing.assert_array_equal(written[name], header[name], err_msg=name)
    np.testing.assert_array_equal(written["pixdim"][:4], header["pixdim"][:4])
    assert nib.load(tmp_path / "map.nii.gz").affine == pytest.approx(nib.load(scan).affine)
    again = volumes.read_labels(tmp_path / "map.nii.gz", volume)
    np.testing.assert_array_equal(again > 0, volume.data > 9)


@pytest.mark.parametrize(("unit", "name", "size"), [("meter", "metres", 1e-3),
                                                    ("micron", "micrometres", 1e3)])  # fmt: skip
@pytest.mark.parametrize("codes", [(1, 1), (0, 1), (0, 0)], ids=str)
def test_metres_and_micrometres_become_mm(tmp_path, unit, name, size, codes):
    """As SimpleITK reads them: sizes and places in mm, volumes in ml."""
    scale = np.diag([size] * 3 + [1.0])
    other = save(tmp_path / "other.nii", codes, scale @ AFFINE, sform=scale @ AFFINE, unit=unit)
    plain = volumes.read(save(tmp_path / "mm.nii", codes))
    volume = volumes.read(other)
    np.testing.assert_allclose(volume.affine, plain.affine, atol=1e-4)
    assert volume.voxel_ml == pytest.approx(0.0015)
    assert f"the header counts in {name}; read as mm" in volume.warnings
    np.testing.assert_allclose(see(other)[-3:], (1, 1, 1.5), rtol=1e-5)
    if codes != (0, 0):
        np.testing.assert_allclose(see(other), see(tmp_path / "mm.nii"), atol=1e-4)
    assert "of 1.00 x 1.00 x 1.50 mm" in volumes.describe(other)
    assert "counts in" in volumes.describe(other)
    image = volumes.from_image(nib.load(other))
    np.testing.assert_allclose(image.affine, volume.affine, atol=1e-4)
    volumes.write_nifti(tmp_path / "mask.nii", plain.data > 600, like=plain)
    labels = volumes.read_labels(tmp_path / "mask.nii", volume)
    np.testing.assert_array_equal(labels, plain.data > 600)


@pytest.mark.parametrize(("unit", "text"), [("meter", "from metres"), ("micron", "from micromet")])
def test_units_that_cannot_be_meant_are_named(tmp_path, unit, text):
    path = save(tmp_path / "a.nii", unit=unit)  # Voxels of 1 m, or of a thousandth of a mm.
    for work in (volumes.read, volumes.describe):
        with pytest.raises(errors.UserError, match=rf"no usable grid.*{text}"):
            work(path)


def test_small_numbers_without_a_unit_stay_millimetres(tmp_path):
    scale = np.diag([1e-3] * 3 + [1.0])
    path = save(tmp_path / "a.nii", (1, 1), scale @ AFFINE, sform=scale @ AFFINE, unit="unknown")
    with pytest.raises(errors.UserError, match=r"no usable grid.*names no unit"):
        volumes.read(path)


def shear(degrees):
    matrix = np.eye(4)
    matrix[1, 2] = np.tan(np.deg2rad(degrees))
    return matrix @ AFFINE


@pytest.mark.parametrize("degrees", [0.1, 5, 15, 25])
@pytest.mark.parametrize("turned", [0, 30])
def test_a_shear_that_no_qform_can_hold_is_no_disagreement(tmp_path, degrees, turned):
    sform = turn(turned) @ shear(degrees)
    path = save(tmp_path / "a.nii", (1, 1), sform, sform=sform)  # nibabel takes the shear out.
    assert volumes.read(path).warnings == ()
    moved = sform.copy()
    moved[0, 3] += 5
    path = save(tmp_path / "b.nii", (1, 1), moved, sform=sform)
    assert any("disagree by up to" in text for text in volumes.read(path).warnings)


FLIPS = {
    "left and right": (-1, 1, 1),
    "left and right, front and back": (-1, -1, 1),
    "front and back, top and bottom": (1, -1, -1),
}


@pytest.mark.parametrize("words", FLIPS)
def test_matrices_that_disagree_about_a_direction_are_said(tmp_path, words):
    path = save(tmp_path / "a.nii", (2, 1), np.diag([*FLIPS[words], 1.0]) @ AFFINE)
    (text,) = volumes.read(path).warnings
    assert text.endswith(f"the sform is used: {words} are a guess")
    assert text in volumes.describe(path)


def test_a_mirror_puts_left_and_right_in_doubt_whatever_the_axis(tmp_path):
    path = save(tmp_path / "a.nii", (2, 1), np.diag([1.0, -1, 1, 1]) @ AFFINE)
    assert "left and right, front and back are a guess" in volumes.read(path).warnings[0]


def test_a_turn_across_45_degrees_exchanges_no_sides(tmp_path):
    path = save(tmp_path / "a.nii", (2, 1), turn(50) @ AFFINE, sform=turn(40) @ AFFINE)
    (text,) = volumes.read(path).warnings
    assert "disagree by up to" in text and "guess" not in text


def test_series_and_arrays_keep_what_they_had(tmp_path):
    """Without a header both matrices are the volume's, code 1, in mm."""
    volume = cases.volume(DATA, turn(10) @ AFFINE)
    volumes.write_nifti(tmp_path / "map.nii", volume.data, like=volume)
    header = nib.load(tmp_path / "map.nii").header
    for get in (header.get_sform, header.get_qform):
        matrix, code = get(coded=True)
        assert code == 1
        np.testing.assert_allclose(matrix, turn(10) @ AFFINE, atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


def test_viewers_open_maps_with_limits(tmp_path):
    volume = volumes.read(save(tmp_path / "a.nii"))
    for array, limits, expected in (
        (volume.data, (0.0, 0.75), (0, 0.75)),
        (volume.data > 800, None, (0, 1)),
        (volume.data < 0, None, (0, 1)),
        (volume.data * 0, None, (0, 1)),
        (volume.data - 1000, None, (volume.data.min() - 1000, volume.data.max() - 1000)),
    ):
        volumes.write_nifti(tmp_path / "map.nii", array, like=volume, limits=limits)
        header = nib.load(tmp_path / "map.nii").header
        assert (header["cal_min"], header["cal_max"]) == expected


def test_other_programs_get_one_matrix_in_mm(tmp_path):
    scale = np.diag([1e-3] * 3 + [1.0])
    path = save(
        tmp_path / "a.nii",
        (2, 1),
        scale @ forms.mirrored(AFFINE),
        sform=scale @ AFFINE,
        unit="meter",
    )
    volume = volumes.read(path)
    volumes.write_nifti(tmp_path / "b.nii", volume.data, like=volumes.forget_header(volume))
    header = nib.load(tmp_path / "b.nii").header
    np.testing.assert_allclose(header.get_sform(), AFFINE, atol=1e-5)
    np.testing.assert_allclose(header.get_qform(), AFFINE, atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("longer", [1.0000003, 1.0003, 1.01])
def test_a_quaternion_longer_than_1_is_made_1_as_itk_does(tmp_path, longer):
    """Written with few digits: a scan that lies turned about z by half a turn."""
    path = save(tmp_path / "scan.nii", (0, 1), turn(180) @ AFFINE)
    made = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(made[:348]), check=False)
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0, longer
    made[:348] = header.binaryblock
    path.write_bytes(bytes(made))
    volume = volumes.read(path)
    assert volume.warnings == ()
    np.testing.assert_allclose(volume.native.affine, turn(180) @ AFFINE, atol=1e-4)
    seen = sitk.ReadImage(str(path))
    last = np.array(seen.TransformIndexToPhysicalPoint([n - 1 for n in forms.SHAPE]))
    index = volume.native.affine @ [*(n - 1 for n in forms.SHAPE), 1]
    np.testing.assert_allclose(last * (-1, -1, 1), index[:3], atol=1e-3)
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data, like=volume)
    np.testing.assert_array_equal(see(tmp_path / "map.nii.gz"), see(path))
