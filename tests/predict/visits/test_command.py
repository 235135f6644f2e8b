"""The whole command on drawn visits: results of a stand-in detector, scans moved by a known way."""

import csv
import dataclasses
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from madad_jax.core import errors
from madad_jax.metrics import calibration
from madad_jax.predict import detector
from madad_jax.predict.visits import command, halfway, sides, visit, visits_files, visits_montage
from madad_jax.scans import geometry, head_pair, itk, rigid_motion
from tests.predict import conftest
from tests.scans import drawn_head

THRESHOLD = 0.25
KEPT, GONE, NEW = (-26.0, -30.0, 24.0), (30.0, -40.0, 30.0), (28.0, 20.0, 20.0)  # first's mm
FIRST, SECOND = {KEPT: 9.0, GONE: 10.0}, {KEPT: 13.0, NEW: 10.0}  # radii, mm


def _motion():
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.radians(7.0) * np.array([0.6, 0.0, 0.8])).as_matrix()
    motion[:3, 3] = (4.0, -3.0, 5.0)
    return motion


def _write_visit(folder, motion, balls, seed=0, weights="ab12"):
    """A scan with bright balls, and what a stand-in says of it; gives the painted ml."""
    head = drawn_head.draw_head(motion, seed=seed)
    data, ml = head.volume.data.copy(), {}
    points = np.moveaxis(np.indices(data.shape), 0, -1) @ head.volume.affine[:3, :3].T
    points = points + head.volume.affine[:3, 3]
    for centre, radius in balls.items():
        middle = rigid_motion.move(motion, np.array([centre]))[0]
        ball = (np.linalg.norm(points - middle, axis=-1) < radius) & head.brain
        data[ball], ml[centre] = 1600.0, float(ball.sum()) * head.volume.voxel_ml
    folder.mkdir(parents=True)
    scan = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.int16), head.volume.affine), scan)
    fine = geometry.Geometry(104, 208.0, first_level=-60.0, level_step=3.0)
    # The balls are the brightest: all tissue stays in the lower two thirds.
    preparation = dataclasses.replace(
        conftest.PREPARATION, geometry=fine, intensity="percentile", low=0.0, high=100.0
    )
    setting = dataclasses.replace(
        conftest.PLAIN, point=calibration.Point(THRESHOLD, "threshold", THRESHOLD)
    )
    facts = {"run": "stand-in", "method": "none", "modality": "T1", "weights": weights}
    numbers = tuple(range(4, 44))
    made = detector.Detector(
        conftest.bright, preparation, numbers, setting, batch_size=8, facts=facts
    )
    made(scan).save(folder, report=False)
    return ml


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(folder of the visits, painted ml of either)."""
    folder = tmp_path_factory.mktemp("visits")
    first = _write_visit(folder / "first", np.eye(4), FIRST)
    return folder, first, _write_visit(folder / "second", _motion(), SECOND)


def _run(*words):
    return command.run(["compare-visits", *map(str, words)])


@pytest.fixture(scope="module")
def done(drawn):
    """The command, once: (output folder, its summary)."""
    folder = drawn[0]
    assert _run(folder / "first", folder / "second", f"--output={folder / 'out'}") == 0
    return folder / "out", json.loads((folder / "out" / "summary.json").read_text())


def _register(first, second):
    """By the motion that was drawn: what follows a registration is looked at."""
    assert first.volume.sha256 != second.volume.sha256
    turned = first.volume.source.split("/")[-2] == "second"
    motion = _motion()
    return head_pair.Match(rigid_motion.invert(motion) if turned else motion, 0.0)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(head_pair, "register", _register)


def _visits(folder):
    return [visit.read(folder / name, "", f"--{name}_scan") for name in ("first", "second")]


def test_new_gone_and_grown_are_told_with_their_volumes(drawn, done):
    _, first, second = drawn
    summary = done[1]
    assert [row["change"] for row in summary["places"]] == ["new", "gone", "persisting"]
    new, gone, kept = summary["places"]
    # Voxels of 2 mm: a ball's rim is an eighth of its radius.
    for found, painted in (
        (new["second_ml"], second[NEW]),
        (gone["first_ml"], first[GONE]),
        (kept["first_ml"], first[KEPT]),
        (kept["second_ml"], second[KEPT]),
    ):
        assert found == pytest.approx(painted, rel=0.15)
    assert new["first_ml"] == gone["second_ml"] == 0 and kept["change_ml"] > 3.0
    assert new["mean_difference"] > 0.3 and gone["mean_difference"] < -0.3
    assert summary["changes"]["new"] == {
        "places": 1, "first_ml": 0, "second_ml": new["second_ml"]
    }  # fmt: skip


def test_places_are_named_in_every_space(done):
    motion, summary = _motion(), done[1]
    half = rigid_motion.halve(motion)
    for row, centre in zip(summary["places"], (NEW, GONE, KEPT), strict=True):
        there = {"first_mm": np.eye(4), "halfway_mm": half, "second_mm": motion}
        for name, way in there.items():
            wanted = rigid_motion.move(way, np.array([centre]))[0]
            assert np.linalg.norm(np.array(row[name]) - wanted) < 3.0, name
        # This preparation takes a scan's mm for the template's: the middle of both.
        middle = (np.array(row["first_mm"]) + np.array(row["second_mm"])) / 2
        np.testing.assert_allclose(row["mni_mm"], middle, atol=0.11)
        assert row["region"]
    with open(done[0] / "candidates_changes.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert tuple(rows[0]) == visits_files.list_columns()
    assert [row["change"] for row in rows] == ["new", "gone", "persisting"]
    assert rows[0]["share_beyond_healthy"] == "" and float(rows[0]["first_x_mm"]) > 20


def test_files_lie_on_one_grid_and_transforms_lead_there(done):
    out, summary = done
    names = sorted(p.name for p in out.iterdir())
    assert names == sorted([
        *(f"{visit}{what}_in_halfway.nii.gz" for visit in ("first", "second")
          for what in ("", "_anomaly", "_mask")),
        *("difference_in_halfway.nii.gz", "places_in_halfway.nii.gz"),
        *("scored_in_both_in_halfway.nii.gz", "candidates_changes.tsv", "summary.json"),
        *(f"from-{a}_to-{b}_mode-image_xfm.tfm" for a, b in
          (("first", "halfway"), ("second", "halfway"), ("first", "second"))), "visits.html",
    ])  # fmt: skip
    sitk = itk.load()
    for name in names:
        if name.endswith(".nii.gz"):
            image = nib.load(out / name)
            np.testing.assert_allclose(image.affine, summary["grid"]["affine"])
            assert list(image.shape) == summary["grid"]["shape"]
    # SimpleITK brings the first scan to where this program brought it.
    like = sitk.ReadImage(str(out / "first_in_halfway.nii.gz"))
    way = sitk.ReadTransform(str(out / "from-first_to-halfway_mode-image_xfm.tfm"))
    scan = sitk.ReadImage(str(out.parent / "first" / "scan.nii.gz"), sitk.sitkFloat32)
    theirs = sitk.GetArrayFromImage(sitk.Resample(scan, like, way, sitk.sitkLinear, 0.0))
    ours = sitk.GetArrayFromImage(like)
    assert np.abs(theirs - ours).mean() < 0.05 and ours.max() > 1000
    both = (sitk.ReadTransform(str(out / f"from-{a}_to-{b}_mode-image_xfm.tfm")) for a, b in
            (("second", "halfway"), ("first", "second")))  # fmt: skip
    to_second, whole = both
    point = (10.0, -20.0, 30.0)
    # Points: second's mm -> halfway -> first is second's mm -> first.
    through = way.TransformPoint(to_second.GetInverse().TransformPoint(point))
    np.testing.assert_allclose(through, whole.TransformPoint(point), atol=1e-9)


def test_without_healthy_pairs_nothing_is_claimed(done):
    text = (done[0] / "visits.html").read_text()
    assert "No healthy spread is known" in text and done[1]["healthy_spread"] is None
    assert "No healthy spread is known" in done[1]["healthy_spread_note"]
    for word in ("significan", "progress", "worse", "better"):
        assert word not in re.sub(r'base64,[^"]*', "", text)


def test_the_page_needs_no_network_and_runs_nothing(done):
    text = (done[0] / "visits.html").read_text()
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert "not a medical device" in text and len(text) < 2e6


def test_the_heads_match(done):
    found = done[1]["registration"]
    assert found["likeness"] > halfway.USUAL_LIKENESS and done[1]["warnings"] == []
    assert found["turned_degrees"] == pytest.approx(7.0, abs=0.3)


def test_the_visits_exchanged_are_the_mirror(drawn, known):
    first, second = _visits(drawn[0])
    one, other = halfway.compare(first, second), halfway.compare(second, first)
    assert one.grid.shape == other.grid.shape
    # Places that fall between two voxels may round to either: of a rim, or one in ten thousand.
    np.testing.assert_allclose(one.difference, -other.difference, atol=1e-4)
    names = {"new": "gone", "gone": "new", "persisting": "persisting"}
    mirrored = {p.change: p for p in other.places}
    for place in one.places:
        twin = mirrored[names[place.change]]
        assert place.voxels == pytest.approx(twin.voxels[::-1], rel=1e-3)
        assert place.difference == pytest.approx(-twin.difference, abs=1e-3)


def test_another_head_is_refused_or_said(drawn, known, tmp_path):
    folder = drawn[0]
    _write_visit(tmp_path / "second", _motion(), SECOND, seed=5)
    first = visit.read(folder / "first", "", "--first_scan")
    other = visit.read(tmp_path / "second", "", "--second_scan")
    with pytest.raises(errors.UserError, match=r"do not show one head: .* correlate by 0\.\d\d"):
        halfway.compare(first, other)
    found = halfway.compare(first, other, allow_unlike=True)
    assert found.warnings[0].startswith("DO THE HEADS MATCH?")


def test_healthy_pairs_give_a_spread(drawn, done, tmp_path, capsys, monkeypatch):
    """A visit with itself: nothing comes and nothing goes."""
    folder, table, out = drawn[0], tmp_path / "pairs.csv", tmp_path / "out"
    shutil.copytree(folder / "first", tmp_path / "a")
    table.write_text("first,second\na,a\n")
    assert _run(f"--healthy_pairs={table}", f"--output={out}") == 0
    assert "0 new, 0 gone" in capsys.readouterr().out
    kept = json.loads((out / "healthy_spread.json").read_text())
    assert kept["summary"]["bound"] < 0.05 and kept["summary"]["few_pairs"]
    spread = visits_files.change_spread.from_dict(kept, "kept")
    monkeypatch.setattr(head_pair, "register", _register)
    comparison = halfway.compare(*_visits(folder))
    assert comparison.to_spread().new == comparison.to_spread().gone == 1
    summary = visits_files.write(comparison, spread, visit.epath.Path(tmp_path / "with"))
    assert all(row["share_beyond_healthy"] > 0.5 for row in summary["places"])
    assert 0 < summary["difference"]["share_beyond_healthy"] < 0.2
    beyond = nib.load(tmp_path / "with" / "beyond_healthy_in_halfway.nii.gz").get_fdata()
    assert 0 < beyond.sum() < 0.2 * comparison.both.sum()
    text = (tmp_path / "with" / "visits.html").read_text()
    assert "1 pair(s) of healthy visits" in text and "Few pairs" in text
    kept["model"]["weights"] = "cd34"
    (out / "other.json").write_text(json.dumps(kept))
    with pytest.raises(errors.UserError, match=r"scored otherwise .weights ab12 and cd34"):
        _run(folder / "first", folder / "second", f"--output={tmp_path / 'no'}",
             f"--healthy_spread={out / 'other.json'}")  # fmt: skip
    assert not (tmp_path / "no" / "summary.json").exists()


def test_a_name_from_a_stranger_stays_text(done, drawn, known, tmp_path):
    evil = "</td><script>alert(1)</script>"
    first, second = _visits(drawn[0])
    first.summary["warnings"] = [evil]
    first.identity["method"] = second.identity["method"] = evil
    comparison = halfway.compare(first, second)
    rows = halfway.list_places(comparison, None)
    summary = visits_files.describe(comparison, None, rows)
    summary["visits"]["second"]["source"] = evil + "@@css@@"
    text = visits_files.visits_page.render(comparison, summary)
    assert "<script" not in text and "@@css@@" in text and text.count("&lt;script&gt;") == 3


def test_slices_show_each_place_once(drawn, known):
    comparison = halfway.compare(*_visits(drawn[0]))
    levels = visits_montage.choose_levels(comparison, 5)
    assert len(levels) == 5 == len(set(levels)) and levels == sorted(levels)
    seen = np.unique(comparison.numbers[:, :, levels])
    assert set(seen) == {0, 1, 2, 3}


def _edit(folder, change):
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update(weights="other"), "scored otherwise .weights ab12 and other"),
        (lambda s: s["operating_point"].update(threshold=0.5), "threshold 0.25 and 0.5"),
        (lambda s: s["model"].update(modality="T2"), "modality T1 and T2"),
        (lambda s: s["postprocess"].update(smooth_mm=2.0), "postprocess smooth_mm 0.0 and 2.0"),
        (lambda s: s["scan"].update(sha256="0" * 64), "not the scan that"),
        (lambda s: s["scan"].update(source="../../scan.nii.gz"), "name it: --second_scan=FILE"),
        (lambda s: s.pop("operating_point"), "is no result of one scan"),
        (lambda s: s.update(scan=[]), "is no result of one scan"),
        (lambda s: s["model"].update(weights={"a": 1}), "is no result of one scan"),
    ],
)
def test_visits_that_do_not_belong_together(drawn, tmp_path, change, message):
    folder = drawn[0]
    shutil.copytree(folder / "second", tmp_path / "second")
    _edit(tmp_path / "second", change)
    with pytest.raises(errors.UserError, match=message) as caught:
        _run(folder / "first", tmp_path / "second", f"--output={tmp_path / 'out'}")
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "summary.json").exists()


def test_maps_of_another_grid_are_refused(drawn, tmp_path):
    folder = drawn[0]
    shutil.copytree(folder / "second", tmp_path / "second")
    image = nib.load(tmp_path / "second" / "anomaly.nii.gz")
    moved = image.affine.copy()
    moved[0, 3] += 4.0
    nib.save(nib.Nifti1Image(image.get_fdata(), moved), tmp_path / "second" / "anomaly.nii.gz")
    with pytest.raises(errors.UserError, match="does not lie on the grid of its scan"):
        _run(folder / "first", tmp_path / "second", f"--output={tmp_path / 'out'}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["{first}", "--output={out}"], "--second is missing"),
        (["{first}", "{second}"], "--output is missing"),
        (["{first}", "{second}", "third", "--output={out}"], "unexpected argument 'third'"),
        (["{first}", "--first={first}", "--output={out}"], "--first: found .* as a word"),
        (["{first}", "/no/scan", "--output={out}"], "--second=/no/scan: no such file"),
        (["{first}", "{second}", "--output={second}"], "found one of the visits"),
        (["{first}", "{second}", "--output={out}", "--healthy_spread={pairs}"], "no JSON"),
        (["{first}", "{second}", "--output={out}", "--healthy_spread=a", "--healthy_pairs=b"],
         "found both"),
        (["--healthy_pairs={pairs}", "--output={out}"], "columns: found a, b"),
        (["--healthy_pairs=/no/table", "--output={out}"], "/no/table"),
        (["{first}/scan.nii.gz", "{second}", "--output={out}", "--first_scan=x"],
         "found for a scan"),
        (["{first}", "{second}", "--output={out}", "--first_scan={second}/scan.nii.gz"],
         "--first_scan=.*not the scan that"),
    ],
)  # fmt: skip
def test_one_line_for_what_the_user_can_mend(drawn, tmp_path, flags, message):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a,b\n1,2\n")
    places = {"first": drawn[0] / "first", "second": drawn[0] / "second"}
    places |= {"out": tmp_path / "out", "pairs": pairs}
    with pytest.raises(errors.UserError, match=message) as caught:
        _run(*(flag.format(**places) for flag in flags))
    assert "\n" not in str(caught.value)
    # What was refused leaves the visits as they were.
    assert (drawn[0] / "second" / "summary.json").exists()


def test_the_table_of_a_folder_says_where_a_scan_lies(drawn, tmp_path):
    folder = drawn[0]
    shutil.copytree(folder / "first", tmp_path / "results" / "a")
    (tmp_path / "results" / "a" / "scan.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    table = tmp_path / "results" / "scans.csv"
    table.write_text(f"scan,source\nb,/no\na,{tmp_path / 'elsewhere.nii.gz'}\n")
    found = visit.read(tmp_path / "results" / "a", "", "--first_scan")
    assert found.volume.source == str(tmp_path / "elsewhere.nii.gz")


def test_scans_are_scored_into_folders_of_their_own(drawn, tmp_path):
    """The model is opened once, after every path was looked at."""
    folder, loaded = drawn[0], []
    made = sides.open_side(str(folder / "first" / "scan.nii.gz"), "", "--first", "first")
    there = sides.open_side(str(folder / "second"), "", "--second", "second")

    def load():
        loaded.append(1)
        return conftest.make_detector(
            dataclasses.replace(
                conftest.PLAIN, point=calibration.Point(THRESHOLD, "threshold", THRESHOLD)
            )
        )

    found = sides.score([made, there], visit.epath.Path(tmp_path), load)
    assert loaded == [1] and str(found["second"]) == str(folder / "second")
    assert visit.is_result(found["first"]) and str(found["first"]) == str(tmp_path / "first")
    assert not (tmp_path / "first" / "report.html").exists()
    assert sides.score([there], visit.epath.Path(tmp_path), load) and loaded == [1]
