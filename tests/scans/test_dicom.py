"""DICOM series: order, place, slope, multi-frame, and what is refused."""

import copy

import numpy as np
import pydicom
import pytest
from pydicom import dataset, uid

from madad_jax.core import errors
from madad_jax.scans import volumes

ROWS, COLUMNS, COUNT = 12, 10, 9
# Sagittal slices, turned a little: columns run to the back, rows downwards.
ROW_DIRECTION = np.array([0.0, np.cos(0.2), np.sin(0.2)])
COLUMN_DIRECTION = np.array([0.0, np.sin(0.2), -np.cos(0.2)])
NORMAL = np.cross(ROW_DIRECTION, COLUMN_DIRECTION)
FIRST = np.array([10.0, -20.0, 30.0])
PIXELS = np.random.default_rng(0).integers(1, 3000, (COUNT, ROWS, COLUMNS)).astype(np.uint16)


def image(number=0, series="1.2.3"):
    meta = dataset.FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
    d = dataset.Dataset()
    d.file_meta = meta
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"{series}.{number + 1}"
    d.PatientName, d.SeriesInstanceUID, d.Modality = "Doe^Jane", series, "MR"
    d.Rows, d.Columns, d.SamplesPerPixel = ROWS, COLUMNS, 1
    d.PhotometricInterpretation, d.PixelRepresentation = "MONOCHROME2", 0
    d.BitsAllocated, d.BitsStored, d.HighBit = 16, 12, 11
    d.PixelSpacing = [1.5, 2.0]  # Between rows, between columns.
    d.ImageOrientationPatient = [*ROW_DIRECTION, *COLUMN_DIRECTION]
    d.ImagePositionPatient = list(FIRST + 3.0 * number * NORMAL)
    d.RescaleSlope, d.RescaleIntercept = "2.0", "-10"
    d.PixelData = PIXELS[number].tobytes()
    return d


def save(folder, images):
    folder.mkdir(exist_ok=True)
    for name, d in images.items():
        pydicom.dcmwrite(folder / name, d, enforce_file_format=True)
    return str(folder)


def series(folder, count=COUNT):
    # File names in another order than the slices.
    return save(folder, {f"{(k * 5) % COUNT}.dcm": image(k) for k in range(count)})


def check(volume):
    """The voxel at (row, column, slice) lies where DICOM says, in RAS+ mm, with its value."""
    for k, row, column in ((0, 0, 0), (3, 5, 7), (8, 11, 9)):
        lps = FIRST + 3.0 * k * NORMAL + 2.0 * column * ROW_DIRECTION + 1.5 * row * COLUMN_DIRECTION
        index = np.linalg.inv(volume.affine) @ [-lps[0], -lps[1], lps[2], 1.0]
        np.testing.assert_allclose(index, np.round(index), atol=1e-4)
        x, y, z = np.round(index[:3]).astype(int)
        assert volume.data[x, y, z] == PIXELS[k, row, column] * 2.0 - 10.0


def test_a_series(tmp_path):
    path = series(tmp_path / "s")
    (tmp_path / "s" / "notes.txt").write_text("beside the series")
    volume = volumes.read(path)
    check(volume)
    np.testing.assert_allclose(sorted(volume.voxel_mm), (1.5, 2.0, 3.0))
    volumes.write_nifti(tmp_path / "map.nii.gz", volume.data, like=volume)
    again = volumes.read(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    assert b"Doe" not in (tmp_path / "map.nii.gz").read_bytes()


def test_one_multi_frame_file(tmp_path):
    d = image()
    d.NumberOfFrames = COUNT
    d.PixelData = PIXELS.tobytes()
    shared, frames = dataset.Dataset(), []
    measures, plane, value = dataset.Dataset(), dataset.Dataset(), dataset.Dataset()
    measures.PixelSpacing = d.PixelSpacing
    plane.ImageOrientationPatient = d.ImageOrientationPatient
    value.RescaleSlope, value.RescaleIntercept = "2.0", "-10"
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane]
    for k in range(COUNT):
        frame, position = dataset.Dataset(), dataset.Dataset()
        position.ImagePositionPatient = list(FIRST + 3.0 * k * NORMAL)
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [value]
        frames.append(frame)
    d.SharedFunctionalGroupsSequence = [shared]
    d.PerFrameFunctionalGroupsSequence = frames
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
                 "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        del d[name]
    check(volumes.read(save(tmp_path / "m", {"one.dcm": d})))


def changed(number, **values):
    d = copy.deepcopy(image(number))
    for name, value in values.items():
        setattr(d, name, value)
    return d


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"x.dcm": changed(0, SeriesInstanceUID="9.9")}, "2 DICOM series"),
        ({"x.dcm": image(4)}, "at one position"),
        ({"x.dcm": changed(0, ImagePositionPatient=[200.0, 0.0, 0.0])}, "a slice is missing"),
        ({"x.dcm": changed(0, PixelSpacing=[1.0, 1.0])}, "different size, spacing"),
        ({"x.dcm": changed(0, SamplesPerPixel=3)}, "colour"),
    ],
)
def test_what_is_no_single_volume(tmp_path, more, text):
    path = series(tmp_path / "s")
    save(tmp_path / "s", more)
    with pytest.raises(errors.UserError, match=text) as error:
        volumes.read(path)
    assert path in str(error.value)


def test_a_missing_slice(tmp_path):
    path = series(tmp_path / "s")
    (tmp_path / "s" / "0.dcm").rename(tmp_path / "first.dcm")
    (tmp_path / "s" / f"{(4 * 5) % COUNT}.dcm").unlink()
    with pytest.raises(errors.UserError, match=r"6\.00 mm apart, the others 3\.00"):
        volumes.read(path)


def test_no_place_in_space_and_no_images(tmp_path):
    broken = {f"{k}.dcm": image(k) for k in range(COUNT)}
    del broken["3.dcm"]["ImagePositionPatient"]
    with pytest.raises(errors.UserError, match="lacks its place in space"):
        volumes.read(save(tmp_path / "s", broken))
    (tmp_path / "e").mkdir()
    with pytest.raises(errors.UserError, match="no DICOM images"):
        volumes.read(tmp_path / "e")


def test_a_compression_that_cannot_be_read(tmp_path):
    path = save(tmp_path / "s", {f"{k}.dcm": image(k) for k in range(COUNT)})
    for k in range(COUNT):
        d = image(k)
        d.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f garbage "])
        d["PixelData"].VR = "OB"
        d.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
        save(tmp_path / "s", {f"{k}.dcm": d})
    with pytest.raises(errors.UserError, match="cannot be decoded"):
        volumes.read(path)
