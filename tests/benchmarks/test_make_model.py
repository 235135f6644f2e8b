"""The way from heads to a model: who trains, joined folders, stages, the card, small pictures."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from benchmarks import make_model, paint_lesions
from benchmarks.model_making import (
    card_figures,
    head_panels,
    ixi_cohort,
    join,
    licence,
    model_card,
    work,
)
from madad_jax.core import errors
from madad_jax.data.sources import png_folder

LISTED = dict.fromkeys(("IXI013-A-1", "IXI011-A-1", "IXI012-A-1", "IXI010-A-1"))


def test_heads_are_split_by_the_last_digit_of_their_number():
    assert ixi_cohort.split_heads(list(LISTED)) == {
        "IXI013-A-1": "train",
        "IXI011-A-1": "val",
        "IXI012-A-1": "test",
    }, "0 is kept out"
    lists = {"IXI010-A-1": "train", "IXI013-A-1": "val", "IXI011-A-1": "test"}
    assert ixi_cohort.split_heads(list(LISTED), lists) == lists
    with pytest.raises(errors.UserError, match="no head for 'val'"):
        ixi_cohort.split_heads(["IXI013-A-1", "IXI012-A-1"])
    with pytest.raises(errors.UserError, match="no number"):
        ixi_cohort.split_of("head")


def test_painted_heads_are_those_of_their_split_alone(tmp_path):
    splits = {"a1": "val", "a1b": "test", "xa1": "test"}
    found = [n for n in splits if paint_lesions.re.search(ixi_cohort.choose_ids(splits, "val"), n)]
    assert found == ["a1"]
    ixi_cohort.write(tmp_path, splits, ixi_cohort.TABLE)
    assert (tmp_path / "painted_test.csv").read_text() == "subject,split\na1b,test\nxa1,test\n"
    assert "healthy: false" in (tmp_path / "painted.yaml").read_text()


def prepared(folder, scans, lesion=False, view=192.0):
    """A folder as `prepare` leaves it: {scan: split}, one slice a scan of 8 pixels."""
    picture = np.zeros((8, 8), np.uint8)
    picture[2:6, 2:6] = 200
    (folder / ".prepare" / "scans").mkdir(parents=True)
    (folder / "transforms").mkdir()
    for scan, split in scans.items():
        (folder / split).mkdir(exist_ok=True)
        files = {}
        for kind in ("T1", "brainmask", *(["segmentation"] * lesion)):
            name = f"{split}/{scan}-slice_004-{kind}.png"
            Image.fromarray(picture).save(folder / name)
            files[name] = (folder / name).stat().st_size
        (folder / "transforms" / f"{scan}.json").write_text("{}")
        state = {"key": "k", "inputs": {}, "facts": {}, "warnings": [], "subject": scan}
        state |= {"split": split, "files": files, "rows": []}
        (folder / ".prepare" / "scans" / f"{scan}.json").write_text(json.dumps(state))
    values = {"title": str(folder), "geometry": {"field_of_view": view}, "scans": {}}
    (folder / "dataset.json").write_text(json.dumps(values))
    return folder


def painted(tmp_path, name, scan, split, **options):
    folder = prepared(tmp_path / name, {scan: "test"}, lesion=True, **options)
    row = dict.fromkeys(paint_lesions.COLUMNS, "1")
    table = tmp_path / f"{name}.csv"
    paint_lesions.write_table(table, [row | {"id": scan}, row | {"id": "refused"}])
    return join.Painted(split, folder, table)


def test_joined_heads_with_and_without_lesions_are_different_scans(tmp_path):
    splits = {"h3": "train", "h1": "val", "h2": "test_healthy"}
    healthy = prepared(tmp_path / "healthy", splits)
    parts = [
        painted(tmp_path, "v", "h1", "val_painted"),
        painted(tmp_path, "t", "h2", "test"),
    ]
    out = tmp_path / "data"
    counts = {"train": 1, "val": 1, "test_healthy": 1, "val_painted": 1, "test": 1}
    assert join.join(healthy, parts, out) == counts
    subjects = {
        split: [r.subject for r in png_folder.PngFolder(str(out), split=split, modality="T1",
                                                        image_size=8).records]
        for split in counts
    }  # fmt: skip
    assert subjects["test"] == ["h2-painted"] and subjects["test_healthy"] == ["h2"]
    assert (out / "transforms" / "h2-painted.json").exists()
    with (out / "lesions.csv").open() as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["h1-painted", "h2-painted"]
    assert "title" in json.loads((out / "dataset.json").read_text())
    # A head that is prepared anew replaces the old one.
    new = healthy / "val" / "h1-slice_004-T1.png"
    new.unlink()
    new.write_bytes(b"other")
    join.join(healthy, parts, out)
    assert (out / "val" / new.name).read_bytes() == b"other"


def test_heads_of_other_options_are_not_joined(tmp_path):
    healthy = prepared(tmp_path / "healthy", {"h3": "train"})
    other = painted(tmp_path, "t", "h2", "test", view=256.0)
    with pytest.raises(errors.UserError, match="geometry is not that of"):
        join.join(healthy, [other], tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_stages_cost_and_are_done_once(tmp_path):
    with pytest.raises(work.Failed, match="status 2"):
        work.call(tmp_path, "x", "json.tool", ["--nothing"])
    work.call(tmp_path, "x", "timeit", ["-n1", "-r1", "sum(range(10**7))"])
    costs = work.read_costs(tmp_path)
    assert [cost["status"] for cost in costs] == [2, 0] and costs[1]["cpu_s"] > 0
    file = tmp_path / "weights"
    marks = [work.mark_of(["a"], [file]), work.mark_of(["b"], [file])]
    file.write_text("1")
    marks.append(work.mark_of(["a"], [file]))
    assert len(set(marks)) == 3
    work.finish(tmp_path, "x", marks[0])
    assert work.is_done(tmp_path, "x", marks[0]) and not work.is_done(tmp_path, "x", marks[2])


def test_the_command_line_names_what_a_stage_needs(tmp_path):
    out = f"--out={tmp_path}"
    job, stages = make_model.parse([out, "--data=d", "--config.train.steps=2"])
    assert stages == ["train", "choose", "package"] and job.changes == ("--config.train.steps=2",)
    assert job.ages == "20,82" and job.run == tmp_path / "run"
    assert "final" not in make_model.USUAL
    for given, said in (
        ([], "--heads is missing"),
        (["--heads=h"], "--segmentation is missing"),
        (["--stage=tune"], "no 'tune'"),
        (["--heads=h", "--segmentation=s", "--cohort_file=c"], "--facts is missing"),
        (["--data=d", "--step=2"], "unexpected argument '--step=2'"),
    ):
        with pytest.raises(errors.UserError, match=said):
            make_model.parse([out, *given])


def row(method="madad", name="test", learns=True, ap=0.512, **more):
    interval = {"ap": [ap - 0.1, ap + 0.1]}
    return {
        "method": method, "set": name, "learns": learns, "ap": ap, "intervals": interval,
        "pooled_dice_healthy": 0.4, "n_slices": 7, "n_subjects": 2, "n_lesion_slices": 3,
        "weights": "w", **more,
    }  # fmt: skip


FACTS = {**model_card.IXI, "name": "ixi-t1", "seed": 3, "command": "python -m x"}


def test_a_card_without_figures_says_so_and_has_none():
    text = model_card.write_card(FACTS, [])
    assert text.count(model_card.MISSING) == 4, "two sets, pictures, CPU hours"
    assert text.startswith("---\nlicense: cc-by-sa-3.0\n")
    assert "not a medical device" in text and "20 to 82" in text and "Seed 3" in text
    figures = text.split("## Figures")[1].split("## Limitations")[0]
    assert not any(letter.isdigit() for letter in figures)
    assert card_figures.list_figures([]) == {}


def test_a_card_has_the_figures_of_the_rows():
    rate = {"asked": 0.01, "threshold": 0.3, "realised": 0.0123, "interval": [0.01, 0.02]}
    rows = [
        row("intensity", learns=False, ap=0.2),
        row("mean image", learns=False, ap=0.3),
        row("madad (mask head)", ap=0.6),
        row(rates=[rate]),
    ]
    shown = [{"head": "IXI002", "file": "IXI002.png", "lesions": [
        {"kind": "stroke", "volume_ml": 1.21, "hit": False},
        {"kind": "tumour", "volume_ml": 9.0, "hit": True}]}]  # fmt: skip
    facts = FACTS | {"shown": shown, "pictures_link": "../pics", "cpu_hours": {"train": 2.345}}
    text = model_card.write_card(facts, rows)
    assert "| madad | 51.2 [41.2, 61.2] |" in text and "train 2.35" in text
    assert "| mean image | 30.0" in text and "| intensity |" not in text
    assert "1.2 [1.0, 2.0]" in text, "healthy pixels above the threshold of 1 %"
    assert "[IXI002](../pics/IXI002.png): found 1 of 2 lesions; missed stroke of 1.2 ml" in text
    assert text.count(model_card.MISSING) == 1, "validation heads were not scored"
    assert card_figures.list_figures(rows)["AP, painted test heads"] == "51.2 [41.2, 61.2]"


def test_figures_of_other_weights_are_left_out():
    rows = [row(ap=0.9, weights="old"), row(name="val_painted", ap=0.5)]
    kept = card_figures.newest(rows)
    assert [r["ap"] for r in kept] == [0.5] and card_figures.newest([]) == []
    assert next(iter(card_figures.list_figures(kept))) == "AP, painted validation heads, chosen on"


def test_a_damaged_row_is_named():
    with pytest.raises(errors.UserError, match=r"results\.jsonl: a row"):
        model_card.write_card(FACTS, [{"set": "test", "method": "madad"}])


def test_facts_of_other_heads_are_complete(tmp_path):
    path = tmp_path / "facts.json"
    for given, said in (
        ({k: v for k, v in model_card.IXI.items() if k != "people"}, "'people' missing"),
        (model_card.IXI | {"more": "x"}, "'more' found"),
        (model_card.IXI | {"people": 3}, "'people' found"),
    ):
        path.write_text(json.dumps(given))
        with pytest.raises(errors.UserError, match=said):
            model_card.read_given(str(path))
    path.write_text(json.dumps(model_card.IXI))
    assert model_card.read_given(str(path)) == model_card.IXI


def test_the_licence_names_its_source():
    for words in (
        "CC BY-SA 3.0",
        "brain-development.org",
        "creativecommons.org/licenses/by-sa/3.0",
    ):
        assert words in licence.IXI
    hours = model_card.training_hours([{"time": 0.0}, {"time": 360.0}, {"time": 9000.0}])
    assert hours == pytest.approx(0.1), "a stop of hours is no training"


def test_heads_and_levels_of_panels_follow_from_the_truth(tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}_lesions.nii.gz").touch()
    assert head_panels.choose_heads(tmp_path, 3) == ["a", "c", "e"]
    truth = np.zeros((6, 5, 9), np.int32)
    truth[1, 1, 2:4], truth[1:3, 1, 3] = 1, 1
    truth[4, 4, 7] = 2
    assert head_panels.choose_levels(truth) == [3, 7] and head_panels.choose_levels(truth, 1) == [3]
    labels = np.zeros_like(truth)
    labels[1, 1, 2] = 5
    assert head_panels.found_lesions(truth, labels) == {1: True, 2: False}
    # Left stays left, front comes to the top.
    picture = head_panels.as_picture(truth, [7])
    assert picture.shape == (1, 5, 6) and picture[0, 0, 4] == 2


def test_pictures_are_made_small(tmp_path):
    path = tmp_path / "p.png"
    grey = np.random.default_rng(0).integers(0, 255, (120, 120, 1), np.uint8)
    noise = np.repeat(grey, 3, axis=2)
    noise[40:50, 40:50], noise[60:70, 40:50] = (76, 201, 240), (255, 176, 0)
    Image.fromarray(noise).save(path)
    head_panels.shrink(path, 12_000)
    assert path.stat().st_size <= 12_000
    small = np.asarray(Image.open(path).convert("RGB")).astype(int)
    for at, colour in ((45, (76, 201, 240)), (65, (255, 176, 0))):
        pixel = small[round(at * len(small) / 120), round(45 * len(small) / 120)]
        assert np.abs(pixel - colour).max() < 24, (
            "what is found and what is missed differ by colour"
        )
    with pytest.raises(errors.UserError, match="larger than 10 bytes"):
        head_panels.shrink(path, 10)


def test_a_score_is_made_again_for_other_weights_alone_and_stale_ones_leave_the_card(
    tmp_path, monkeypatch
):
    calls = []
    monkeypatch.setattr(work, "call", lambda out, stage, module, words: calls.append(stage))
    run, data, shipped = (tmp_path / name for name in ("run", "data", "shipped"))
    (run / "denoiser").mkdir(parents=True)
    data.mkdir()
    shipped.mkdir()
    (run / "denoiser" / "complete.json").write_text("{}")
    line = json.dumps(row(name="val_painted", ap=0.5)) + "\n"
    (run / "results.jsonl").write_text(line)
    words = ["make_model", f"--out={tmp_path / 'out'}", f"--data={data}", f"--run={run}"]
    words += [f"--package_out={shipped}", f"--pictures={tmp_path / 'none'}", "--config.seed=1"]

    def card_after(stages):
        make_model.run([*words, f"--stage={stages}"])
        return (tmp_path / "out" / "README.md").read_text()

    assert "50.0 [40.0, 60.0]" in card_after("choose,choose,package")
    assert calls == ["choose", "package"]
    os.utime(run / "denoiser" / "complete.json", ns=(1, 1))  # Trained anew.
    assert "50.0" not in card_after("package"), "a figure of other weights"
    assert "50.0" in card_after("choose,package")
    assert calls == ["choose", "package", "package", "choose", "package"]
