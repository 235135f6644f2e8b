"""What an object says, what it takes from its source, and which sources get none."""

import dataclasses
import datetime
import importlib.util
import io
import pathlib
import subprocess
import sys

import numpy as np
import pydicom
import pytest
from etils import epath
from pydicom import uid

from madad_jax.core import errors
from madad_jax.scans import dicom, dicom_derived, dicom_sources, volumes
from tests.scans import dicom_cases, dicom_writer

needs_highdicom = pytest.mark.skipif(
    importlib.util.find_spec("highdicom") is None,
    reason="highdicom is not installed (the extra dicom)",
)


def _sources(folder):
    volume = volumes.read(folder)
    return dicom_sources.read(epath.Path(folder), volume.sha256), volume


def _read(path):
    return pydicom.dcmread(path)


@needs_highdicom
def test_what_a_segmentation_says(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "oblique")
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    d = _read(path)
    assert d.SOPClassUID == uid.SegmentationStorage and d.SegmentationType == "BINARY"
    assert "RESEARCH" in d.SeriesDescription and "not a medical device" in d.ContentDescription
    (segment,) = d.SegmentSequence
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentDescription == dicom_cases.ABOUT.words
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("madad_jax", "0.1.0")
    assert (
        "ab" * 32 in algorithm.AlgorithmParameters and "stand-in" in algorithm.AlgorithmParameters
    )
    for sequence, code in (
        ("SegmentedPropertyCategoryCodeSequence", "49755003"),
        ("SegmentedPropertyTypeCodeSequence", "52988006"),
        ("AnatomicRegionSequence", "12738006"),
    ):
        item = segment[sequence][0]
        assert (item.CodeValue, item.CodingSchemeDesignator) == (code, "SCT")
    assert d.NumberOfFrames == dicom_writer.COUNT and d.SeriesNumber == 491
    assert d.DimensionOrganizationType == "3D"


@needs_highdicom
@pytest.mark.parametrize("case", ["axial", "multi-frame"])
def test_person_and_study_are_the_sources(tmp_path, case):
    folder = dicom_cases.write(tmp_path / "s", case)
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    d, source = _read(path), _read(next(folder.iterdir()))
    names = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
             "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
             "FrameOfReferenceUID")  # fmt: skip
    for name in names:
        assert d[name].value == source[name].value, name
    assert d.PatientName == dicom_cases.OTHER_LETTERS
    assert d.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = d.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID


NAMES = {
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Latin 1, with extensions": ("ISO 2022 IR 100", "Müller^Ada"),
    "none": ("", "Mueller^Ada"),
}


@needs_highdicom
@pytest.mark.parametrize("case", NAMES)
def test_names_of_every_script(tmp_path, case):
    letters, name = NAMES[case]
    values = {"SpecificCharacterSet": letters, "PatientName": name}
    folder = dicom_cases.write(tmp_path / "s", "axial", **values)
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    assert _read(path).PatientName == name


@needs_highdicom
def test_frames_name_the_image_that_they_lie_on(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "reversed")
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    at = {}
    for file in folder.iterdir():
        image = _read(file)
        at[image.SOPInstanceUID] = np.array(image.ImagePositionPatient, float)
    for frame in _read(path).PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(place, at[source.ReferencedSOPInstanceUID], atol=1e-4)


@needs_highdicom
def test_the_same_scan_texts_and_time_give_the_same_bytes(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "axial")
    _, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    first = path.read_bytes()
    dicom_cases.write_segmentation(folder, tmp_path / "out")
    assert path.read_bytes() == first
    later = dataclasses.replace(
        dicom_cases.ABOUT, when=dicom_cases.ABOUT.when + datetime.timedelta(seconds=1)
    )
    dicom_cases.write_segmentation(folder, tmp_path / "out", later)
    a, b = _read(io.BytesIO(first)), _read(path)
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "ContentTime"):
        assert a[name].value != b[name].value
    assert a.SOPInstanceUID.startswith("2.25.") and len(a.SOPInstanceUID) <= 64


@needs_highdicom
def test_what_the_source_lacks_is_empty_or_stated(tmp_path):
    gone = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
            "StudyID", "AccessionNumber", "SliceThickness", "FrameOfReferenceUID",
            "SeriesNumber", "ReferringPhysicianName", "InstanceNumber")  # fmt: skip

    def change(k, d):
        for name in gone:
            del d[name]

    folder = dicom_cases.write(tmp_path / "s", "axial", change)
    volume, mask, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    d = _read(path)
    assert not any(d[name].value for name in gone[:8]) and d.SeriesNumber == 91
    sources, _ = _sources(folder)
    assert len(sources.notes) == 1 and "frame of reference" in sources.notes[0]
    assert d.FrameOfReferenceUID == sources.images[0].FrameOfReferenceUID
    # The step stands for the thickness.
    measures = d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SliceThickness) == pytest.approx(3.3333333, abs=1e-6)
    assert float(measures.SpacingBetweenSlices) == pytest.approx(3.3333333, abs=1e-6)
    assert d.pixel_array.sum() == mask.sum() and volume.data.shape == mask.shape


def _delete(name):
    return lambda k, d: d.__delitem__(name)


def _shear(k, d):
    aside = np.array([0, 0.5 * k, 0])
    d.ImagePositionPatient = list(np.array(d.ImagePositionPatient, float) + aside)


def _one_uid(k, d):
    d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = "1.2.3.9"


def _private(k, d):
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = "1.3.12.2.1107.5.9.1"


def _two_frames_of_reference(k, d):
    d.FrameOfReferenceUID = "1.2.2" if k else "1.2.5"


REFUSED = {
    "StudyInstanceUID": (_delete("StudyInstanceUID"), "lack StudyInstanceUID"),
    "Modality": (_delete("Modality"), "lack Modality"),
    "sheared": (_shear, r"sheared .*up to 2\.0 mm off"),
    "one UID": (_one_uid, "share one SOPInstanceUID"),
    "private": (_private, "of the class '1.3.12.2.1107.5.9.1'"),
    "frames of reference": (_two_frames_of_reference, "several frames of reference"),
    "sex": (lambda k, d: setattr(d, "PatientSex", "W"), "PatientSex is neither"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sources_that_get_no_object(tmp_path, case):
    change, why = REFUSED[case]
    folder = dicom_cases.write(tmp_path / "s", "axial", change)
    sha256 = volumes.read(folder).sha256
    with pytest.raises(errors.UserError, match=f"'s': no DICOM object can be made.*{why}"):
        dicom_sources.read(epath.Path(folder), sha256)


def test_a_series_that_has_changed(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "axial")
    with pytest.raises(errors.UserError, match="has changed since"):
        dicom_sources.read(epath.Path(folder), "0" * 64)


@needs_highdicom
def test_an_odd_value_is_not_repeated(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "axial", StudyTime="999999")
    with pytest.raises(errors.UserError, match="no DICOM object can be made") as caught:
        dicom_cases.write_segmentation(folder, tmp_path / "out")
    assert "999999" not in str(caught.value)


@needs_highdicom
def test_warnings_name_nobody(tmp_path):
    """In a process of its own, as pytest has its own rules for warnings."""
    # A name without a given one: highdicom warns of it, and repeats it.
    folder = dicom_cases.write(tmp_path / "s", "axial", PatientName="Doe")
    code = (
        "import pathlib, sys; from tests.scans import dicom_cases; "
        "print(dicom_cases.write_segmentation(sys.argv[1], pathlib.Path(sys.argv[2]))[2])"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out")]
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert "anomaly_seg.dcm" in done.stdout and "Doe" not in done.stdout + done.stderr


def test_the_files_of_the_scan_stay_as_they_are(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "two decimals")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sources, volume = _sources(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # Even positions, the step with nine digits, and within a hundredth of a millimetre.
    assert np.abs(sources.affine - volume.native.affine).max() < 0.01
    assert "PixelData" not in sources.images[0]


def test_a_segmentation_beside_its_source_is_no_second_series(tmp_path):
    pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")
    folder = dicom_cases.write(tmp_path / "s", "axial")
    volume, _, path = dicom_cases.write_segmentation(folder, tmp_path / "out")
    (folder / "zz.dcm").write_bytes(path.read_bytes())
    stack = dicom.find_stack(folder)
    assert len(stack.frames) == dicom_writer.COUNT
    assert any("Segmentation" in note for note in stack.notes)
    np.testing.assert_array_equal(volumes.read(folder).data, volume.data)


@needs_highdicom
def test_a_map_of_a_folder_is_no_scan(tmp_path):
    folder = dicom_cases.write(tmp_path / "s", "axial")
    sources, volume = _sources(folder)
    values = np.zeros(volume.native.shape, np.float32)
    made = dicom_derived.parametric_map(values, 1.0, sources, dicom_cases.ABOUT, folder)
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "map.dcm").write_bytes(made)
    with pytest.raises(errors.UserError, match="no DICOM images"):
        volumes.read(tmp_path / "map")
    assert _read(io.BytesIO(made)).ContentQualification == "RESEARCH"
