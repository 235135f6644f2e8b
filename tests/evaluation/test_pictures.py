import json
import os

import numpy as np
import pytest
from PIL import Image

from madad_jax.evaluation import pictures
from tests.metrics.records import make_set


def _pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def _count(pixels, colour, tolerance=40):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels - rgb).sum(axis=-1) < tolerance).sum())


def _panels(path, n=2, truth="known", threshold=0.3):
    maps, segmentations, brain, records = make_set(n, healthy=0)
    images = np.where(brain, 0.0, -1.0).astype(np.float32)[..., None]
    pictures.panels(
        path, images, images * np.float32(0.9), maps, threshold,
        segmentations if truth == "known" else None, [r.id for r in records],
    )  # fmt: skip
    return _pixels(path)


def test_panels_have_a_row_a_slice_and_a_column_a_picture(tmp_path):
    two, four = (_panels(tmp_path / f"{n}.png", n) for n in (2, 4))
    assert four.shape[1] == two.shape[1]
    assert 1.7 < (four.shape[0] - 100) / (two.shape[0] - 100) < 2.1
    unknown = _panels(tmp_path / "u.png", truth="unknown")
    assert unknown.shape[1] < 0.9 * two.shape[1]
    assert two[3, 3].max() < 40  # dark ground


def test_found_and_missed_have_their_colours(tmp_path):
    blend = {"found": "#4cc9f0", "missed": "#ff4d52"}
    painted = {}
    for name, colour in blend.items():
        rgb = [int(0.65 * int(colour[i : i + 2], 16) + 0.35 * 127) for i in (1, 3, 5)]
        painted[name] = "#" + "".join(f"{v:02x}" for v in rgb)
    low = _panels(tmp_path / "low.png", threshold=0.1)
    high = _panels(tmp_path / "high.png", threshold=0.99)
    assert _count(low, painted["found"]) > 50 > 20 > _count(high, painted["found"])
    assert _count(high, painted["missed"]) > 50 > 20 > _count(low, painted["missed"])


def test_margin_is_cut_to_a_square_around_every_brain():
    images = np.full((2, 40, 60, 1), -1, np.float32)
    images[0, 10:20, 30:36] = 0
    images[1, 12:24, 28:33] = 0
    rows, columns = pictures._crop(images)
    assert rows.stop - rows.start == columns.stop - columns.start
    assert rows.start <= 10 and rows.stop >= 24 and columns.start <= 28 and columns.stop >= 36
    assert rows.stop - rows.start < 20
    assert pictures._crop(np.full((1, 8, 8, 1), -1, np.float32)) == (slice(None), slice(None))
    assert pictures._crop(np.zeros((1, 8, 12, 1), np.float32))[0] == slice(0, 8)


def test_dice_text_is_of_the_slice():
    truth = np.zeros((4, 4), bool)
    predicted = truth.copy()
    predicted[0, :2] = True
    assert pictures._dice_text(predicted, truth) == "2 px, healthy"
    assert pictures._dice_text(truth, truth) == "healthy"
    truth[0, 1:3] = True
    assert pictures._dice_text(predicted, truth) == "Dice 0.50"


def test_no_slices_is_an_error(tmp_path):
    empty = np.zeros((0, 8, 8, 1), np.float32)
    with pytest.raises(ValueError, match="no slices"):
        pictures.panels(tmp_path / "x.png", empty, empty, empty[..., 0], 0.5, None, [])
    assert not list(tmp_path.iterdir())


def _metrics_file(path, lines, tail=""):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)


def _line(stage, split, step, **more):
    return {"stage": stage, "split": split, "step": step, "time": 1.0, **more}


def test_curves_are_read_by_stage_metric_and_split(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _metrics_file(
        path,
        [
            _line("autoencoder", "train", 10, loss=3.0, note="words"),
            _line("denoiser", "train", 10, loss=2.0, x0=1.0),
            _line("denoiser", "val", 10, loss=2.5),
            _line("denoiser", "train", 20, loss=1.0, x0=None),
            _line("denoiser", "train", 10, loss=1.5),  # a resumed run comes by again
            {"no": "stage"},
        ],
        tail='{"stage": "deno',
    )
    assert pictures._read_curves(path) == {
        "autoencoder": {"loss": {"train": {10: 3.0}}},
        "denoiser": {
            "loss": {"train": {10: 1.5, 20: 1.0}, "val": {10: 2.5}},
            "x0": {"train": {10: 1.0}},
        },
    }


def test_training_curves_picture(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [_line("denoiser", "train", s, loss=1 / s, a=1, b=-1, c=2, d=3) for s in range(1, 90)]
    _metrics_file(path, [*lines, _line("denoiser", "val", 50, loss=0.5)])
    assert pictures.training_curves(tmp_path / "curves.png", path)
    pixels = _pixels(tmp_path / "curves.png")
    assert _count(pixels, "#58a6ff") > 300 and _count(pixels, "#ffb000") > 5
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "metrics.jsonl"]


def test_nothing_to_draw(tmp_path):
    assert not pictures.training_curves(tmp_path / "c.png", tmp_path / "missing.jsonl")
    assert not (tmp_path / "c.png").exists()


def test_running_mean_is_a_mean():
    values = np.array([1.0, 3.0, 5.0, 9.0])
    np.testing.assert_allclose(pictures._running_mean(values, 1), [2, 3, 17 / 3, 7])
    np.testing.assert_allclose(pictures._running_mean(values, 0), values)


def test_threshold_curve_picture(tmp_path):
    grid = np.linspace(0, 1, 201)
    curves = {"a": (grid, np.exp(-((grid - 0.4) ** 2) * 30)), "b": (grid, 0.3 * (1 - grid))}
    pictures.threshold_curve(
        tmp_path / "sub" / "t.png", curves, healthy_thresholds={"a": 0.6}, title="t"
    )
    marked = _pixels(tmp_path / "sub" / "t.png")
    pictures.threshold_curve(tmp_path / "plain.png", curves)
    assert marked.shape == _pixels(tmp_path / "plain.png").shape
    assert _count(marked, "#58a6ff") > 500 and _count(marked, "#ffb000") > 200
