"""DICOM series as scanners, archives and mistakes write them, of one known stack of slices."""

import copy

import numpy as np
import pydicom
from pydicom import dataset, uid

ROWS, COLUMNS, COUNT = 12, 10, 9
# Sagittal slices, turned a little: columns run to the back, rows downwards.
ROW_DIRECTION = np.array([0.0, np.cos(0.2), np.sin(0.2)])
COLUMN_DIRECTION = np.array([0.0, np.sin(0.2), -np.cos(0.2)])
NORMAL = np.cross(ROW_DIRECTION, COLUMN_DIRECTION)
FIRST = np.array([10.0, -20.0, 30.0])
STEP = 3.0 * NORMAL
PIXELS = np.random.default_rng(0).integers(1, 3000, (COUNT, ROWS, COLUMNS)).astype(np.uint16)


def image(number=0, series="1.2.3", **values):
    """Slice `number` (may lie beyond the stack), with elements of other values."""
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
    d.ImagePositionPatient = list(FIRST + number * STEP)
    d.RescaleSlope, d.RescaleIntercept = "2.0", "-10"
    d.PixelData = PIXELS[number % COUNT].tobytes()
    for name, value in values.items():
        setattr(d, name, value)
    return d


def save(folder, images):
    """Writes {name: image}; the folder as a string."""
    folder.mkdir(exist_ok=True)
    for name, d in images.items():
        pydicom.dcmwrite(folder / name, d, enforce_file_format=True)
    return str(folder)


def series(folder, count=COUNT, change=lambda number, d: d, **values):
    """The stack, its files named in another order than its slices."""
    images = {}
    for k in range(count):
        d = copy.deepcopy(image(k, **values))
        images[f"{(k * 5) % COUNT if count == COUNT else k}.dcm"] = change(k, d) or d
    return save(folder, images)


def multi_frame(slopes=None, intercepts=None):
    """The stack as one enhanced image, with a slope for each frame."""
    d = image(SOPClassUID=uid.EnhancedMRImageStorage)
    d.file_meta.MediaStorageSOPClassUID = uid.EnhancedMRImageStorage
    d.NumberOfFrames = COUNT
    d.PixelData = PIXELS.tobytes()
    shared, frames = dataset.Dataset(), []
    measures, plane = dataset.Dataset(), dataset.Dataset()
    measures.PixelSpacing, measures.SliceThickness = d.PixelSpacing, 3.0
    plane.ImageOrientationPatient = d.ImageOrientationPatient
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [plane]
    for k in range(COUNT):
        frame, position, value = dataset.Dataset(), dataset.Dataset(), dataset.Dataset()
        position.ImagePositionPatient = list(FIRST + k * STEP)
        value.RescaleSlope = str(slopes[k]) if slopes else "2.0"
        value.RescaleIntercept = str(intercepts[k]) if intercepts else "-10"
        value.RescaleType = "US"
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [value]
        frames.append(frame)
    d.SharedFunctionalGroupsSequence = [shared]
    d.PerFrameFunctionalGroupsSequence = frames
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient",
                 "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        del d[name]
    return d


def report(kind=uid.BasicTextSRStorage, **values):
    """An object without pixels."""
    d = image(99, "1.2.9", **({"SOPClassUID": kind, "Modality": "SR"} | values))
    d.file_meta.MediaStorageSOPClassUID = kind
    del d.PixelData
    return d


def check(volume, slopes=None, intercepts=None):
    """The voxel at (row, column, slice) lies where DICOM says, in RAS+ mm, with its value."""
    for k, row, column in ((0, 0, 0), (3, 5, 7), (8, 11, 9)):
        lps = FIRST + k * STEP + 2.0 * column * ROW_DIRECTION + 1.5 * row * COLUMN_DIRECTION
        index = np.linalg.inv(volume.affine) @ [-lps[0], -lps[1], lps[2], 1.0]
        np.testing.assert_allclose(index, np.round(index), atol=1e-4)
        x, y, z = np.round(index[:3]).astype(int)
        slope = slopes[k] if slopes else 2.0
        intercept = intercepts[k] if intercepts else -10.0
        assert volume.data[x, y, z] == np.float32(PIXELS[k, row, column] * slope + intercept)
