"""A folder of scans shared by two real processes."""

import csv

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.predict import scan_folder
from tests.e2e import jobs
from tests.predict import conftest


def _table(out):
    rows = csv.DictReader((out / "scans.csv").open())
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_tables_of_processes_become_one(tmp_path):
    out = epath.Path(tmp_path)
    for k, names in enumerate((["c", "a"], [], ["b"])):
        rows = [{"scan": n, "status": "done", "score": 0.25, "other": 1} for n in names]
        if rows:
            scan_folder._write_table(out / scan_folder.table_name(k), rows)
    rows = scan_folder.merge_tables(out, 3)
    assert [r["scan"] for r in rows] == ["a", "b", "c"]
    assert [r["scan"] for r in _table(tmp_path)] == ["a", "b", "c"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidates.tsv", "scans.csv"]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_leave_what_one_leaves(untrained, tmp_path):
    """Three scans, one of them damaged: the shares are uneven and one process fails a scan."""
    root = tmp_path / "in"
    root.mkdir()
    for seed, name in enumerate("ac"):
        image, _, affine = conftest.brain_scan(lesion=bool(seed), seed=seed)
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), root / f"{name}.nii.gz")
    (root / "b.nii.gz").write_bytes(b"not a scan")
    flags = [f"--checkpoint={untrained}", f"--input={root}", "--threshold=0.5"]
    for count in (1, 2):
        out = tmp_path / f"out{count}"
        job = jobs.Job(
            *flags, f"--output={out}", "--report=false", count=count, module="madad_jax.predict"
        )
        with job:
            ends = job.ends()
        assert [status for status, _ in ends] == [1] * count, ends[0][1][-3000:]
        assert all("2 of 3 scans" in text and "1 failed" in text for _, text in ends)
    one, two = _table(tmp_path / "out1"), _table(tmp_path / "out2")
    assert [r["scan"] for r in two] == ["a", "b", "c"]
    assert one == [{**r, "source": r["source"]} for r in two]
    assert sorted(p.name for p in (tmp_path / "out2").iterdir()) == ["a", "c", "scans.csv"]
    for name in "ac":
        a, b = (
            np.asarray(nib.load(tmp_path / f"out{n}" / name / "anomaly.nii.gz").dataobj)
            for n in (1, 2)
        )
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_what_cannot_be_shared_is_one_line(untrained, tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(b"")
    flags = [f"--checkpoint={untrained}", f"--input={tmp_path}/scan.nii.gz", "--threshold=0.5"]
    with jobs.Job(*flags, f"--output={tmp_path}/out", module="madad_jax.predict") as job:
        ends = job.ends()
    assert [status for status, _ in ends] == [2, 2], ends
    assert "one scan cannot be shared" in ends[0][1] and "Traceback" not in ends[0][1]
