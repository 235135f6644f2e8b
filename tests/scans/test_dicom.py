"""DICOM series: order, place, values, and stacks that are no single volume."""

import numpy as np
import pydicom
import pytest
from pydicom import uid

from madad_jax.core import errors
from madad_jax.scans import volumes
from tests.scans.dicom_writer import (
    COLUMN_DIRECTION,
    COUNT,
    FIRST,
    PIXELS,
    ROW_DIRECTION,
    STEP,
    check,
    image,
    multi_frame,
    save,
    series,
)

SLOPES = [0.001 * (k + 1) + 1e-7 for k in range(COUNT)]
INTERCEPTS = [k - 4.5 for k in range(COUNT)]


def test_a_series(tmp_path):
    path = series(tmp_path / "s")
    (tmp_path / "s" / "notes.txt").write_text("beside the series")
    volume = volumes.read(path)
    check(volume)
    assert volume.warnings == ()
    np.testing.assert_allclose(sorted(volume.voxel_mm), (1.5, 2.0, 3.0))
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data, like=volume)
    again = volumes.read(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    assert b"Doe" not in (tmp_path / "map.nii.gz").read_bytes()


@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["one slope", "a slope a frame"])
def test_one_multi_frame_file(tmp_path, slopes):
    intercepts = INTERCEPTS if slopes else None
    path = save(tmp_path / "m", {"one.dcm": multi_frame(slopes, intercepts)})
    check(volumes.read(path), slopes, intercepts)


def test_a_slope_for_each_slice(tmp_path):
    def change(k, d):
        d.RescaleSlope, d.RescaleIntercept = str(SLOPES[k]), str(INTERCEPTS[k])

    check(volumes.read(series(tmp_path / "s", change=change)), SLOPES, INTERCEPTS)


@pytest.mark.parametrize("signed", [0, 1])
def test_values_of_monochrome1_are_turned(tmp_path, signed):
    """Low values are bright: the ends of the stored range change places, before the slope."""
    ends = -1 if signed else 4095

    def change(k, d):
        stored = ends - PIXELS[k].astype(np.int32) // (2 if signed else 1)
        d.PhotometricInterpretation, d.PixelRepresentation = "MONOCHROME1", signed
        d.PixelData = stored.astype(np.int16).tobytes()

    turned = volumes.read(series(tmp_path / "turned", change=change))

    def plain(k, d):
        d.PixelData = (PIXELS[k] // (2 if signed else 1)).tobytes()

    expected = volumes.read(series(tmp_path / "plain", change=plain))
    np.testing.assert_array_equal(turned.data, expected.data)


def test_a_constant_step_in_the_plane_is_exact(tmp_path):
    step = STEP + 0.7 * ROW_DIRECTION

    def change(k, d):
        d.ImagePositionPatient = list(FIRST + k * step)

    volume = volumes.read(series(tmp_path / "s", change=change))
    lps = FIRST + 6 * step + 2.0 * 4 * ROW_DIRECTION + 1.5 * 8 * COLUMN_DIRECTION
    index = np.linalg.inv(volume.affine) @ [-lps[0], -lps[1], lps[2], 1.0]
    np.testing.assert_allclose(index, np.round(index), atol=1e-4)
    x, y, z = np.round(index[:3]).astype(int)
    assert volume.data[x, y, z] == PIXELS[6, 8, 4] * 2.0 - 10.0


@pytest.mark.parametrize(
    ("moved", "mm"),
    [
        ({4: 5.0}, 5.0),  # one slice
        ({k: 20.0 for k in range(5, COUNT)}, 20 * 4 / 8),  # the second half
        ({0: -2.0}, 2 * 7 / 8),  # the first one, which the line begins with
        ({k: 0.1 * k * (8 - k) for k in range(COUNT)}, 1.6),  # along a bow
    ],
    ids=["one", "half", "first", "bow"],
)
def test_slices_that_jump_in_the_plane_are_refused(tmp_path, moved, mm):
    def change(k, d):
        d.ImagePositionPatient = list(FIRST + k * STEP + moved.get(k, 0.0) * ROW_DIRECTION)

    with pytest.raises(errors.UserError, match=f"{mm:.2f} mm beside the line"):
        volumes.read(series(tmp_path / "s", change=change))


def test_positions_of_few_digits_are_read(tmp_path):
    def change(k, d):
        d.ImagePositionPatient = [round(float(v), 1) for v in FIRST + k * STEP]

    volumes.read(series(tmp_path / "s", change=change))


@pytest.mark.parametrize(("mm", "digits"), [(0.45, 1), (0.55, 1), (3.3, 0)])
def test_fine_steps_that_were_rounded_are_read(tmp_path, mm, digits):
    def change(k, d):
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient = [0, 0, round(10.07 + mm * k, digits)]

    volume = volumes.read(series(tmp_path / "s", count=60, change=change))
    np.testing.assert_allclose(volume.voxel_mm[2], mm, rtol=0.01)


@pytest.mark.parametrize("gone", [1, 30, 58])
def test_a_slice_missing_among_rounded_steps_is_refused(tmp_path, gone):
    def change(k, d):
        d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        d.ImagePositionPatient = [0, 0, round(10.07 + 0.45 * (k + (k >= gone)), 1)]

    with pytest.raises(errors.UserError, match="a slice is missing"):
        volumes.read(series(tmp_path / "s", count=59, change=change))


def _keep(folder, kept):
    """Slices of 24 at 3 mm that are left."""
    images = {}
    for k in kept:
        d = image(k)
        d.ImagePositionPatient = list(FIRST + k * STEP)
        images[f"IM{k:02d}.dcm"] = d
    return save(folder, images)


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ([*range(10), *range(11, 24)], r"IM09.*IM11.*6\.00 mm apart, the others 3\.00 mm: a slice"),
        # Every other one of the upper half, and more of the wide steps than of the others.
        ([*range(9), *range(10, 24, 2)], r"IM08.*IM10.*6\.00 mm apart, the others 3\.00 mm"),
        ([*range(0, 14, 2), *range(14, 20)], r"IM00.*IM02.*6\.00 mm apart, the others 3\.00 mm"),
        ([*range(0, 8, 2), *range(8, 12)], r"IM00.*IM02.*6\.00 mm apart, the others 3\.00 mm"),
        ([*range(24), 12.5], r"1\.50 mm apart, the others 3\.00 mm: an image lies"),
    ],
    ids=["one", "upper half", "lower half", "as many", "between"],
)
def test_the_place_of_a_missing_slice_is_named(tmp_path, kept, text):
    if 12.5 in kept:
        path = _keep(tmp_path / "s", [k for k in kept if k != 12.5])
        between = image(90, ImagePositionPatient=list(FIRST + 12.5 * STEP))
        save(tmp_path / "s", {"x.dcm": between})
    else:
        path = _keep(tmp_path / "s", kept)
    with pytest.raises(errors.UserError, match=text):
        volumes.read(path)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"x.dcm": image(4, SOPInstanceUID="9.9", EchoTime=80.0)}, None),  # equal pixels: a copy
        (
            {f"x{k}.dcm": image(k, SOPInstanceUID=f"9.{k}", PixelData=PIXELS[k - 1].tobytes())
             for k in range(COUNT)},
            "at one position; accepted: one volume .split echoes",
        ),
        ({"x.dcm": image(77, SamplesPerPixel=3, PhotometricInterpretation="RGB")}, "colour.*RGB"),
        ({"x.dcm": image(77, PhotometricInterpretation="PALETTE COLOR")}, "colour.*PALETTE"),
    ],
    ids=["copy", "echoes", "RGB", "palette"],
)  # fmt: skip
def test_what_is_no_single_volume(tmp_path, more, text):
    path = series(tmp_path / "s")
    save(tmp_path / "s", more)
    if text is None:
        return check(volumes.read(path))
    with pytest.raises(errors.UserError, match=text) as error:
        volumes.read(path)
    assert path in str(error.value)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.ImplicitVRLittleEndian])
def test_other_encodings_of_the_same_pixels(tmp_path, syntax):
    def change(k, d):
        if syntax == uid.RLELossless:
            d.compress(syntax, generate_instance_uid=False)
        else:
            d.file_meta.TransferSyntaxUID = syntax

    check(volumes.read(series(tmp_path / "s", change=change)))


def test_a_missing_slice_at_the_end_cannot_be_known(tmp_path):
    path = series(tmp_path / "s")
    (tmp_path / "s" / "0.dcm").unlink()
    assert sorted(volumes.read(path).data.shape) == [COUNT - 1, 10, 12]


def test_no_place_in_space_and_no_images(tmp_path):
    broken = {f"{k}.dcm": image(k) for k in range(COUNT)}
    del broken["3.dcm"]["ImagePositionPatient"]
    with pytest.raises(errors.UserError, match=r"3\.dcm' lacks its place in space"):
        volumes.read(save(tmp_path / "s", broken))
    (tmp_path / "e").mkdir()
    with pytest.raises(errors.UserError, match="no DICOM images"):
        volumes.read(tmp_path / "e")


def test_a_compression_that_cannot_be_read(tmp_path):
    def change(k, d):
        d.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f garbage "])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless

    with pytest.raises(errors.UserError, match=r"\.dcm': pixels cannot be decoded"):
        volumes.read(series(tmp_path / "s", change=change))
