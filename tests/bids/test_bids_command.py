"""The command as people type it, with a stand-in for the model; and twelve people."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from madad_jax.bids import __main__ as command
from madad_jax.bids import validator
from madad_jax.core import errors
from madad_jax.predict import api
from madad_jax.runtime import startup
from tests.bids import conftest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def loaded(monkeypatch):
    """What the model is loaded with; the stand-in comes instead."""
    seen = []

    def load(checkpoint, *, threshold, **options):
        seen.append({"checkpoint": checkpoint, "threshold": threshold, **options})
        made = conftest.make_detector(threshold or 0.3)
        made.facts = {**made.facts, "run": "/home/somebody/runs/x"}
        return made

    monkeypatch.setattr(api, "load", load)
    monkeypatch.setattr(command.huge_pages, "restart", lambda: None)
    monkeypatch.setattr(startup, "start", lambda: None)
    return seen


def run(*words):
    return command.run(["bids", *map(str, words)])


def table(out):
    text = (out / "group_T1w.tsv").read_text()
    return {row["image"]: row for row in csv.DictReader(text.splitlines(), delimiter="\t")}


def test_people_then_the_group(tree, loaded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(validator, "find", lambda: "")
    for name in ("TMPDIR", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))  # so that it is set back
    out = tmp_path / "out"
    with pytest.raises(errors.UserError, match="run the analysis level 'participant' first"):
        run(tree, out, "group")
    words = ("--n-procs", 2, "--threshold=0.35", "--min_volume_ml", 0.5, "--no-report")
    people = ("--participant-label", "sub-01", "03")
    assert run(tree, out, "participant", *people, *words, "-w", tmp_path / "work") == 1
    assert os.environ["TMPDIR"] == str(tmp_path / "work" / "tmp")
    assert loaded[0]["threshold"] == 0.35 and loaded[0]["changes"] == {"min_volume_ml": 0.5}
    said = capsys.readouterr().out
    assert "2 of 3 images" in said and "1 failed" in said and "not a medical device" in said
    assert run(tree, out, "group") == 0
    rows = table(out)
    assert [row["status"] for row in rows.values()] == ["done"] * 2 + ["missing"] * 2 + ["failed"]
    assert "sub-03_ses-1_T1w.nii.gz" in rows["sub-03_ses-1_T1w"]["reason"]
    assert "5 images (2 done, 1 failed, 2 missing)" in capsys.readouterr().out
    assert not list(out.glob("sub-*.html")) and (out / "index.html").exists()
    assert b"/home/somebody" not in b"".join(conftest.files_of(out).values())
    side = json.loads(next(out.rglob("sub-01_ses-1_desc-anomaly_mask.json")).read_text())
    assert side["Threshold"] == 0.35
    assert run(tree, out, "group", "--participant-label", "03") == 0
    assert list(table(out)) == ["sub-03_ses-1_T1w"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "arguments are required: bids_dir"),
        (("in", "out", "persons"), "participant"),
        (("in", "out", "participant", "--n-proc", "2"), "--n-proc"),
        (("in", "out", "participant", "--n-procs", "0"), "--n-procs: found 0"),
        (("in", "out", "participant", "--checkpoint", "no-such"), "no-such"),
        (("/no/where", "out", "participant"), "bids_dir=/no/where"),
        (("{tree}", "out", "participant", "--space", "mni"), "space: found 'mni'"),
        (("{tree}", "out", "participant", "--participant-label", "99"), "accepted: 01, 02, 03"),
    ],
)
def test_one_line_for_what_the_user_can_mend(tree, loaded, words, text):
    with pytest.raises(errors.UserError, match=text) as caught:
        run(*(str(word).format(tree=tree) for word in words))
    assert "\n" not in str(caught.value) and not loaded


def test_status_and_line_of_the_process():
    done = subprocess.run(
        [sys.executable, "-m", "madad_jax", "bids", "in", "out"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "madad_jax bids: error: the following arguments are required: anal" in done.stderr


def twelve():
    """Names of the images of twelve people: sessions, runs, acquisitions."""
    names = []
    for number in range(1, 13):
        person = f"sub-{number:02d}"
        for session in ("ses-1", "ses-2") if number % 4 == 1 else ("ses-1",):
            stem = f"{person}/{session}/anat/{person}_{session}"
            runs = ("_acq-fast_run-1", "_acq-fast_run-2") if number % 5 == 0 else ("",)
            names += [f"{stem}{run}_T1w" for run in runs]
    return [name for name in names if name != conftest.BROKEN]


@pytest.mark.slow
def test_twelve_people_killed_and_continued(tmp_path):
    """SIGKILL in the midst of it, several times; then two at a time to the end."""
    tree = conftest.write_tree(tmp_path / "raw", twelve())
    once, out = tmp_path / "once", tmp_path / "out"
    assert conftest.start(ROOT, tree, once, "participant").wait(300) == 1
    for kill in range(3):
        child = conftest.start(ROOT, tree, out, "participant", "--n-procs=2")
        while child.poll() is None and len(list(out.rglob("*_summary.json"))) < 3 * kill + 2:
            time.sleep(0.01)
        child.kill()
        assert child.wait() == -9
        for path in out.rglob("*.json"):
            json.loads(path.read_text())
    assert conftest.start(ROOT, tree, out, "participant", "--n-procs=2").wait(300) == 1
    for folder in (once, out):
        assert conftest.start(ROOT, tree, folder, "group").wait(60) == 0
    assert conftest.files_of(out) == conftest.files_of(once)
    assert conftest.errors_of(out) == []
    rows = table(out)
    assert len({row["participant_id"] for row in rows.values()}) == 12
    failed = [name for name, row in rows.items() if row["status"] != "done"]
    assert failed == ["sub-03_ses-1_T1w"] and len(rows) == len(twelve()) + 1
    assert "sub-03_ses-1_T1w.nii.gz" in rows[failed[0]]["reason"]
