"""Series written here, read here and by others: the same millimetres and the same values.

`dcm2niix` is not among the requirements: `pip install dcm2niix`, and the tests find it.
"""

import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest
from pydicom import uid

from madad_jax.scans import volumes
from tests.scans import dicom_writer
from tests.scans.dicom_writer import COUNT, FIRST, NORMAL, PIXELS, STEP, save, series

TOLERANCE = 0.001  # mm


def _reversed(k, d):
    d.ImagePositionPatient = list(FIRST + 3.0 * (COUNT - 1 - k) * NORMAL)
    d.InstanceNumber = k + 1


def _slopes(k, d):
    d.RescaleSlope, d.RescaleIntercept = str(0.25 * (k + 1)), str(-k)


def _common(d):
    """What other readers ask for."""
    d.StudyInstanceUID, d.FrameOfReferenceUID, d.PatientID = "1.2.1", "1.2.2", "x"
    d.SeriesNumber, d.InstanceNumber, d.AcquisitionNumber = 1, d.get("InstanceNumber") or 1, 1
    d.SliceThickness, d.Manufacturer, d.SeriesDescription = 3.0, "ours", "made"
    d.ImageType, d.StudyDate, d.StudyTime = ["ORIGINAL", "PRIMARY"], "20260101", "120000"
    d.EchoTime, d.RepetitionTime, d.MagneticFieldStrength = 3.0, 2000.0, 3.0
    d.PatientPosition = "HFS"


def _write(folder, change):
    def whole(k, d):
        d.InstanceNumber = k + 1
        if change is not None:
            change(k, d)
        _common(d)

    return series(folder, change=whole)


def _coronal(k, d):
    d.ImageOrientationPatient = [0.98, 0.19899748742132398, 0, 0, 0, -1]
    normal = np.cross(d.ImageOrientationPatient[:3], d.ImageOrientationPatient[3:])
    d.ImagePositionPatient = list(FIRST - 3.0 * k * normal)


CASES = {"oblique": None, "reversed": _reversed, "coronal": _coronal, "slopes": _slopes}


def _compare(ours, array, affine):
    """`array` [X, Y, Z] with its matrix in RAS+ mm, in whatever order of axes."""
    theirs = volumes.from_array(np.asarray(array, np.float32), affine, source="peer")
    assert theirs.data.shape == ours.data.shape
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * [*np.array(ours.data.shape) - 1, 1]
    apart = np.linalg.norm(corners @ (theirs.affine - ours.affine).T, axis=1).max()
    assert apart <= TOLERANCE
    np.testing.assert_array_equal(theirs.data, ours.data)


def _by_itk(path):
    sitk = pytest.importorskip("SimpleITK")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(path)
    image = sitk.ReadImage(names if len(names) > 1 else names[0])
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return sitk.GetArrayFromImage(image).T, flip @ affine


def _by_dcm2niix(path, out):
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    out.mkdir()
    # Without `-p n`, with which one slope counts for all slices.
    command = [program, "-z", "n", "-m", "n", "-b", "n", "-f", "x", "-o", str(out), path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    image = nib.load(out / "x.nii")
    return image.get_fdata(dtype=np.float32), image.affine


@pytest.mark.parametrize("case", CASES)
def test_a_series_as_simpleitk_reads_it(tmp_path, case):
    path = _write(tmp_path / "s", CASES[case])
    _compare(volumes.read(path), *_by_itk(path))


@pytest.mark.parametrize("case", CASES)
def test_a_series_as_dcm2niix_reads_it(tmp_path, case):
    path = _write(tmp_path / "s", CASES[case])
    _compare(volumes.read(path), *_by_dcm2niix(path, tmp_path / "out"))


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_monochrome1_as_simpleitk_reads_it(tmp_path, bits):
    def change(k, d):
        d.PhotometricInterpretation = "MONOCHROME1"
        d.BitsStored, d.HighBit = bits, bits - 1
        if bits == 8:
            d.BitsAllocated, d.PixelData = 8, (PIXELS[k] % 256).astype(np.uint8).tobytes()

    path = _write(tmp_path / "s", change)
    _compare(volumes.read(path), *_by_itk(path))


def _multi_frame(folder):
    d = dicom_writer.multi_frame()
    _common(d)
    content = d.PerFrameFunctionalGroupsSequence
    for k, frame in enumerate(content):
        place = dicom_writer.dataset.Dataset()
        place.InStackPositionNumber, place.StackID = k + 1, "1"
        place.DimensionIndexValues = [1, k + 1]
        frame.FrameContentSequence = [place]
    measures = d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = float(np.linalg.norm(STEP))
    return save(folder, {"one.dcm": d})


def test_a_multi_frame_file_as_simpleitk_reads_it(tmp_path):
    path = _multi_frame(tmp_path / "s")
    _compare(volumes.read(path), *_by_itk(path))


def test_a_multi_frame_file_as_dcm2niix_reads_it(tmp_path):
    path = _multi_frame(tmp_path / "s")
    _compare(volumes.read(path), *_by_dcm2niix(path, tmp_path / "out"))


def test_a_deflated_series_as_simpleitk_reads_it(tmp_path):
    def change(k, d):
        d.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian

    path = _write(tmp_path / "s", change)
    _compare(volumes.read(path), *_by_itk(path))
