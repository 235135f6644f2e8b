"""A folder of scans, some of them bad: the rest is prepared, nothing partial remains."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.sources import png_folder
from madad_jax.prepare import __main__ as main
from madad_jax.prepare import cohorts
from madad_jax.prepare import job as job_lib
from madad_jax.scans import geometry
from tests.scans import cases

COMMAND = (sys.executable, "-m", "madad_jax.prepare")
TABLE = """
title: Test scans
licence: none
id: '[a-z0-9]+'
images: {T1: '{id}_T1{nii}'}
segmentation: '{id}_seg{nii}'
options: {registration: none, brain_mask: nonzero}
fractions: {train: 0.34, val: 0.33, test: 0.33}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six good scans of 3 mm, and one of each kind of bad one."""
    place = tmp_path_factory.mktemp("scans") / "in"
    voxel = (3.0, 3.0, 3.0)
    for k in range(6):
        cases.write(place, f"good{k}", voxel=voxel, code=("RAS", "LPS", "PSR")[k % 3])
    good = place / "good0_T1.nii.gz"
    content = good.read_bytes()
    (place / "cut_T1.nii.gz").write_bytes(content[: len(content) // 2])
    (place / "text_T1.nii.gz").write_text("hello")
    grid = cases.box(voxel)
    image, _, lesion = cases.see(grid)
    cases.save(place / "four_T1.nii.gz", np.stack([image, image], -1), grid.affine)
    cases.save(place / "zeros_T1.nii.gz", image * 0, grid.affine)
    cases.save(place / "nan_T1.nii.gz", image * np.nan, grid.affine)
    cases.save(place / "shape_T1.nii.gz", image, grid.affine)
    cases.save(place / "shape_seg.nii.gz", lesion[:-1], grid.affine, kind=np.uint8)
    cases.save(place / "twice_T1.nii.gz", image, grid.affine)
    cases.save(place / "twice_T1.nii", image, grid.affine)
    cases.save(place / "lone_seg.nii.gz", lesion, grid.affine, kind=np.uint8)
    (place / "notes.txt").write_text("left alone")
    (place.parent / "table.yaml").write_text(TABLE)
    return place


BAD = {
    "cut": "truncated or damaged",
    "text": "no header",
    "four": "4 dimensions",
    "zeros": "0 everywhere",
    "nan": "no finite value",
    "shape": "both must be of one grid",
    "twice": "duplicate id: 2 files for T1: twice_T1.nii, twice_T1.nii.gz",
    "lone": "missing modality T1",
}


def arguments(folder, out, *more):
    return [
        *("--cohort=folder", f"--cohort_file={folder.parent / 'table.yaml'}", f"--in={folder}"),
        *(f"--out={out}", "--protocol=s2", "--image_size=64", *more),
    ]


def command(folder, out, *more):
    return subprocess.run(
        [*COMMAND, *arguments(folder, out, *more)], capture_output=True, text=True, check=False
    )


def tree(out):
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, command(folder, out, "--workers=2")


def test_the_rest_is_prepared_and_each_bad_file_is_named(prepared):
    out, done = prepared
    assert done.returncode == 1, done.stderr
    for scan, reason in BAD.items():
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"- {scan}: "))
        assert reason in line
        assert not list(out.rglob(f"{scan}-slice*")) and not list(out.rglob(f"{scan}.json"))
    assert not list(out.rglob("*.new"))
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {row["scan"] for row in rows} == {f"good{k}" for k in range(6)}
    assert all((out / row["file"]).exists() for row in rows)
    summary = (out / "summary.md").read_text()
    assert all(f"- {scan}: " in summary for scan in BAD)


def test_what_is_written_is_what_training_reads(prepared):
    out, _ = prepared
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    people = {}
    for split in sorted({row["split"] for row in rows}):
        source = png_folder.PngFolder(str(out), split=split, modality="T1", image_size=64)
        mine = [row for row in rows if row["split"] == split]
        assert [record.id for record in source.records] == sorted(row["id"] for row in mine)
        for record, element in zip(source.records, source, strict=False):
            row = next(row for row in mine if row["id"] == record.id)
            assert element["brain_mask"].sum() == row["brain_pixels"]
            if split.startswith("test"):
                assert element["has_segmentation"]
                assert element["segmentation"].sum() == row["lesion_pixels"]
            else:
                assert row["lesion_pixels"] == 0
            raw = cv2.imread(str(out / row["file"]), cv2.IMREAD_UNCHANGED)
            expected = np.where(element["brain_mask"], raw / np.float32(255) * 2 - 1, -1)
            np.testing.assert_allclose(element["image"][..., 0], expected, atol=1e-6)
            people.setdefault(row["subject"], set()).add(split.split("_")[0])
    assert all(len(splits) == 1 for splits in people.values())


def test_again_changes_nothing(prepared, folder):
    out, _ = prepared
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert set(job_lib.prepare(job(folder, out)).refused) == set(BAD)  # The bad are still bad.
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert after == before


def job(folder, out, **changes):
    cohort = cohorts.load("folder", str(folder.parent / "table.yaml"))
    values = {
        "cohort": cohort,
        "root": str(folder),
        "out": str(out),
        "modalities": ("T1",),
        "options": cases.options(
            protocol="s2",
            geometry=geometry.Geometry(64, 256.0),
            registration="none",
            brain_mask="nonzero",
        ),
        "fractions": cohort.fractions,
    }
    return job_lib.Job(**(values | changes))


def test_other_options_need_another_folder(prepared, folder):
    out, _ = prepared
    with pytest.raises(errors.UserError, match="was prepared with seed=0, now it is 1"):
        job_lib.plan(job(folder, out, seed=1))


def test_a_folder_with_other_things_is_left_alone(tmp_path, folder):
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(errors.UserError, match="no preparation made"):
        job_lib.plan(job(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_what_a_kill_leaves_is_mended(prepared, folder, tmp_path):
    """Pictures without a state, half-written files, a lost picture, a damaged state."""
    out = tmp_path / "out"
    shutil.copytree(prepared[0], out)
    whole = tree(out)
    states = sorted((out / ".prepare" / "scans").iterdir())
    states[0].unlink()
    states[1].write_bytes(states[1].read_bytes()[:50])
    next(out.rglob("good5-*.png")).unlink()
    (out / "manifest.jsonl").unlink()
    stray = out / "train" / "good0-slice_999-T1.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"half")
    (out / "train" / "good1-slice_080-T1.png.77-1403.new").write_bytes(b"half")
    (out / "manifest.jsonl.77-1403.new").write_bytes(b"half")
    what = job_lib.plan(job(folder, out))
    assert {"good0", "good1", "good5"} <= {item.scan for item in what.todo}
    assert {item.scan for item in what.current} == {"good2", "good3", "good4"}
    command(folder, out, "--workers=1")
    assert tree(out) == whole


def test_a_file_that_changed_is_prepared_anew_and_one_that_went_bad_disappears(
    prepared, folder, tmp_path
):
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(folder, source)
    (tmp_path / "table.yaml").write_text(TABLE)
    shutil.copytree(prepared[0], out)
    # Copies have other times but the same contents.
    assert len(job_lib.plan(job(source, out)).current) == 6
    (source / "good1_T1.nii.gz").write_text("bad now")
    (source / "good2_T1.nii.gz").unlink()
    (source / "good2_seg.nii.gz").unlink()
    what = job_lib.plan(job(source, out))
    assert {"good1"} == {item.scan for item in what.todo if item.scan.startswith("good")}
    assert what.gone == ("good2",)
    summary = job_lib.prepare(job(source, out))
    assert summary.refused["good1"].startswith("'good1_T1.nii.gz' is no NIfTI")
    assert not list(out.rglob("good1-*"))
    assert list(out.rglob("good2-*")), "kept until --prune says otherwise"
    summary = job_lib.prepare(job(source, out, prune=True))
    assert not list(out.rglob("good2-*")) and not summary.gone


def test_a_dry_run_says_what_it_would_do_and_does_nothing(folder, tmp_path, capsys):
    assert main.run(["prepare", *arguments(folder, tmp_path / "out", "--dry_run")]) == 1
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "prepare  good0" in said and "64 x 77 x 64 voxels of 3.00" in said
    assert "refuse   four: " in said and "refuse   lone: " in said


def test_a_person_in_two_splits_is_an_error(folder, tmp_path):
    lists = tmp_path / "lists.csv"
    lists.write_text("subject,split\ngood0,train\ngood1,val\ngood0,test\n")
    with pytest.raises(errors.UserError, match="'good0' is in both 'train' and 'test'"):
        main.run(["prepare", *arguments(folder, tmp_path / "out", f"--splits={lists}")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--modality=T9",), "accepted for Test scans: T1"),
        (("--protocol=s4",), "protocol"),
        (("--fractions=0.5,0.5,0.5",), "add up to 1"),
        (("--modalty=T1",), "Unknown command line flag"),
        (("--image_size=0",), "above 0"),
    ],
)
def test_bad_flags_end_in_one_line(folder, tmp_path, more, text):
    with pytest.raises(errors.UserError, match=text) as error:
        main.run(["prepare", *arguments(folder, tmp_path / "out", *more)])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_and_continued_equals_undisturbed(prepared, folder, tmp_path, seed):
    out = tmp_path / "out"
    rng = np.random.default_rng(seed)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(
            [*COMMAND, *arguments(folder, out, "--workers=2")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        target, start = int(rng.integers(1, 60)), time.monotonic()
        while len(list(out.rglob("*.png"))) < target and process.poll() is None:
            time.sleep(0.005)
            assert time.monotonic() - start < 300
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 1
    time.sleep(1.5)  # Workers notice within half a second that their parent is gone.
    assert command(folder, out, "--workers=2").returncode == 1
    assert tree(out) == tree(prepared[0])


def test_sigterm_stops_and_says_so(folder, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*COMMAND, *arguments(folder, out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not (out / ".prepare" / "lock").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143
    assert b"the same command continues" in said


def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on(prepared, folder, tmp_path):
    """Files that cannot grow stand in for it; the workers inherit the limit."""
    out = tmp_path / "out"
    words = [*COMMAND, *arguments(folder, out, "--workers=1")]
    limited = f"ulimit -f 3; exec {shlex.join(words)}"  # KiB, by bash: less than a picture
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(said) == 1 and said[0].endswith("cannot be written: File too large")
    assert not list(out.rglob("*.new")) and not (out / ".prepare" / "lock").exists()
    assert command(folder, out, "--workers=1").returncode == 1
    assert tree(out) == tree(prepared[0])
