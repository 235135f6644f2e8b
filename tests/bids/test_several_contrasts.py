"""A model of several contrasts over a BIDS tree: what belongs together, and what is missing."""

import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from madad_jax.bids import raw_dataset
from tests.bids import conftest

CONTRASTS = ("T1", "FLAIR")
_PROGRAM = """
import dataclasses, sys
from madad_jax.bids import __main__ as command
from madad_jax.core import errors
from madad_jax.metrics import calibration
from madad_jax.predict import api, stacked_detector
from tests.predict import conftest as parts

def load(*unused, files, **more):
    if [*files] == ["FLAIR"]:
        raise errors.UserError("no calibration for FLAIR")
    return stacked_detector.StackedDetector(
        parts.bright, parts.PREPARATION, parts.NUMBERS,
        dataclasses.replace(parts.PLAIN, point=calibration.Point(0.3, "threshold", 0.3)),
        files=files, names=("T1", "FLAIR"), neighbours=0, batch_size=4,
        facts={"run": "/home/somebody/run", "modality": "T1,FLAIR"},
    )

api.contrasts_of = lambda folder: ("T1", "FLAIR")
api.load = load
sys.exit(command.run(["bids", *sys.argv[1:]]))
"""


def bids(*arguments):
    command = [sys.executable, "-c", _PROGRAM, *map(str, arguments), "--skip-bids-validation"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def save(root, name, seed=0):
    person = name.partition("_")[0]
    conftest.save(root / person / "anat" / f"{name}.nii.gz", seed)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("several") / "raw"
    conftest.write_description(root)
    for name in ("01_T1w", "01_FLAIR", "02_FLAIR", "03_T1w", "03_T2w"):
        save(root, f"sub-{name}")
    for name in ("04_run-1_T1w", "04_run-2_T1w", "04_FLAIR"):
        save(root, f"sub-{name}")
    for name in ("05_run-1_T1w", "05_run-2_T1w", "05_run-1_FLAIR", "05_run-2_FLAIR"):
        save(root, f"sub-{name}", seed=int("run-2" in name))
    return root


def together(root, *people):
    images = raw_dataset.select_together(raw_dataset.read(str(root), people), CONTRASTS)
    return {str(i.name): [str(one.name) for one in i.beside] for i in images if not i.fault}


def test_images_of_a_session_belong_together_by_their_entities(root):
    assert together(root) == {
        "sub-01_T1w": ["sub-01_FLAIR"],
        "sub-02_FLAIR": [],
        "sub-03_T1w": [],
        "sub-05_run-1_T1w": ["sub-05_run-1_FLAIR"],
        "sub-05_run-2_T1w": ["sub-05_run-2_FLAIR"],
    }
    images = raw_dataset.select_together(raw_dataset.read(str(root), ["04"]), CONTRASTS)
    for image in images:
        assert "has 2 of T1, 1 of FLAIR, and names do not tell which belong" in image.fault


def test_sessions_stay_apart_and_contrast_agents_do_not(tmp_path):
    conftest.write_description(tmp_path)
    for session in ("ses-1", "ses-2"):
        for name in (f"sub-01_{session}_ce-gd_T1w", f"sub-01_{session}_acq-x_T1w"):
            conftest.save(tmp_path / "sub-01" / session / "anat" / f"{name}.nii.gz", 0)
    dataset = raw_dataset.read(str(tmp_path))
    images = raw_dataset.select_together(dataset, ("T1", "T1CE"))
    assert [[one.name.session for one in (i, *i.beside)] for i in images] == [
        ["ses-1", "ses-1"],
        ["ses-2", "ses-2"],
    ]


def test_the_command_scores_what_is_there_and_names_what_is_missing(root, tmp_path):
    out = tmp_path / "out"
    status, said = bids(root, out, "participant", "--participant-label", "01", "02", "03", "04")
    assert status == 1 and "2 of 6 images" in said, said
    assert "left out, another contrast than T1, FLAIR: 1 ('sub-03/anat/sub-03_T2w.nii.gz')" in said
    anat = out / "sub-01" / "anat"
    summary = json.loads((anat / "sub-01_T1w_summary.json").read_text())
    assert summary["model"]["contrasts"] == {"given": ["T1", "FLAIR"], "missing": []}
    beside = summary["scan"]["beside"]["FLAIR"]
    assert beside["source"] == "sub-01_FLAIR.nii.gz" and len(beside["sha256"]) == 64
    side = json.loads((anat / "sub-01_desc-anomaly_mask.json").read_text())
    assert side["Sources"] == [f"bids:raw:sub-01/anat/sub-01_{s}.nii.gz" for s in ("T1w", "FLAIR")]
    assert side["SourceSHA256"] == [summary["scan"]["sha256"], beside["sha256"]]
    lonely = json.loads((out / "sub-03" / "anat" / "sub-03_T1w_summary.json").read_text())
    assert "scored without FLAIR, with T1 alone" in lonely["warnings"]
    failed = json.loads((out / "sub-02" / "anat" / "sub-02_FLAIR_failed.json").read_text())
    assert failed["message"] == "no calibration for FLAIR"
    for path in out.rglob("*.json"):
        assert "somebody" not in path.read_text() and str(tmp_path) not in path.read_text()

    # Another FLAIR is another result, whatever its name; what stayed the same is kept.
    save(root, "sub-01_FLAIR", seed=3)
    before = (out / "sub-03" / "anat" / "sub-03_T1w_summary.json").stat().st_mtime_ns
    bids(root, out, "participant", "--participant-label", "01", "03")
    again = json.loads((anat / "sub-01_T1w_summary.json").read_text())
    assert again["scan"]["beside"]["FLAIR"]["sha256"] != beside["sha256"]
    after = (out / "sub-03" / "anat" / "sub-03_T1w_summary.json").stat().st_mtime_ns
    assert after == before

    status, said = bids(root, out, "group", "--participant-label", "01", "02", "04", "05")
    assert status == 0, said
    with (out / "group_T1w-FLAIR.tsv").open() as file:
        rows = {row["image"]: row["status"] for row in csv.DictReader(file, delimiter="\t")}
    assert rows["sub-01_T1w"] == "done" and rows["sub-02_FLAIR"] == "failed"
    assert rows["sub-05_run-2_T1w"] == "missing" and "sub-01_FLAIR" not in rows


def test_images_of_other_grids_fail_by_name(root, tmp_path):
    copy = tmp_path / "raw"
    conftest.write_description(copy)
    save(copy, "sub-01_T1w")
    image = nib.load(root / "sub-05" / "anat" / "sub-05_run-1_FLAIR.nii.gz")
    moved = image.affine + np.diag([0, 0, 0, 0]).astype(float)
    moved[0, 3] += 2.0
    path = copy / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), path)
    status, said = bids(copy, tmp_path / "out", "participant")
    assert status == 1
    record = tmp_path / "out" / "sub-01" / "anat" / "sub-01_T1w_failed.json"
    message = json.loads(record.read_text())["message"]
    assert "(FLAIR) lies on another grid" in message and "Register it" in message, said
