"""Damaged DICOM files: one line that names the file, within bounds, or the volume as it was."""

import numpy as np
import pydicom
import pytest
from pydicom import dataelem, tag, uid

from madad_jax.core import errors
from madad_jax.scans import dicom, dicom_frames, volumes
from tests.scans import dicom_writer
from tests.scans.dicom_writer import COUNT, check, save, series

DAMAGED = "0.dcm"  # The first slice: nothing but its own content tells that it is odd.


def _raw(name, value, vr="IS"):
    """An element with bytes that its kind does not allow."""

    def change(d):
        number = tag.Tag(pydicom.datadict.tag_for_keyword(name))
        d[number] = dataelem.RawDataElement(number, vr, len(value), value, 0, False, True)

    return change


def _set(**values):
    def change(d):
        for name, value in values.items():
            setattr(d, name, value)

    return change


def _without(name):
    return lambda d: delattr(d, name)


CASES = {
    "frames of no number": (_raw("NumberOfFrames", b"nine"), "NumberOfFrames|ValueError"),
    "frames below 0": (_raw("NumberOfFrames", b"-3"), "NumberOfFrames is -3"),
    "0 frames": (_raw("NumberOfFrames", b"0 "), "NumberOfFrames is 0"),
    "frames by the million": (_raw("NumberOfFrames", b"200000000 "), "NumberOfFrames is 200000000"),
    "more frames than pixels": (_raw("NumberOfFrames", b"3 "), "240 bytes of pixels.*720"),
    "two counts of frames": (_raw("NumberOfFrames", b"1\\2 "), "NumberOfFrames is"),
    "0 samples": (_set(SamplesPerPixel=0), "SamplesPerPixel is 0"),
    "empty samples": (_set(SamplesPerPixel=None), "SamplesPerPixel is None"),
    "no rows": (_without("Rows"), "Rows is None"),
    "0 columns": (_set(Columns=0), "Columns is 0"),
    "rows beyond the pixels": (_set(Rows=60000), "240 bytes of pixels.*1200000"),
    "huge rows and columns": (_set(Rows=65535, Columns=65535), "240 bytes of pixels.*8589672450"),
    "a row too few": (_set(Rows=11), "240 bytes of pixels.*220"),
    "pixels cut": (_set(PixelData=b"\1\0" * 119), "238 bytes of pixels.*240"),
    "no pixel data": (_without("PixelData"), "no pixels"),
    "0 pixels": (_set(PixelData=b""), "0 bytes of pixels"),
    "12 bits allocated": (_set(BitsAllocated=12), "12 bits a pixel"),
    "1 bit": (_set(BitsAllocated=1, BitsStored=1, HighBit=0), "1 bits a pixel"),
    "more stored than allocated": (_set(BitsStored=20, HighBit=19), "20 stored"),
    "bits at the top": (_set(HighBit=15), "stored up to bit 15"),
    "no position": (_without("ImagePositionPatient"), "lacks its place"),
    "empty position": (_raw("ImagePositionPatient", b"", "DS"), "lacks its place"),
    "two coordinates": (_raw("ImagePositionPatient", b"1\\2 ", "DS"), "ImagePositionPatient is"),
    "position of words": (_raw("ImagePositionPatient", b"a\\b\\c ", "DS"), "0.dcm"),
    "position nan": (_raw("ImagePositionPatient", b"1\\nan\\3", "DS"), "ImagePositionPatient is"),
    "position inf": (_raw("ImagePositionPatient", b"1\\inf\\3", "DS"), "ImagePositionPatient is"),
    "position far": (_raw("ImagePositionPatient", b"1\\2\\1e30", "DS"), "within 100000 mm"),
    "oblique axes": (_set(ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), "right angles"),
    "axes of length 0": (_set(ImageOrientationPatient=[0.0] * 6), "right angles"),
    "axes too long": (_set(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "right angles"),
    "axes nan": (_raw("ImageOrientationPatient", b"nan\\0\\0\\0\\1\\0", "DS"), "Orientation"),
    "five directions": (_raw("ImageOrientationPatient", b"1\\0\\0\\0\\1 ", "DS"), "Orientation"),
    "spacing 0": (_set(PixelSpacing=[0, 2]), "PixelSpacing is"),
    "spacing below 0": (_set(PixelSpacing=[1.5, -2]), "PixelSpacing is"),
    "spacing nan": (_raw("PixelSpacing", b"nan\\nan ", "DS"), "PixelSpacing is"),
    "spacing inf": (_raw("PixelSpacing", b"1.5\\inf ", "DS"), "PixelSpacing is"),
    "one spacing": (_raw("PixelSpacing", b"1.5 ", "DS"), "PixelSpacing is"),
    "slope 0": (_set(RescaleSlope="0"), "RescaleSlope is 0"),
    "slope nan": (_raw("RescaleSlope", b"nan ", "DS"), "RescaleSlope is"),
    "slope of words": (_raw("RescaleSlope", b"steep ", "DS"), "0.dcm"),
    "two intercepts": (_raw("RescaleIntercept", b"1\\2 ", "DS"), "RescaleIntercept is"),
    "table of values": (_set(ModalityLUTSequence=[pydicom.Dataset()]), "Modality LUT"),
    "unknown photometric": (_raw("PhotometricInterpretation", b"GREY", "CS"), "GREY"),
    "unknown compression": (None, "transfer syntax 1.2.3.4.5.6"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_slice_is_named_in_one_line(tmp_path, case):
    path, (change, text) = series(tmp_path / "s"), CASES[case]
    d = pydicom.dcmread(tmp_path / "s" / DAMAGED)
    if change is None:
        d.file_meta.TransferSyntaxUID = "1.2.3.4.5.6"
    else:
        change(d)
    d.save_as(tmp_path / "s" / DAMAGED)
    with pytest.raises(errors.UserError, match=text) as caught:
        volumes.read(path)
    assert DAMAGED in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 + len(path)


@pytest.mark.parametrize("name", ["NumberOfFrames", "RescaleSlope"])
def test_an_empty_element_counts_as_absent(tmp_path, name):
    def change(k, d):
        if name == "RescaleSlope":
            d.RescaleIntercept = None
        setattr(d, name, None)

    volume = volumes.read(series(tmp_path / "s", change=change))
    if name == "RescaleSlope":
        assert volume.data.max() == dicom_writer.PIXELS.max()
    else:
        check(volume)


def test_padding_behind_the_pixels_is_ignored(tmp_path):
    def change(k, d):
        d.PixelData += b"\0" * 8

    check(volumes.read(series(tmp_path / "s", change=change)))


def test_a_bare_series_of_wrong_frames(tmp_path):
    """An enhanced image whose groups are fewer than its frames."""
    d = dicom_writer.multi_frame()
    del d.PerFrameFunctionalGroupsSequence[4:]
    with pytest.raises(errors.UserError, match=r"one\.dcm' is a damaged DICOM file .IndexError"):
        volumes.read(save(tmp_path / "s", {"one.dcm": d}))


def test_packed_pixels_that_claim_far_more_are_refused(tmp_path):
    def change(k, d):
        d.Rows = d.Columns = 20000
        d.PixelData, d.file_meta.TransferSyntaxUID = (
            pydicom.encaps.encapsulate([b"\0" * 64]),
            uid.RLELossless,
        )
        d["PixelData"].VR = "OB"

    with pytest.raises(errors.UserError, match=r"unpacks from .* to 800000000 bytes or more"):
        volumes.read(series(tmp_path / "s", change=change))


def test_a_series_of_too_many_voxels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "_MOST_VOXELS", COUNT * 12 * 10 - 1)
    monkeypatch.setattr(dicom_frames, "read_values", None)  # Before any pixel is unpacked.
    with pytest.raises(errors.UserError, match="9 images of 12 x 10 pixels; accepted: at most"):
        volumes.read(series(tmp_path / "s"))


def _flip(content, rng):
    """Some bytes of other values, a part cut out, or the end cut off."""
    content = bytearray(content)
    what = rng.integers(4)
    if what == 0:
        return bytes(content[: rng.integers(len(content))])
    if what == 1:
        start = int(rng.integers(132, len(content)))
        del content[start : start + int(rng.integers(1, 30))]
        return bytes(content)
    end = len(content) if what == 2 else 600  # The header alone, or anywhere.
    for at in rng.integers(132, end, rng.integers(1, 8)):
        content[at] = rng.integers(256)
    return bytes(content)


@pytest.mark.parametrize(
    "count", [40, pytest.param(600, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_gives_a_line_or_a_volume(tmp_path, count):
    path = series(tmp_path / "s")
    names = sorted(p.name for p in (tmp_path / "s").iterdir())
    for seed in range(count):
        rng = np.random.default_rng(seed)
        file = tmp_path / "s" / names[rng.integers(len(names))]
        whole = file.read_bytes()
        file.write_bytes(_flip(whole, rng))
        try:
            volume = volumes.read(path)
        except errors.UserError as error:
            assert "\n" not in str(error), seed
        else:
            assert np.isfinite(volume.data).all(), seed
            # A slice that went missing is said.
            assert volume.data.size == dicom_writer.PIXELS.size or volume.warnings, seed
        file.write_bytes(whole)
    check(volumes.read(path))
