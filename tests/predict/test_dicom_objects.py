"""A series through the detector and out as DICOM objects; who is in them is nowhere else."""

import importlib.util
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pydicom
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.data import discovery
from madad_jax.predict import dicom_objects, scan_folder
from tests.predict import conftest
from tests.predict.test_dicom import write_series
from tests.scans import dicom_cases

needs_highdicom = pytest.mark.skipif(
    importlib.util.find_spec("highdicom") is None,
    reason="highdicom is not installed (the extra dicom)",
)
FAMILY = "Xylander"


def _series(folder, change=None, every=2):
    """The scan with the lesion as axial slices of 4 mm, one of somebody."""
    image, _, affine = conftest.brain_scan()
    image, affine = image[:, :, ::every], affine @ np.diag([1, 1, every, 1])
    write_series(folder, np.round(image), affine)
    for path in folder.iterdir():
        d = pydicom.dcmread(path)
        dicom_cases.complete(
            d, PatientName=f"{FAMILY}^Ada", PatientID="pid-4711", AccessionNumber="acc-0815",
            PatientBirthDate="19011213",
        )  # fmt: skip
        if change is not None:
            change(d)
        d.save_as(path, enforce_file_format=True)
    return epath.Path(folder)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return _series(tmp_path_factory.mktemp("in") / "s")


def _predict(setting, path, out, **options):
    found, single = discovery.discover(str(path))
    rows = scan_folder.predict_scans(
        conftest.make_detector(setting), found, epath.Path(out), single=single, **options
    )
    return rows, {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}


@needs_highdicom
def test_a_series_gets_a_segmentation_of_the_mask(setting, series, tmp_path):
    rows, files = _predict(setting, series, tmp_path / "out", report=False)
    assert rows[0]["status"] == "done" and rows[0]["message"] == ""
    assert dicom_objects.SEGMENTATION in files and dicom_objects.MAP not in files
    d = pydicom.dcmread(tmp_path / "out" / dicom_objects.SEGMENTATION)
    mask = np.asarray(nib.load(tmp_path / "out" / "anomaly_mask.nii.gz").dataobj) > 0
    at = {
        round(float(f.PlanePositionSequence[0].ImagePositionPatient[2]), 2): k
        for k, f in enumerate(d.PerFrameFunctionalGroupsSequence)
    }
    order = [at[height] for height in sorted(at)]
    np.testing.assert_array_equal(d.pixel_array[order].transpose(2, 1, 0) > 0, mask)
    assert mask.any()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    words = d.SegmentSequence[0].SegmentDescription
    assert f"{summary['operating_point']['threshold']:.4f}" in words
    assert "share of 0.005 of healthy voxels" in words and "4 healthy scans" in words
    assert "not a medical device" in words and "Places below 0.2 ml" in words
    assert d.DeviceSerialNumber == summary["settings_sha256"]


@needs_highdicom
def test_the_person_is_in_the_object_alone(setting, series, tmp_path):
    _, files = _predict(
        setting, series, tmp_path / "out", output_format="nifti,dicom,dicom_map",
        space="MNI152NLin2009aSym",
    )  # fmt: skip
    assert {dicom_objects.SEGMENTATION, dicom_objects.MAP} <= files
    # Words that the viewer's code on the page has not either.
    named = (FAMILY, "pid-4711", "acc-0815", "19011213")
    for name in files:
        content = (tmp_path / "out" / name).read_bytes()
        if name.endswith(".gz"):
            content = bytes(nib.load(tmp_path / "out" / name).header.binaryblock)
        there = [word for word in named if word.encode() in content]
        assert bool(there) == name.startswith("dicom/"), (name, there)


@needs_highdicom
def test_a_time_that_is_given_makes_the_bytes_the_same(setting, series, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1790000000")
    contents = []
    for name in ("a", "b"):
        options = {"output_format": "nifti,dicom,dicom_map", "report": False}
        _predict(setting, series, tmp_path / name, **options)
        objects = (dicom_objects.SEGMENTATION, dicom_objects.MAP)
        contents.append([(tmp_path / name / path).read_bytes() for path in objects])
    assert contents[0] == contents[1]


def _shear(d):
    place = np.array(d.ImagePositionPatient, float)
    d.ImagePositionPatient = list(place + np.array([0, 0.2 * (place[2] + 70), 0]))


@needs_highdicom
def test_a_sheared_series_is_told_why_it_has_no_object(setting, tmp_path):
    sheared = _series(tmp_path / "s", _shear)
    rows, files = _predict(setting, sheared, tmp_path / "out")
    assert "anomaly.nii.gz" in files and not [f for f in files if f.endswith(".dcm")]
    assert "no DICOM object" in rows[0]["message"] and "sheared" in rows[0]["message"]
    for name in ("summary.json", "report.html"):
        assert "sheared" in (tmp_path / "out" / name).read_text()
    # Who asks for an object gets an error, and the next run takes no summary for whole.
    with pytest.raises(errors.UserError, match="sheared"):
        _predict(setting, sheared, tmp_path / "out", output_format="nifti,dicom", report=False)
    assert not (tmp_path / "out" / "summary.json").exists()


@needs_highdicom
def test_a_series_that_lacks_its_study_is_told_so(setting, tmp_path):
    bare = _series(tmp_path / "s", lambda d: d.__delitem__("StudyInstanceUID"))
    rows, files = _predict(setting, bare, tmp_path / "out", report=False)
    assert "lack StudyInstanceUID" in rows[0]["message"] and "summary.json" in files


@needs_highdicom
def test_objects_of_an_earlier_run_go(setting, series, tmp_path):
    everything = {"output_format": "nifti,dicom,dicom_map", "report": False}
    _predict(setting, series, tmp_path / "out", **everything, space="MNI152NLin2009aSym")
    _, files = _predict(setting, series, tmp_path / "out", output_format="nifti", report=False)
    assert not [f for f in files if f.endswith((".dcm", ".tfm")) or f.startswith("space-")]


@needs_highdicom
def test_objects_lie_beside_no_source(setting, tmp_path):
    (tmp_path / "out").mkdir()
    series = _series(tmp_path / "out" / "dicom")
    before = sorted(p.name for p in series.iterdir())
    with pytest.raises(errors.UserError, match="the scan's own folder"):
        _predict(setting, series, tmp_path / "out", report=False)
    assert sorted(p.name for p in series.iterdir()) == before


@needs_highdicom
def test_a_nifti_file_has_no_source_images(setting, tmp_path):
    image, _, affine = conftest.brain_scan(seed=1)
    image = nib.Nifti1Image(image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    nib.save(image, tmp_path / "a.nii")
    _, files = _predict(setting, tmp_path / "a.nii", tmp_path / "out", report=False)
    assert not [f for f in files if f.endswith(".dcm")]
    with pytest.raises(errors.UserError, match=r"'a\.nii' is no DICOM series"):
        _predict(setting, tmp_path / "a.nii", tmp_path / "out", output_format="nifti,dicom")


def test_without_highdicom(setting, series, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dicom_objects, "installed", lambda: False)
    with caplog.at_level("INFO", "madad_jax"):
        rows, files = _predict(setting, series, tmp_path / "out", report=False)
    assert rows[0]["status"] == "done" and not [f for f in files if f.endswith(".dcm")]
    assert r"madad_jax[dicom]" in caplog.text
    with pytest.raises(errors.UserError, match=r"pip install 'madad_jax\[dicom\]'"):
        dicom_objects.choose("nifti,dicom")


@pytest.mark.parametrize("text", ["dicom", "nifti,jpeg", "nifti,,dicom", "NIFTI"])
def test_formats_that_are_none(text):
    with pytest.raises(errors.UserError, match=r"output_format: .*accepted: nifti, and dicom"):
        dicom_objects.choose(text)


def test_words_of_every_way_to_a_threshold(result):
    summary = json.loads(json.dumps(result.summary))
    summary["operating_point"] |= {"chosen_by": "false_positives_per_scan", "asked": 2.0}
    assert "lets a healthy scan have 2 such places" in dicom_objects.describe(summary)
    summary["operating_point"] |= {"chosen_by": "threshold"}
    assert "The threshold was given; " in dicom_objects.describe(summary)
    summary["operating_point"]["expected_on_healthy_scans"] = None
    assert "no healthy scans say" in dicom_objects.describe(summary)
    summary["signal"] = "ä\\b\n"
    text = dicom_objects.describe(summary)
    assert text.isascii() and text.isprintable() and "\\" not in text


def test_who_has_no_series_loads_no_reader_and_no_writer_of_them():
    code = (
        "import sys, madad_jax.predict.scan_folder; "
        "sys.exit(bool({'madad_jax.scans.dicom', 'highdicom'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
