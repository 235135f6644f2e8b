"""Objects written here, read by others: at the scan's place, the right way round.

`dcm2niix` (pip) and `dciodvfy` (Debian's dicom3tools) are no requirements; with them on the path
their tests run.
"""

import collections
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pydicom
import pytest
from etils import epath

from madad_jax.scans import dicom_derived, dicom_sources, volumes
from tests.scans import dicom_cases

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
TOLERANCE = 0.01  # mm
FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's millimetres to RAS+.


def _compare(volume, mask, array, affine):
    """`array` [X, Y, Z] with its matrix (RAS+ mm) shows the mask where the scan's matrix says."""
    ours = volumes.from_array(mask.astype(np.float32), volume.native.affine, source="ours")
    theirs = volumes.from_array(np.asarray(array, np.float32), affine, source="peer")
    assert theirs.data.shape == ours.data.shape
    corners = np.array([[*c, 1] for c in np.ndindex(2, 2, 2)]) * [*np.array(ours.data.shape) - 1, 1]
    apart = np.linalg.norm(corners @ (theirs.affine - ours.affine).T, axis=1).max()
    assert apart <= TOLERANCE
    np.testing.assert_array_equal(theirs.data, ours.data)


def _by_highdicom(path):
    found = highdicom.imread(path).get_volume()
    # [frame, row, column] -> [column, row, frame]; the matrix's columns in the same order.
    affine = FLIP @ found.affine[:, [2, 1, 0, 3]]
    return found.array.transpose(2, 1, 0), affine


def _by_pydicom(path):
    """From the frames' own positions, as a reader without knowledge of the order must."""
    d = pydicom.dcmread(path)
    shared, frames = d.SharedFunctionalGroupsSequence[0], d.PerFrameFunctionalGroupsSequence
    places = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in frames], float)
    row, column = np.array(
        shared.PlaneOrientationSequence[0].ImageOrientationPatient, float
    ).reshape(2, 3)
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2] = (places[-1] - places[0]) / (len(places) - 1)
    affine[:3, 3] = places[0]
    return d.pixel_array.transpose(2, 1, 0), FLIP @ affine


def _by_itk(path):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    affine[:3, :3] = direction @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T > 0, FLIP @ affine


def _by_dcm2niix(path):
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed (pip install dcm2niix)")
    out = path.parent / "niix"
    out.mkdir()
    command = [program, "-z", "n", "-m", "n", "-b", "n", "-f", "x", "-o", str(out), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("*.nii")
    image = nib.load(found)
    return image.get_fdata(dtype=np.float32), image.affine


READERS = {
    "highdicom": _by_highdicom,
    "pydicom": _by_pydicom,
    "SimpleITK": _by_itk,
    "dcm2niix": _by_dcm2niix,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", dicom_cases.CASES)
def test_a_segmentation_lies_on_the_scan(tmp_path, case, reader):
    folder = dicom_cases.write(tmp_path / "s", case)
    volume, mask, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    _compare(volume, mask, *READERS[reader](path))


def _write_map(tmp_path, case):
    folder = dicom_cases.write(tmp_path / "s", case)
    volume = volumes.read(folder)
    sources = dicom_sources.read(epath.Path(folder), volume.sha256)
    values = np.random.default_rng(1).random(volume.native.shape, np.float32)
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "anomaly_map.dcm"
    made = dicom_derived.parametric_map(values, 0.8, sources, dicom_cases.ABOUT, folder)
    path.write_bytes(made)
    return volume, values, path


# SimpleITK reads no floating-point pixels.
@pytest.mark.parametrize("reader", ["highdicom", "dcm2niix"])
@pytest.mark.parametrize("case", ["axial", "twice oblique", "reversed", "frames shuffled"])
def test_a_map_keeps_its_values_to_the_bit(tmp_path, case, reader):
    volume, values, path = _write_map(tmp_path, case)
    _compare(volume, values, *READERS[reader](path))


def test_simpleitk_resamples_a_segmentation_onto_its_scan(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    folder = dicom_cases.write(tmp_path / "s", "twice oblique")
    _, mask, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    scan = sitk.ReadImage(names)
    found = sitk.Resample(
        sitk.ReadImage(str(path)), scan, sitk.Transform(), sitk.sitkNearestNeighbor
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found).T > 0, mask)


def _verdict(path):
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    found = collections.Counter(line.split(" - ")[0] for line in lines if " - " in line)
    said = "\n".join(lines)
    return found["Error"], found["Warning"], said


@pytest.mark.parametrize("case", ["axial", "two decimals", "multi-frame"])
def test_the_validator_finds_nothing_in_a_segmentation(tmp_path, case):
    folder = dicom_cases.write(tmp_path / "s", case)
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    wrong, odd, said = _verdict(path)
    assert (wrong, odd) == (0, 0), said
    assert "Segmentation" in said


def test_the_validator_finds_no_error_in_a_map(tmp_path):
    _, _, path = _write_map(tmp_path, "axial")
    wrong, odd, said = _verdict(path)
    assert wrong == 0, said
    # It does not know the word for values that are no measured quantity (docs/dicom.md).
    assert odd == 2 and said.count("QUANTITY") >= 2, said


def test_what_the_scan_lacks_is_a_warning_of_the_validator(tmp_path):
    empty = ("PatientID", "StudyDate", "StudyTime", "StudyID")
    others = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")
    more = ("FrameOfReferenceUID", "SliceThickness", "ReferringPhysicianName")

    def change(k, d):
        for name in (*empty, *others, *more):
            del d[name]

    folder = dicom_cases.write(tmp_path / "s", "axial", change)
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    wrong, odd, said = _verdict(path)
    assert (wrong, odd) == (0, 4), said
    assert said.count("needed to build DICOMDIR") == len(empty)
