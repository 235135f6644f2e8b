"""`candidates.tsv`: all places of all scans, for people and spreadsheets."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from etils import epath

from madad_jax.data import discovery, scan_names
from madad_jax.predict import candidates_table, scan_folder
from tests.predict import conftest
from tests.scans import cases


def _read(out):
    return list(csv.DictReader((out / candidates_table.NAME).open(), delimiter="\t"))


@pytest.fixture
def scans(tmp_path):
    """Two scans with a lesion, one of them stored by coronal slices, and one without."""
    for name, lesion, code in (("a", True, "RAS"), ("b", False, "RAS"), ("c", True, "LIP")):
        image, _, affine = conftest.brain_scan(lesion=lesion, seed=len(name))
        image, affine = cases.reorder(np.round(image), affine, code)
        (tmp_path / "in").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), tmp_path / "in" / f"{name}.nii")
    return discovery.discover(str(tmp_path / "in"))[0]


def test_every_place_of_every_scan_has_a_line(scans, setting, tmp_path):
    out = epath.Path(tmp_path / "out")
    made = conftest.make_detector(setting)
    scan_folder.predict_scans(made, scans, out, single=False, report=False)
    rows = _read(out)
    assert list(rows[0]) == list(candidates_table.COLUMNS)
    expected = []
    for scan in scans:
        summary = json.loads((out / scan.name / "summary.json").read_text())
        expected += [(scan.name, str(p["number"])) for p in summary["candidates"]]
    assert [(row["scan"], row["candidate"]) for row in rows] == expected
    first = {row["scan"]: row for row in reversed(rows)}
    for name in ("a", "c"):
        row = first[name]
        place = [float(row[f"mni_{axis}_mm"]) for axis in "xyz"]
        assert np.linalg.norm(np.array(place) - conftest.CENTRE) < 4
        assert 1 < float(row["volume_ml"]) < 10 and "left" in row["region"]
        assert 0 < float(row["mean"]) <= float(row["peak"]) <= 1
        # The slice is the file's own: its third axis, whatever direction that has.
        image = nib.load(tmp_path / "in" / f"{name}.nii")
        native = [float(row[f"{axis}_mm"]) for axis in "xyz"]
        voxel = np.linalg.inv(image.affine) @ [*native, 1.0]
        assert abs(voxel[2] - float(row["slice"])) < 0.6
        mask = np.asarray(nib.load(out / name / "anomaly_mask.nii.gz").dataobj)
        assert mask[:, :, int(row["slice"])].any()
    text = (out / candidates_table.NAME).read_text()
    # Again: what was done before is listed as it was.
    again = scan_folder.predict_scans(made, scans, out, single=False, report=False)
    assert {row["status"] for row in again} == {"done before"}
    assert (out / candidates_table.NAME).read_text() == text


def test_one_scan_has_its_table_too(scans, setting, tmp_path):
    out = epath.Path(tmp_path / "one")
    made = conftest.make_detector(setting)
    scan_folder.predict_scans(made, scans[:1], out, single=True, report=False)
    assert {row["scan"] for row in _read(out)} == {"a"}
    strict = conftest.make_detector(
        conftest.dataclasses.replace(
            setting, options=conftest.scan_stacks.Options(min_volume_ml=900.0)
        )
    )
    scan_folder.predict_scans(strict, scans[:1], out, single=True, report=False)
    assert _read(out) == [] and (out / candidates_table.NAME).read_text().startswith("scan\t")


def test_a_space_that_is_asked_for_later_is_made(scans, setting, tmp_path):
    out = epath.Path(tmp_path / "out")
    made = conftest.make_detector(setting)
    for space, status in (("", "done"), ("MNI152NLin2009aSym", "done"), ("", "done before")):
        rows = scan_folder.predict_scans(
            made, scans[:1], out, single=True, report=False, space=space
        )
        assert rows[0]["status"] == status
    assert (out / "space-MNI152NLin2009aSym_anomaly.nii.gz").exists()


def test_tables_of_processes_become_one(result, tmp_path):
    out = epath.Path(tmp_path)
    for k, name in enumerate(("b", "a")):
        row = {"scan": name, "status": "done", "score": 0.25}
        scan_folder._write_table(out / scan_folder.table_name(k), [row])
        rows = candidates_table.list_rows(name, result.summary)
        candidates_table.write(out / scan_folder.table_name(k, places=True), rows)
    scan_folder.merge_tables(out, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidates.tsv", "scans.csv"]
    merged = _read(out)
    assert {row["scan"] for row in merged} == {"a", "b"}
    whole = [*candidates_table.list_rows("a", result.summary)]
    whole += candidates_table.list_rows("b", result.summary)
    candidates_table.write(out / "whole.tsv", whole)
    assert (out / "whole.tsv").read_text() == (out / "candidates.tsv").read_text()


BAD = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1+1", "＝1+1", "\u00a0@x", "\n-x")


@pytest.mark.parametrize("text", BAD)
def test_no_spreadsheet_computes_a_cell(result, tmp_path, text):
    summary = json.loads(json.dumps(result.summary))
    summary["candidates"] = summary["candidates"][:1]
    summary["candidates"][0]["region"]["name"] = text
    path = epath.Path(tmp_path) / "t.tsv"
    candidates_table.write(path, candidates_table.list_rows(text, summary))
    (row,) = csv.DictReader(path.open(), delimiter="\t")
    for name in ("scan", "region"):
        cell = row[name]
        plain = cell.replace("＝", "=").lstrip()
        assert not plain.startswith(("=", "+", "-", "@")) and cell.isprintable()
    # Numbers stay numbers, the negative ones too.
    assert float(row["mni_x_mm"]) < 0


@pytest.mark.parametrize("name", ["candidates.tsv", "Candidates.TSV.new"])
def test_a_scan_that_is_called_like_the_table(name):
    (safe,) = scan_names.output_names([name])
    assert safe.casefold() != candidates_table.NAME and safe.endswith("_scan")


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(max_score="=1"),
        lambda p: p.update(centre_mm=[1, 2]),
        lambda p: p.update(volume_ml=float("nan")),
        lambda p: p.pop("region"),
    ],
)
def test_a_summary_that_somebody_changed_is_none(result, change):
    summary = json.loads(json.dumps(result.summary))
    change(summary["candidates"][0])
    with pytest.raises((ValueError, KeyError, TypeError)):
        candidates_table.list_rows("a", summary)
