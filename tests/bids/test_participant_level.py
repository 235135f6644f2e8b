"""Images through a detector into a derived data set."""

import json
import shutil
import threading

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.bids import group_table, output_dataset, participant_level, raw_dataset
from madad_jax.core import errors, folder_lock
from madad_jax.predict import spaces
from tests.bids import conftest

SPACE = spaces.TEMPLATE


def score(tree, out, made=None, people=(), **options):
    dataset = raw_dataset.read(str(tree), people)
    images = raw_dataset.select(dataset, "T1")
    output_dataset.begin(epath.Path(out), dataset, "T1")
    made = made or conftest.make_detector()
    return participant_level.score_images(
        lambda image: made, images, epath.Path(out), dataset.root, **options
    )


@pytest.fixture(scope="module")
def scored(tree, tmp_path_factory):
    """The tree, two images at a time."""
    out = tmp_path_factory.mktemp("scored") / "out"
    rows = score(tree, out, workers=2)
    assert [row["status"] for row in rows] == ["done"] * 4 + ["failed"]
    return out


def test_names_and_side_cars(scored):
    anat = scored / "sub-02" / "ses-1" / "anat"
    stem = "sub-02_ses-1_acq-fast_run-1"
    kinds = ("desc-anomaly_probseg", "desc-anomaly_mask", "desc-reconstruction_T1w")
    expected = {f"{stem}_{kind}.{end}" for kind in kinds for end in ("nii.gz", "json")}
    expected.add(f"{stem}_T1w_summary.json")
    assert {p.name for p in anat.iterdir() if "run-1" in p.name} == expected
    side = json.loads((anat / f"{stem}_desc-anomaly_mask.json").read_text())
    summary = json.loads((anat / f"{stem}_T1w_summary.json").read_text())
    assert side["Sources"] == [f"bids:raw:sub-02/ses-1/anat/{stem}_T1w.nii.gz"]
    assert side["Type"] == "Lesion" and side["SpatialReference"] == "orig"
    assert (side["Threshold"], side["ThresholdChosenBy"]) == (0.3, "threshold")
    assert side["Model"]["Digest"] == "0123456789abcdef"
    assert side["Calibration"] == {"Source": None, "HealthyScans": 0}
    assert side["AnomalyScore"] == summary["scan_score"]["score"] > 0.3
    assert side["Candidates"] == len(summary["candidates"]) >= 1
    reconstruction = json.loads((anat / f"{stem}_desc-reconstruction_T1w.json").read_text())
    assert reconstruction["SkullStripped"] is True
    assert (scored / f"{stem}_T1w.html").stat().st_size > 10_000
    assert (scored / "sub-02" / "figures" / f"{stem}_desc-candidates_T1w.png").exists()


@pytest.fixture(scope="module")
def in_template(tree, tmp_path_factory):
    """One image, in the template's space too."""
    out = tmp_path_factory.mktemp("in_template") / "out"
    shutil.copytree(tree / "sub-02", out.parent / "raw" / "sub-02")
    (out.parent / "raw" / f"{conftest.SMALL[3]}.nii.gz").unlink()
    assert len(score(out.parent / "raw", out, in_template=True)) == 1
    return out


def test_the_same_bytes_as_predict(in_template, tree, tmp_path):
    name = conftest.SMALL[2]
    conftest.make_detector()(tree / f"{name}.nii.gz").save(tmp_path, report=False, space=SPACE)
    stem = str(in_template / name.removesuffix("_T1w"))
    for ours, theirs in (
        ("desc-anomaly_probseg.nii.gz", "anomaly.nii.gz"),
        ("desc-anomaly_mask.nii.gz", "anomaly_mask.nii.gz"),
        ("desc-reconstruction_T1w.nii.gz", "reconstruction.nii.gz"),
        (f"space-{SPACE}_desc-anomaly_probseg.nii.gz", spaces.ANOMALY),
        (f"space-{SPACE}_desc-anomaly_mask.nii.gz", spaces.MASK),
        (f"from-T1w_to-{SPACE}_mode-image_xfm.tfm", spaces.TRANSFORM),
    ):
        with open(f"{stem}_{ours}", "rb") as file:
            assert file.read() == (tmp_path / theirs).read_bytes(), ours
    assert np.asarray(nib.load(tmp_path / "anomaly_mask.nii.gz").dataobj).any()
    with open(f"{stem}_space-{SPACE}_desc-anomaly_probseg.json") as file:
        assert json.load(file)["SpatialReference"] == SPACE


def test_the_broken_file_is_a_record_with_its_reason(scored, tree):
    folder = scored / "sub-03" / "ses-1" / "anat"
    assert [p.name for p in folder.iterdir()] == ["sub-03_ses-1_T1w_failed.json"]
    record = json.loads((folder / "sub-03_ses-1_T1w_failed.json").read_text())
    assert record["source"] == "bids:raw:sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz"
    assert "'sub-03/ses-1/anat/sub-03_ses-1_T1w.nii.gz'" in record["message"]


def test_no_path_of_this_machine_is_written(scored, tree):
    """Neither the source's folder nor the output's, in whatever is text."""
    for name, content in conftest.files_of(scored).items():
        if name.endswith((".nii.gz", ".png")):
            continue
        for folder in (tree.parent, scored.parent):
            assert str(folder).encode() not in content, name


def test_the_validator_passes_the_data_set(scored, in_template):
    assert conftest.errors_of(scored) == []
    assert conftest.errors_of(in_template) == []
    about = json.loads((scored / "dataset_description.json").read_text())
    assert about["GeneratedBy"][0]["Name"] == "madad_jax" and about["License"] == "CC0"
    assert about["DatasetType"] == "derivative" and about["BIDSVersion"] == "1.10.0"


def test_stopped_and_gone_on_two_at_a_time_is_the_same(scored, tree, tmp_path):
    out, begun = tmp_path / "out", []

    def stopped():
        begun.append(None)
        return len(begun) > 2

    rows = score(tree, out, stopped=stopped)
    assert len(rows) == 2
    # As a kill leaves it: no summary yet, a half-written file, a lock of a process that is gone.
    anat = out / "sub-01" / "ses-1" / "anat"
    (anat / "sub-01_ses-1_T1w_summary.json").unlink()
    (anat / "sub-01_ses-1_desc-anomaly_mask.nii.gz.1-2.new").write_bytes(b"half")
    (anat / ".sub-01_ses-1_T1w.lock").touch()
    rows = score(tree, out, workers=2)
    status = {row["scan"]: row["status"] for row in rows}
    assert status["sub-01_ses-1_T1w"] == "done" and status["sub-01_ses-2_T1w"] == "done before"
    assert conftest.files_of(out) == conftest.files_of(scored)


def test_what_is_not_whole_or_of_other_settings_is_made_again(scored, tree, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    anat = out / "sub-02" / "ses-1" / "anat"
    assert [row["status"] for row in score(tree, out, people=["02"])] == ["done before"] * 2
    (anat / "sub-02_ses-1_acq-fast_run-2_desc-anomaly_mask.json").unlink()
    assert [row["status"] for row in score(tree, out, people=["02"])] == ["done before", "done"]
    # A result whose image is broken now must not stay, and neither may one of another threshold.
    shutil.copytree(tree, tmp_path / "raw")
    (tmp_path / "raw" / f"{conftest.SMALL[2]}.nii.gz").write_bytes(b"\x1f\x8bno")
    stale = anat / f"sub-02_ses-1_acq-fast_run-2_space-{SPACE}_desc-anomaly_mask.nii.gz"
    stale.touch()
    rows = score(tmp_path / "raw", out, conftest.make_detector(0.4), people=["02"])
    assert [row["status"] for row in rows] == ["failed", "done"]
    left = [p.name for p in anat.iterdir() if "run-1" in p.name]
    assert left == ["sub-02_ses-1_acq-fast_run-1_T1w_failed.json"] and not stale.exists()


def test_a_second_job_waits_for_the_image_of_the_first(scored, tree, tmp_path):
    out, rows = tmp_path / "out", []
    shutil.copytree(scored, out)
    name = "sub-02_ses-1_acq-fast_run-2_T1w"
    second = threading.Thread(target=lambda: rows.extend(score(tree, out, people=["02"])))
    with folder_lock.hold(out / "sub-02" / "ses-1" / "anat", "x", name=f".{name}.lock"):
        second.start()
        second.join(1.0)
        assert second.is_alive() and not rows
    second.join(20)
    assert [row["status"] for row in rows] == ["done before"] * 2


@pytest.mark.parametrize("what", ["itself", "foreign", "contrast", "raw"])
def test_an_output_folder_of_something_else_is_refused(tree, tmp_path, what):
    dataset = raw_dataset.read(str(tree))
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    if what == "itself":
        out, text = dataset.root, "found bids_dir itself"
    elif what == "foreign":
        (out / "notes.txt").touch()
        text = "has not made"
    elif what == "raw":
        conftest.write_description(tmp_path / "out")
        text = "has not made"
    else:
        output_dataset.begin(out, dataset, "FLAIR")
        text = "contrast 'FLAIR', the model's is 'T1'"
    before = conftest.files_of(tmp_path / "out")
    with pytest.raises(errors.UserError, match=text):
        output_dataset.begin(out, dataset, "T1")
    assert conftest.files_of(tmp_path / "out") == before


def test_the_link_to_the_source_names_no_folder_above_it(tree, tmp_path, caplog):
    dataset = raw_dataset.read(str(tree))
    inside = epath.Path(tree / "derivatives" / "madad_jax")
    assert output_dataset.describe(inside, dataset, "T1")["DatasetLinks"] == {"raw": "../.."}
    beside = epath.Path(tree.parent / "out")
    assert output_dataset.describe(beside, dataset, "T1")["DatasetLinks"] == {"raw": "../raw"}
    assert not caplog.messages
    far = output_dataset.describe(epath.Path(tmp_path / "a" / "b"), dataset, "T1")
    assert "DatasetLinks" not in far and "names folders outside" in caplog.text
    dataset.about["DatasetDOI"] = "doi:10.1/x"
    far = output_dataset.describe(epath.Path(tmp_path / "a" / "b"), dataset, "T1")
    assert far["DatasetLinks"] == {"raw": "https://doi.org/10.1/x"}


def test_records_become_rows(scored, tree):
    images = raw_dataset.select(raw_dataset.read(str(tree)), "T1")
    rows = group_table.collect_rows(epath.Path(scored), images)
    assert [row["status"] for row in rows] == ["done"] * 4 + ["failed"]
    assert rows[0]["participant_id"] == "sub-01" and rows[0]["session_id"] == "ses-1"
    assert rows[4]["score"] is None and "sub-03_ses-1_T1w.nii.gz" in rows[4]["reason"]
