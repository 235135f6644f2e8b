"""Series of every orientation with what the standard wants of them, and a lopsided mask."""

import datetime

import numpy as np
from etils import epath

from madad_jax.scans import dicom_derived, dicom_sources, volumes
from tests.scans import dicom_writer
from tests.scans.dicom_writer import COUNT, FIRST

ABOUT = dicom_derived.About(
    name="madad_jax",
    version="0.1.0",
    model="stand-in",
    digest="ab" * 32,
    words="Voxels above 0.3000. Research software: not a medical device.",
    when=datetime.datetime(2026, 11, 30, 12, 0, 0),
)
OTHER_LETTERS = "Müller^Jürgen"
PLANES = {
    "axial": [1, 0, 0, 0, 1, 0],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "oblique": [*dicom_writer.ROW_DIRECTION, *dicom_writer.COLUMN_DIRECTION],
    "twice oblique": [0.936293364, -0.289629478, 0.198669331, 0.31319, 0.944, -0.09985],
}
CASES = (*PLANES, "reversed", "two decimals", "multi-frame", "frames shuffled")


def complete(d, **values):
    """What makes an image one of the standard's."""
    known = {
        "StudyInstanceUID": "1.2.1",
        "FrameOfReferenceUID": "1.2.2",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": OTHER_LETTERS,
        "PatientID": "id-7",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyDate": "20260101",
        "StudyTime": "120000",
        "StudyID": "1",
        "AccessionNumber": "acc-9",
        "ReferringPhysicianName": "",
        "SeriesNumber": 4,
        "InstanceNumber": d.get("InstanceNumber") or 1,
        "SliceThickness": 3.0,
    }
    for name, value in {**known, **values}.items():
        setattr(d, name, value)


def _directions(case):
    x, y = np.array(PLANES.get(case, PLANES["oblique"]), float).reshape(2, 3)
    x = x / np.linalg.norm(x)
    y = y - (x @ y) * x
    return x, y / np.linalg.norm(y)


def write(folder, case="oblique", change=None, **values):
    """A series of one of `CASES`; its folder."""
    x, y = _directions(case)
    step = 3.3333333 * np.cross(x, y)
    digits = 2 if case == "two decimals" else 9

    def one(k, d):
        place = COUNT - 1 - k if case == "reversed" else k
        d.InstanceNumber = k + 1
        d.ImageOrientationPatient = [round(v, 9) for v in (*x, *y)]
        d.ImagePositionPatient = [round(v, digits) for v in FIRST + place * step]
        complete(d, **values)
        if change is not None:
            change(k, d)

    if case in ("multi-frame", "frames shuffled"):
        return epath.Path(_multi_frame(folder, case, change, values))
    return epath.Path(dicom_writer.series(folder, change=one))


def _multi_frame(folder, case, change, values):
    d = dicom_writer.multi_frame()
    complete(d, **values)
    frames = list(d.PerFrameFunctionalGroupsSequence)
    if case == "frames shuffled":
        order = np.random.default_rng(3).permutation(COUNT)
        frames = [frames[k] for k in order]
        d.PixelData = dicom_writer.PIXELS[order].tobytes()
    d.PerFrameFunctionalGroupsSequence = frames
    if change is not None:
        change(0, d)
    return dicom_writer.save(folder, {"one.dcm": d})


def mask_of(volume):
    """bool on the scan's own grid: unlike its mirror images, with empty slices between."""
    mask = np.zeros(volume.native.shape, bool)
    columns, rows, slices = mask.shape
    mask[1:4, 2:8, 1:3] = True
    mask[columns - 2, rows - 3, slices - 2] = True
    mask[2, 5, slices - 3] = True
    return mask


def write_segmentation(folder, out, about=ABOUT):
    """(the scan, the mask, the path of its segmentation)."""
    volume = volumes.read(folder)
    sources = dicom_sources.read(epath.Path(folder), volume.sha256)
    mask = mask_of(volume)
    out.mkdir(exist_ok=True)
    path = out / "anomaly_seg.dcm"
    path.write_bytes(dicom_derived.segmentation(mask, sources, about, epath.Path(folder)))
    return volume, mask, path
