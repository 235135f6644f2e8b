import pathlib

import numpy as np
import pytest

from madad_jax.metrics import pixel_pool, postprocess, threshold_counts


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "f_anomaly_map.npz") as data:
        return dict(data)


def test_anomaly_map_is_the_official_one(golden):
    difference = (golden["x_rec_corrected"] - golden["x_rec_input"])[:, 0]
    clipped = np.minimum(np.abs(difference), np.float32(0.25)) / np.float32(0.25)
    np.testing.assert_allclose(clipped, golden["pre_smooth"], atol=1e-6)
    smooth = postprocess.smooth(clipped, 5.0)
    np.testing.assert_allclose(smooth, golden["anomaly_map"], atol=1e-6)
    truth = golden["segmentation"] > 0
    figures = pixel_pool.pooled(smooth, truth)
    for got, name in ((figures.auroc, "auroc"), (figures.ap, "ap"), (figures.max_dice, "f1max")):
        assert got == pytest.approx(float(golden[name]), abs=1e-6)
    counts = threshold_counts.ThresholdCounts()
    counts.add(smooth, truth)
    assert counts.max_dice()[0] == pytest.approx(float(golden["max_dice"]), abs=1e-6)


def test_smoothing_keeps_slices_apart():
    maps = np.zeros((3, 21, 21), np.float32)
    maps[1, 10, 10] = 1.0
    smooth = postprocess.smooth(maps, 2.0)
    assert smooth[[0, 2]].max() == 0.0
    assert smooth[1].sum() == pytest.approx(1.0, abs=1e-5)
    assert postprocess.smooth(maps, 0.0) is maps


def test_nothing_is_left_outside_the_brain():
    maps = np.full((1, 8, 8), 0.5, np.float32)
    brain = np.zeros((1, 8, 8), bool)
    brain[0, 2:6, 2:6] = True
    assert postprocess.inside_brain(maps, brain).sum() == pytest.approx(8.0)
