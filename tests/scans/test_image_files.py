"""MGH, NRRD and MHA against NIfTI files of the same array, and headers that may not be believed."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from madad_jax.core import errors
from madad_jax.data import scan_names
from madad_jax.scans import itk_file, mgh_file, volumes

SHAPE = (12, 14, 9)
DATA = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)


def _turn(angles):
    out = np.eye(3)
    for (i, j), angle in zip(((0, 1), (1, 2), (0, 2)), angles, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        one = np.eye(3)
        one[i, i] = one[j, j] = c
        one[i, j], one[j, i] = -s, s
        out = out @ one
    return out


def _affine(angles, order=(0, 1, 2), signs=(1, 1, 1)):
    matrix = np.eye(4)
    matrix[:3, :3] = (_turn(angles) * (1.1, 0.9, 2.5) * signs)[:, list(order)]
    matrix[:3, 3] = (-61.25, 33.5, -20.125)
    return matrix


AFFINES = {
    "upright": _affine((0, 0, 0)),
    "oblique": _affine((0.3, -0.2, 0.15)),
    "flipped": _affine((0.1, 0.2, -0.3), signs=(-1, 1, -1)),
    "mirrored": _affine((0.1, 0, 0), signs=(-1, 1, 1)),
    "sagittal": _affine((0.05, 0.1, 0.2), order=(1, 2, 0), signs=(1, -1, 1)),
}


def _itk_image(affine, array=DATA):
    """As SimpleITK has it: axes to the left and the back."""
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    flip = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing(sides.tolist())
    image.SetDirection((flip @ affine[:3, :3] / sides).ravel().tolist())
    image.SetOrigin((flip @ affine[:3, 3]).tolist())
    return image


def _write(path, affine=AFFINES["oblique"], array=DATA, packed=True):
    if path.name.endswith(mgh_file.ENDINGS):
        nib.save(nib.MGHImage(array, affine), path)
    else:
        sitk.WriteImage(_itk_image(affine, array), str(path), packed)
    return path


@pytest.mark.parametrize("place", AFFINES)
@pytest.mark.parametrize("name", ["x.mgz", "x.mgh", "x.nrrd", "x.mha", "plain.nrrd", "plain.mha"])
def test_voxels_lie_where_those_of_the_same_nifti_file_lie(tmp_path, name, place):
    affine = AFFINES[place]
    image = nib.Nifti1Image(DATA, affine)
    nib.save(image, tmp_path / "same.nii")
    expected = volumes.read(tmp_path / "same.nii")
    path = _write(tmp_path / name, affine, packed=not name.startswith("plain"))
    found = volumes.read(path)
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(found.native.affine, affine, atol=1e-4)
    assert found.warnings == () and found.native.header is None and len(found.sha256) == 64
    # Maps are NIfTI on the scan's own grid.
    volumes.write_nifti(tmp_path / "map.nii.gz", found.data, like=found)
    again = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(np.asarray(again.dataobj), DATA)
    np.testing.assert_allclose(again.affine, affine, atol=1e-4)
    assert volumes.describe(path).startswith("12 x 14 x 9 voxels of ")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_numbers_of_every_kind(tmp_path, ending, kind):
    array = (DATA // 4).astype(kind)
    found = volumes.read(_write(tmp_path / f"x{ending}", np.diag([1.0, 1, 2, 1]), array))
    np.testing.assert_array_equal(found.data, array.astype(np.float32))


def test_masks_of_other_formats_lie_on_their_scan(tmp_path):
    scan = volumes.read(_write(tmp_path / "scan.mgz"))
    for name in ("mask.nrrd", "mask.mgz", "mask.mha"):
        path = _write(tmp_path / name, array=(DATA > 500).astype(np.uint8))
        mask = volumes.read_labels(path, scan)
        np.testing.assert_array_equal(mask > 0, scan.data > 500)
    moved = AFFINES["oblique"].copy()
    moved[0, 3] += 30
    with pytest.raises(errors.UserError, match=r"30\.0 mm beside"):
        volumes.read_labels(_write(tmp_path / "far.nrrd", moved, np.ones(SHAPE, np.uint8)), scan)


def _change(path, *pairs):
    content = path.read_bytes()
    for old, new in pairs:
        assert old in content
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


SECRET = b"secret.raw"
ODD_NRRD = {
    "detached": ((b"encoding: raw", b"data file: " + SECRET + b"\nencoding: raw"), "another file"),
    "list": ((b"encoding: raw", b"datafile: LIST\nencoding: raw"), "another file"),
    "skip": ((b"encoding: raw", b"byte skip: 9999\nencoding: raw"), "byte skip"),
    "hex": ((b"encoding: raw", b"encoding: hex"), "accepted: raw, gzip"),
    "twice": ((b"encoding: raw", b"encoding: raw\nencoding: raw"), "twice"),
    "bomb": ((b"sizes: 12 14 9", b"sizes: 1000 1000 1000"), "is truncated"),
    "larger": ((b"sizes: 12 14 9", b"sizes: 99999 99999 9"), "at most"),
    "short": ((b"sizes: 12 14 9", b"sizes: 12 13 9"), "longer than its header says"),
    "colour": ((b"kinds: domain", b"kinds: RGB-color"), "colour"),
    "block": ((b"type: short", b"type: block"), "colour, bits"),
    "space": ((b"left-posterior-superior", b"scanner-xyz"), "space is 'scanner-xyz'"),
    "words": ((b"space origin: (", b"space origin: (nan,"), "space origin"),
    "flat": ((b"space directions: (", b"space directions: (0,0,0) #("), "space directions"),
    "end": ((b"\n\n", b"\n"), "empty line"),
}


@pytest.mark.parametrize("what", ODD_NRRD)
def test_an_nrrd_header_that_is_not_believed(tmp_path, what):
    (tmp_path / "secret.raw").write_bytes(DATA.tobytes())
    path = _write(tmp_path / "x.nrrd", packed=False)
    change, text = ODD_NRRD[what]
    with pytest.raises(errors.UserError, match=text) as error:
        volumes.read(_change(path, change))
    assert "x.nrrd'" in str(error.value) and "\n" not in str(error.value)


ODD_MHA = {
    "detached": ((b"= LOCAL", b"= " + SECRET), "another file"),
    "list": ((b"= LOCAL", b"= LIST"), "another file"),
    "pattern": ((b"= LOCAL", b"= %03d.raw 1 9 1"), "another file"),
    "bomb": ((b"DimSize = 12 14 9", b"DimSize = 1000 1000 1000"), "is truncated"),
    "four": ((b"NDims = 3", b"NDims = 4"), "DimSize"),
    "colour": ((b"ElementType", b"ElementNumberOfChannels = 3\nElementType"), "colour"),
    "array": ((b"MET_SHORT", b"MET_SHORT_ARRAY"), "colour, bits"),
    "slope": ((b"DimSize", b"ElementToIntensityFunctionSlope = 2\nDimSize"), "Slope is '2'"),
    "matrix": ((b"TransformMatrix = ", b"TransformMatrix = inf "), "TransformMatrix"),
    "text": ((b"BinaryData = True", b"BinaryData = False"), "BinaryData"),
    "none": ((b"ElementDataFile", b"ElementData"), "no MHA file"),
}


@pytest.mark.parametrize("what", ODD_MHA)
def test_an_mha_header_that_is_not_believed(tmp_path, what):
    (tmp_path / "secret.raw").write_bytes(DATA.tobytes())
    path = _write(tmp_path / "x.mha", packed=False)
    change, text = ODD_MHA[what]
    with pytest.raises(errors.UserError, match=text) as error:
        volumes.read(_change(path, change))
    assert "x.mha'" in str(error.value) and "\n" not in str(error.value)


def test_headers_that_state_no_orientation_are_flagged(tmp_path):
    nrrd = _write(tmp_path / "x.nrrd", np.diag([1.0, 1, 2, 1]), packed=False)
    _change(nrrd, (b"space: left-posterior-superior", b"space dimension: 3"))
    mha = _write(tmp_path / "x.mha", packed=False)
    _change(mha, (b"TransformMatrix", b"Was"))
    mgh = _write(tmp_path / "x.mgh")
    content = bytearray(mgh.read_bytes())
    content[28:30] = b"\0\0"
    mgh.write_bytes(content)
    for path in (nrrd, mha, mgh):
        (said,) = volumes.read(path).warnings
        assert said.endswith("left and right are a guess")


@pytest.mark.parametrize("name", ["x.mgz", "x.nrrd", "x.mha"])
def test_damage_of_a_packed_file_is_one_line(tmp_path, name):
    path = _write(tmp_path / name)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[: len(whole) // 2], whole[:-9] + b"\x55" + whole[-8:], b""):
        path.write_bytes(damaged)
        with pytest.raises(errors.UserError, match=f"{name}'"):
            volumes.read(path)


def test_what_unpacks_to_more_than_it_says_is_not_unpacked(tmp_path):
    bomb = b"\0" * 2**26
    nrrd, mha = _write(tmp_path / "x.nrrd", packed=False), _write(tmp_path / "x.mha", packed=False)
    start, _, _ = nrrd.read_bytes().partition(b"\n\n")
    start = start.replace(b"encoding: raw", b"encoding: gzip")
    nrrd.write_bytes(start + b"\n\n" + gzip.compress(bomb, 1))
    start, _, _ = mha.read_bytes().partition(b"= LOCAL\n")
    start = start.replace(b"CompressedData = False", b"CompressedData = True")
    mha.write_bytes(start + b"= LOCAL\n" + zlib.compress(bomb, 1))
    mgz = _write(tmp_path / "x.mgz")
    mgz.write_bytes(gzip.compress(gzip.decompress(mgz.read_bytes()) + bomb, 1))
    for path in (nrrd, mha, mgz):
        with pytest.raises(errors.UserError, match="longer than its header says"):
            volumes.read(path)


@pytest.mark.parametrize(
    ("at", "value", "text"),
    [
        (4, 10**6, "is truncated"),
        (4, 3, "at least 8"),
        (16, 2, "2 volumes"),
        (20, 2, "colour, bits"),
        (0, 7, "no MGH file"),
    ],
)
def test_an_mgh_header_that_is_not_believed(tmp_path, at, value, text):
    path = _write(tmp_path / "x.mgh")
    content = bytearray(path.read_bytes())
    content[at : at + 4] = value.to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=text):
        volumes.read(path)


def test_analyze_and_headers_apart_are_refused(tmp_path):
    nib.save(nib.AnalyzeImage(DATA, np.eye(4)), tmp_path / "x.img")
    with pytest.raises(errors.UserError, match="Analyze, which does not state its orientation"):
        volumes.read(tmp_path / "x.hdr")
    for name in ("x.nhdr", "x.mhd"):
        sitk.WriteImage(_itk_image(AFFINES["oblique"]), str(tmp_path / name))
        with pytest.raises(errors.UserError, match="another file, which is not followed"):
            volumes.read(tmp_path / name)


def test_folders_are_searched_for_what_is_read():
    endings = {".nii.gz", ".nii", *mgh_file.ENDINGS, itk_file.NRRD, itk_file.MHA}
    assert set(scan_names.IMAGES) == endings
    assert {scan_names.stem(f"a.b{ending}") for ending in endings} == {"a.b"}
