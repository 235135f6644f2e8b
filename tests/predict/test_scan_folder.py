import csv
import json
import threading

import nibabel as nib
import numpy as np
import pydicom
import pytest
from etils import epath
from pydicom import fileset

from madad_jax.core import errors
from madad_jax.data import discovery
from madad_jax.predict import scan_folder
from tests.predict import conftest
from tests.scans import dicom_writer


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
    found, single = discovery.discover(str(scans))
    assert [f.name for f in found] == ["a", "a_bad", "b_scan"] and not single
    made, out = conftest.make_detector(setting), tmp_path / "out"
    rows = scan_folder.predict_scans(
        made, found, epath.Path(out), single=False, workers=2, report=False
    )
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    table = _table(out)
    assert "a_bad.nii.gz" in table["a_bad"]["message"] and table["a_bad"]["score"] == ""
    assert int(table["b_scan"]["candidates"]) >= 1
    assert sorted(p.name for p in out.iterdir()) == ["a", "b_scan", "candidates.tsv", "scans.csv"]
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

    found = [discovery.Scan(n, epath.Path(tmp_path / n)) for n in "abc"]
    rows = scan_folder.for_each_scan(one, found, epath.Path(tmp_path), single=False)
    assert [r["status"] for r in rows] == ["done", "failed", "done"]
    assert "unexpected ZeroDivisionError: ours" in rows[1]["message"]


def test_after_a_signal_no_further_scan_is_begun(tmp_path):
    stop, begun = threading.Event(), []

    def one(scan):
        begun.append(scan.name)
        stop.set()
        return {"status": "done"}

    found = [discovery.Scan(n, epath.Path(tmp_path / n)) for n in "abc"]
    rows = scan_folder.for_each_scan(
        one, found, epath.Path(tmp_path), single=False, stopped=stop.is_set
    )
    assert begun == ["a"] and len(rows) == 1


def test_what_is_a_scan(tmp_path):
    with pytest.raises(errors.UserError, match="no such file"):
        discovery.discover(str(tmp_path / "nowhere"))
    with pytest.raises(errors.UserError, match="no scan in it"):
        discovery.discover(str(tmp_path))
    series = tmp_path / "series"
    series.mkdir()
    for i in range(3):
        (series / f"IM{i}").write_bytes(b"\0" * 128 + b"DICM")
    found, single = discovery.discover(str(series))
    assert single and found == [discovery.Scan("series", epath.Path(series))]
    found, single = discovery.discover(str(tmp_path))
    assert not single and [f.name for f in found] == ["series"]


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _names(root, include=""):
    found, single = discovery.discover(str(root), include)
    assert not single
    return [scan.name for scan in found]


def test_scans_of_one_name_have_folders_of_their_own(tmp_path):
    _touch(tmp_path, "x.nii", "x.nii.gz", "X.NII.GZ", "a/b.nii", "a_b.nii", "other.nii")
    names = _names(tmp_path)
    assert len({name.casefold() for name in names}) == len(names) == 6
    assert sum(name.casefold().startswith("x-") for name in names) == 3 and "other" in names
    assert sorted(names) == sorted(_names(tmp_path))


def test_a_scan_that_is_called_like_the_table(tmp_path, setting):
    image, _, affine = conftest.brain_scan(seed=1)
    image = nib.Nifti1Image(image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    for name in ("scans.csv", "summary.json", "half.new"):
        nib.save(image, root / f"{name}.nii.gz")
    found, _ = discovery.discover(str(root))
    made = conftest.make_detector(setting)
    for _ in range(2):
        rows = scan_folder.predict_scans(made, found, epath.Path(out), single=False, report=False)
        assert [row["status"] != "failed" for row in rows] == [True] * 3
    assert set(_table(out)) == {"scans.csv_scan", "summary.json", "half.new_scan"}
    summary = json.loads((out / "summary.json" / "summary.json").read_text())
    assert summary["scan"]["source"] == "summary.json.nii.gz"
    assert str(tmp_path) not in (out / "summary.json" / "summary.json").read_text()


def test_hostile_names_in_table_terminal_and_page(tmp_path, setting, capfd):
    image, _, affine = conftest.brain_scan(seed=1)
    image = nib.Nifti1Image(image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    root, out = tmp_path / "Doe^Jane", tmp_path / "out"
    root.mkdir()
    good = "<i>\x1b[31m@x\n.nii"
    nib.save(image, root / good)
    _touch(root, "=1+1.nii", "+\x1b[31m.nii", "-\n.nii", "@sum.nii.gz")
    found, _ = discovery.discover(str(root))
    rows = scan_folder.predict_scans(
        conftest.make_detector(setting), found, epath.Path(out), single=False
    )
    assert sorted(row["status"] for row in rows) == ["done", *["failed"] * 4]
    said = capfd.readouterr()
    assert "\x1b[31m" not in said.out + said.err
    text = (out / "scans.csv").read_text()
    assert text.count("\n") == 6 and text.replace("\n", "").isprintable()
    cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    (done,) = (row["scan"] for row in rows if row["status"] == "done")
    for name in ("summary.json", "report.html"):
        written = (out / done / name).read_text()
        assert "Doe^Jane" not in written and "\x1b[31m" not in written
        assert ("<i>\\" in written) == (name == "summary.json")


def test_a_summary_that_somebody_changed_counts_for_nothing(setting, tmp_path):
    image, _, affine = conftest.brain_scan(seed=1)
    image = nib.Nifti1Image(image[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0]))
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii")
    found, _ = discovery.discover(str(tmp_path / "in"))
    made, out = conftest.make_detector(setting), epath.Path(tmp_path / "out")
    for change in (lambda s: s.pop("candidates"), lambda s: s.update(scan=[]), lambda s: s.clear()):
        scan_folder.predict_scans(made, found, out, single=False, report=False)
        summary = json.loads((out / "a" / "summary.json").read_text())
        change(summary)
        (out / "a" / "summary.json").write_text(json.dumps(summary))
        rows = scan_folder.predict_scans(made, found, out, single=False, report=False)
        assert rows[0]["status"] == "done"


BIDS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii.gz",
    "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
    "sub-01/anat/sub-01_dseg.nii.gz",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "derivatives/seg/sub-01/anat/sub-01_T1w.nii.gz",
    "derivatives/seg/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
    "labelsTr/a.nii.gz",
)


def test_masks_and_derivatives_are_no_scans(tmp_path, caplog):
    _touch(tmp_path, *BIDS)
    expected = [
        "sub-01_anat_sub-01_FLAIR", "sub-01_anat_sub-01_T1w", "sub-02_anat_sub-02_T1w",
    ]  # fmt: skip
    assert _names(tmp_path) == expected
    said = "\n".join(caplog.messages)
    assert "masks and segmentations by their names: 2 ('sub-01_desc-brain_mask.nii.gz'" in said
    assert "folders of results or labels: 2 ('derivatives', 'labelsTr')" in said
    assert "--include=PATTERN takes them" in said


def test_a_pattern_takes_what_a_name_leaves_out(tmp_path, caplog):
    _touch(tmp_path, *BIDS)
    assert _names(tmp_path, "*_dseg.nii.gz") == ["sub-01_anat_sub-01_dseg"]
    assert _names(tmp_path, "derivatives/*_T1w*") == ["derivatives_seg_sub-01_anat_sub-01_T1w"]
    assert not caplog.messages
    with pytest.raises(errors.UserError, match="no scan in it that fits --include=nothing"):
        _names(tmp_path, "nothing")
    found, single = discovery.discover(str(tmp_path / BIDS[3]))
    assert single and found[0].name == "sub-01_dseg"
    (tmp_path / "masks").mkdir()
    _touch(tmp_path, "masks/x_mask.nii")
    with pytest.raises(errors.UserError, match=r"no scan in it \(1 left out by name\)"):
        _names(tmp_path / "masks")


def test_another_contrast_is_left_out(tmp_path, caplog):
    _touch(tmp_path, *BIDS, "x_t2.nii.gz")
    found, _ = discovery.discover(str(tmp_path))
    kept = discovery.keep_contrast(found, "T1", asked=False)
    expected = ["x_t2", "sub-01_anat_sub-01_T1w", "sub-02_anat_sub-02_T1w"]
    assert [scan.name for scan in kept] == expected
    said = "\n".join(caplog.messages)
    assert "left out, another contrast than T1: 1 ('sub-01_FLAIR.nii.gz')" in said
    assert "named like another contrast than T1, and scored: 1 ('x_t2.nii.gz')" in said
    assert discovery.keep_contrast(found, "T1", asked=True) == found
    with pytest.raises(errors.UserError, match="no scan of PD"):
        discovery.keep_contrast(found[1:], "PD", asked=False)


def test_the_root_of_a_cd_is_no_scan(tmp_path):
    """DICOMDIR and what starts the viewer lie there, the series below."""
    dicom_writer.series(tmp_path / "loose")
    cd = fileset.FileSet()
    for path in (tmp_path / "loose").iterdir():
        d = pydicom.dcmread(path)
        d.StudyInstanceUID, d.PatientID, d.StudyDate, d.StudyTime = "1.2", "x", "20260101", "12"
        d.StudyID, d.SeriesNumber, d.InstanceNumber = "1", 1, int(path.stem) + 1
        cd.add(d)
    cd.write(tmp_path / "cd")
    dicom_writer.save(tmp_path / "cd" / "SR1", {"report": dicom_writer.report()})
    _touch(tmp_path / "cd", "AUTORUN.INF", "viewer.exe", "Thumbs.db")
    assert (tmp_path / "cd" / "DICOMDIR").is_file()
    assert _names(tmp_path / "cd") == ["PT000000_ST000000_SE000000"]


def test_a_mask_beside_a_series_does_not_hide_it(tmp_path):
    dicom_writer.series(tmp_path / "s")
    _touch(tmp_path, "s/brain_mask.nii.gz")
    assert _names(tmp_path) == ["s"]


def test_a_link_round_to_the_top_ends(tmp_path):
    _touch(tmp_path, "a/x.nii")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert _names(tmp_path) == ["a_x"]


def test_two_files_of_one_name_are_too_many_for_mood(tmp_path, setting):
    made = conftest.make_detector(setting)
    found = [discovery.Scan(n, epath.Path(tmp_path / n / "x.nii")) for n in "ab"]
    with pytest.raises(errors.UserError, match=r"two scans are called 'x\.nii'"):
        scan_folder.predict_for_mood(made, found, epath.Path(tmp_path), "sample")


@pytest.mark.parametrize("task", ["sample", "pixel"])
def test_mood_interface(scans, setting, tmp_path, task):
    found, _ = discovery.discover(str(scans))
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


def test_a_folder_with_a_summary_is_left_out_with_a_line(tmp_path, caplog):
    for name in ("a_T1w.nii.gz", "pred/a_T1w.nii.gz", "pred/summary.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found, _ = discovery.discover(str(tmp_path))
    assert [scan.name for scan in found] == ["a_T1w"]
    assert "folders with a summary.json: 1 ('pred')" in caplog.text
