import csv
import json
import threading

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.core import errors
from madad_jax.predict import scan_folder
from tests.predict import conftest


@pytest.fixture
def scans(tmp_path):
    """A folder with two good scans, one of them deeper, and a damaged one between."""
    root = tmp_path / "in"
    (root / "b").mkdir(parents=True)
    for seed, name in enumerate(("a.nii.gz", "b/scan.nii")):
        image, _, affine = conftest.brain_scan(lesion=bool(seed), seed=seed)
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), root / name)
    (root / "a_bad.nii.gz").write_bytes(b"\x1f\x8bnot a scan")
    (root / "notes.txt").write_text("not a scan either")
    return root


def _table(out):
    return {row["scan"]: row for row in csv.DictReader((out / "scans.csv").open())}


def test_one_bad_scan_does_not_stop_the_others(scans, setting, tmp_path):
    found, single = scan_folder.discover(str(scans))
    assert [f.name for f in found] == ["a", "a_bad", "b_scan"] and not single
    made, out = conftest.make_detector(setting), tmp_path / "out"
    rows = scan_folder.predict_scans(
        made, found, epath.Path(out), single=False, workers=2, report=False
    )
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    table = _table(out)
    assert "a_bad.nii.gz" in table["a_bad"]["message"] and table["a_bad"]["score"] == ""
    assert int(table["b_scan"]["candidates"]) >= 1
    assert sorted(p.name for p in out.iterdir()) == ["a", "b_scan", "scans.csv"]
    stamp = (out / "a" / "anomaly.nii.gz").stat().st_mtime_ns
    # Again: what is done stays, unless the settings are others.
    rows = scan_folder.predict_scans(made, found, epath.Path(out), single=False, report=False)
    assert [r["status"] for r in rows] == ["done before", "failed", "done before"]
    assert (out / "a" / "anomaly.nii.gz").stat().st_mtime_ns == stamp
    text = json.loads((out / "a" / "summary.json").read_text())
    text["settings_sha256"] = "of another threshold"
    (out / "a" / "summary.json").write_text(json.dumps(text))
    rows = scan_folder.predict_scans(made, found[:1], epath.Path(out), single=False, report=False)
    assert rows[0]["status"] == "done"


def test_a_defect_of_ours_costs_one_scan_too(setting, tmp_path):
    def one(scan):
        if scan.name == "b":
            raise ZeroDivisionError("ours")
        return {"status": "done"}

    found = [scan_folder.Scan(n, epath.Path(tmp_path / n)) for n in "abc"]
    rows = scan_folder.for_each_scan(one, found, epath.Path(tmp_path), single=False)
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    assert "unexpected ZeroDivisionError: ours" in rows[1]["message"]


def test_after_a_signal_no_further_scan_is_begun(tmp_path):
    stop, begun = threading.Event(), []

    def one(scan):
        begun.append(scan.name)
        stop.set()
        return {"status": "done"}

    found = [scan_folder.Scan(n, epath.Path(tmp_path / n)) for n in "abc"]
    rows = scan_folder.for_each_scan(
        one, found, epath.Path(tmp_path), single=False, stopped=stop.is_set
    )
    assert begun == ["a"] and len(rows) == 1


def test_what_is_a_scan(tmp_path):
    with pytest.raises(errors.UserError, match="no such file"):
        scan_folder.discover(str(tmp_path / "nowhere"))
    with pytest.raises(errors.UserError, match="no scan in it"):
        scan_folder.discover(str(tmp_path))
    series = tmp_path / "series"
    series.mkdir()
    for i in range(3):
        (series / f"IM{i}").write_bytes(b"\0" * 128 + b"DICM")
    found, single = scan_folder.discover(str(series))
    assert single and found == [scan_folder.Scan("series", epath.Path(series))]
    found, single = scan_folder.discover(str(tmp_path))
    assert not single and [f.name for f in found] == ["series"]
    (tmp_path / "x.nii").write_bytes(b"")
    (tmp_path / "x.nii.gz").write_bytes(b"")
    with pytest.raises(errors.UserError, match="two scans are called 'x'"):
        scan_folder.discover(str(tmp_path))


@pytest.mark.parametrize("task", ["sample", "pixel"])
def test_mood_interface(scans, setting, tmp_path, task):
    found, _ = scan_folder.discover(str(scans))
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    scan_folder.predict_for_mood(conftest.make_detector(setting), found, out, task)
    if task == "sample":
        scores = {p.name: float(p.read_text()) for p in out.iterdir()}
        assert set(scores) == {"a.nii.gz.txt", "scan.nii.txt"}
        assert 0 <= scores["a.nii.gz.txt"] < scores["scan.nii.txt"] <= 1
    else:
        image = nib.load(out / "scan.nii")
        assert {p.name for p in out.iterdir()} == {"a.nii.gz", "scan.nii"}
        values = np.asarray(image.dataobj)
        assert image.shape == nib.load(scans / "b" / "scan.nii").shape
        assert values.min() == 0 and 0.5 < values.max() <= 1
