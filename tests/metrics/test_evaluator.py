import json
import pickle

import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics as sk

from madad_jax.core import errors
from madad_jax.metrics import (
    evaluator,
    histogram,
    pixel_pool,
    region_overlap,
    subject_sums,
    threshold_counts,
    thresholds,
)
from tests.metrics.records import make_set


def _filled(data, *, known=None, batch=5, **options):
    maps, truth, brain, records = data
    known = np.ones(len(maps), bool) if known is None else known
    ev = evaluator.Evaluator(**options)
    for i in range(0, len(maps), batch):
        part = slice(i, i + batch)
        ev.add(maps[part], truth[part], brain[part], known[part], records[part])
    return ev


def test_figures_are_those_of_the_whole_set():
    maps, truth, _, _ = data = make_set()
    row = _filled(data).result(method="m", healthy_threshold=0.28, set="test")
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, truth)
    assert (row["max_dice"], row["max_dice_threshold"]) == pytest.approx(counts.max_dice())
    assert row["pooled_max_dice_201"] == pytest.approx(counts.pooled_max_dice(), abs=1e-12)
    assert row["auroc"] == pytest.approx(sk.roc_auc_score(truth.ravel(), maps.ravel()))
    assert row["ap"] == pytest.approx(sk.average_precision_score(truth.ravel(), maps.ravel()))
    predicted = maps > np.float32(0.28)
    assert row["pooled_dice_healthy"] == pytest.approx(
        sk.f1_score(truth.ravel(), predicted.ravel())
    )
    per_slice = [
        2 * (p & t).sum() / (p.sum() + t.sum() + 1e-6) if t.any() else float(not p.any())
        for p, t in zip(predicted, truth, strict=True)
    ]
    assert row["dice_healthy"] == pytest.approx(np.mean(per_slice))
    assert row["recall_healthy"] == pytest.approx(predicted[truth].mean())
    assert row["precision_healthy"] == pytest.approx(truth[predicted].mean())
    assert -1e-9 <= row["max_dice_exact"] - row["max_dice"] <= 0.05
    assert row["set"] == "test" and row["method"] == "m"
    assert set(row["oracle"]) <= set(row) | {"dice_oracle"}


def test_row_is_json_without_nan():
    data = make_set()
    for known in (None, np.zeros(12, bool)):
        text = json.dumps(_filled(data, known=known).result(method="m"), allow_nan=False)
        assert json.loads(text)["method"] == "m"


def test_false_alarms_on_healthy_slices():
    data = make_set()
    maps, _, brain, _ = data
    threshold = thresholds.healthy_threshold(maps[9:], brain[9:], 0.05)
    ev = _filled(data)
    row = ev.result(healthy_threshold=threshold, alarm_pixels=1)
    assert row["n_healthy_slices"] == 3
    assert row["false_alarm_slices_healthy"] == 1.0
    assert row["false_alarm_pixels_healthy"] == pytest.approx(0.05, abs=0.002)
    assert ev.result(healthy_threshold=0.31)["false_alarm_slices_healthy"] == 0.0
    above = (maps[9:] > np.float32(threshold)).sum(axis=(1, 2))
    for k in (above.min(), above.max(), above.max() + 1):
        many = ev.result(healthy_threshold=threshold, alarm_pixels=int(k))
        assert many["false_alarm_slices_healthy"] == (above >= k).mean()
    at = row["max_dice_threshold"]
    expected = (maps[9:][brain[9:]] > np.float32(at)).mean()
    assert row["false_alarm_pixels_oracle"] == pytest.approx(expected)


def test_healthy_set_counts_for_alarms_and_not_for_dice():
    data = make_set(healthy=0)
    ev = _filled(data)
    before = ev.result(healthy_threshold=0.2)
    maps, _, brain, records = make_set(6, seed=9, healthy=6)
    ev.add_healthy(maps, brain, records)
    after = ev.result(healthy_threshold=0.2)
    for key in ("max_dice", "ap", "pooled_max_dice", "dice_healthy", "n_scored", "intervals"):
        assert after[key] == before[key]
    assert before["image_auroc_max"] is None and before["false_alarm_slices_healthy"] is None
    assert after["n_healthy_slices"] == 6
    assert after["image_auroc_max"] == 1.0
    expected = (maps[brain] > np.float32(0.2)).mean()
    assert after["false_alarm_pixels_healthy"] == pytest.approx(expected)


def test_groups():
    data = make_set(24, size=64, healthy=6)
    maps, truth, _, records = data
    row = _filled(data).result(healthy_threshold=0.28)
    assert set(row["by_kind"]) == {"dark", "bright", "unknown"}
    assert sum(g["n_slices"] for g in row["by_size"].values()) == 18
    dark = [i for i, r in enumerate(records) if r.lesion_kind == "dark"]
    group = row["by_kind"]["dark"]
    assert group["n_slices"] == len(dark)
    exact = pixel_pool.pooled(maps[dark], truth[dark])
    assert group["ap"] == pytest.approx(exact.ap)
    assert group["pooled_max_dice"] == pytest.approx(exact.max_dice)
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps[dark], truth[dark])
    column = round(row["max_dice_threshold"] * 200)
    assert group["dice_oracle"] == pytest.approx(counts.dice()[:, column].mean())
    assert group["max_dice"] == pytest.approx(counts.max_dice()[0])
    assert group["dice_oracle"] <= group["max_dice"]


def test_size_groups_use_the_area_of_the_slice():
    data = make_set(12, size=128, healthy=3)
    data[1][:9] = False
    for i, area in enumerate((3, 4, 71, 72, 570, 571, 571, 571, 571)):
        data[1][i].reshape(-1)[7000 : 7000 + area] = True
    row = _filled(data).result()
    got = {name: group["n_slices"] for name, group in row["by_size"].items()}
    assert got == {"tiny": 1, "small": 2, "medium": 2, "large": 4}


def test_unknown_slices_are_counted_and_left_out():
    data = make_set()
    known = np.ones(12, bool)
    known[[1, 4, 10]] = False
    row = _filled(data, known=known).result(healthy_threshold=0.2)
    kept = tuple([a[i] for i in np.flatnonzero(known)] for a in data)
    alone = _filled((*(np.stack(a) for a in kept[:3]), kept[3])).result(healthy_threshold=0.2)
    assert (row["n_slices"], row["n_scored"], row["n_unknown"]) == (12, 9, 3)
    for key in ("ap", "max_dice", "dice_healthy", "n_healthy_slices", "by_size"):
        assert row[key] == alone[key]


def test_no_lesion_at_all_gives_none():
    data = make_set(healthy=12)
    row = _filled(data).result(healthy_threshold=0.29)
    for key in (
        "max_dice",
        "max_dice_exact",
        "pooled_max_dice",
        "pooled_max_dice_201",
        "auroc",
        "ap",
        "dice_healthy",
        "pooled_dice_healthy",
        "image_auroc_max",
    ):
        assert row[key] is None, key
    assert row["by_size"] == row["by_kind"] == row["intervals"] == {}
    assert 0 < row["false_alarm_pixels_healthy"] < 0.1
    assert evaluator.Evaluator().result()["max_dice"] is None


def test_streaming_keeps_its_bounds_and_the_counts():
    data = make_set(24, size=64, healthy=6)
    exact = _filled(data).result(healthy_threshold=0.28, alarm_pixels=2)
    ev = _filled(data, max_exact_pixels=30_000, healthy_threshold=0.28, alarm_pixels=2)
    row = ev.result()
    assert exact["exact"] and not row["exact"]
    for key in ("auroc", "ap", "pooled_max_dice", "aupro", "image_auroc_mean"):
        assert abs(row[key] - exact[key]) <= row["error_bounds"][key] + 1e-9
        assert row["error_bounds"][key] < 0.01
    for key in (
        "max_dice",
        "pooled_max_dice_201",
        "dice_healthy",
        "pooled_dice_healthy",
        "false_alarm_slices_healthy",
        "false_alarm_pixels_healthy",
        "false_alarm_slices_oracle",
        "false_alarm_pixels_oracle",
        "max_dice_lesion_slices",
        "image_auroc_max",
        "intervals",
        "recall_healthy",
    ):
        assert row[key] == exact[key], key
    for name, group in row["by_kind"].items():
        assert group["ap"] == pytest.approx(exact["by_kind"][name]["ap"], abs=0.01)
        assert group["dice_healthy"] == exact["by_kind"][name]["dice_healthy"]
    with pytest.raises(errors.UserError, match=r"healthy threshold: found 0\.3 after"):
        ev.result(healthy_threshold=0.3)
    with pytest.raises(errors.UserError, match=r"alarm_pixels: found 3 after"):
        ev.result(alarm_pixels=3)


def test_nothing_grows_once_pixels_are_dropped():
    data = make_set(24, size=64, healthy=6)
    ev = _filled(data, max_exact_pixels=0, healthy_threshold=0.28)
    size = len(pickle.dumps(ev))
    for _ in range(3):
        ev.add(*data[:3], np.ones(24, bool), data[3])
        ev.add_healthy(data[0][18:], data[2][18:], data[3][18:])
    assert len(pickle.dumps(ev)) < size + 200
    assert ev.result()["n_scored"] == 96


def test_nan_and_range_name_the_slice():
    maps, truth, brain, records = make_set()
    for value, words in ((np.nan, "NaN"), (np.inf, "NaN or infinity"), (1.5, r"in \[0, 1.5\]")):
        bad = maps.copy()
        bad[7, 16, 16] = value
        with pytest.raises(errors.UserError, match=f"slice p03-slice_1: found .*{words}"):
            _filled((bad, truth, brain, records))
    ev = evaluator.Evaluator(image_size=64)
    with pytest.raises(errors.UserError, match="found a map of 32 x 32, accepted: 64 x 64"):
        ev.add_healthy(maps, brain, records)


def test_batch_size_plays_no_part():
    data = make_set()
    assert _filled(data, batch=1).result() == _filled(data, batch=12).result()


def test_slice_scores_are_of_the_brain():
    maps, truth, brain, records = make_set()
    maps = np.where(brain, maps, np.float32(1.0))
    row = _filled((maps, truth, brain, records)).result()
    inside = np.where(brain, maps, 0)
    sick = truth.any(axis=(1, 2))
    assert row["image_auroc_max"] == pytest.approx(sk.roc_auc_score(sick, inside.max(axis=(1, 2))))
    assert row["image_auroc_mean"] == pytest.approx(
        sk.roc_auc_score(sick, inside.sum(axis=(1, 2)) / brain.sum(axis=(1, 2)))
    )


def test_differences_are_paired_with_the_best_baseline():
    weak, better = make_set(24, strength=0.1), make_set(24, strength=0.13)
    worse = (weak[0] * 0, *weak[1:])
    entries = []
    for name, data, learns in (("w", worse, False), ("f", weak, False), ("m", better, True)):
        ev = _filled(data)
        entries.append((ev.result(method=name, learns=learns), ev.subjects.sums))
    subject_sums.add_differences(entries)
    difference = entries[2][0]["difference"]
    assert difference["to"] == "f" and "difference" not in entries[1][0]
    low, high = difference["ap"]
    assert 0 < low <= entries[2][0]["ap"] - entries[1][0]["ap"] <= high
    assert high - low < 0.8 * np.ptp(entries[1][0]["intervals"]["ap"])


def test_dice_curve_holds_the_maximum():
    ev = _filled(make_set())
    grid, dice = ev.dice_curve()
    row = ev.result()
    assert dice.max() == pytest.approx(row["max_dice"])
    assert grid[dice.argmax()] == row["max_dice_threshold"]
    assert evaluator.Evaluator().dice_curve() is None


def test_bins_of_the_pool_are_the_fine_ones():
    ev = _filled(make_set(), max_exact_pixels=0)
    assert {g.fine.shape for g in ev._totals.groups.values()} == {(2, histogram.N_BINS)}


def _aupro_directly(maps, truth, limit=0.3):
    """Region by region and threshold by threshold."""
    regions = []
    for i, one in enumerate(truth):
        labels, count = ndimage.label(one, structure=np.ones((3, 3)))
        regions += [maps[i][labels == k] for k in range(1, count + 1)]
    others = maps[~truth]
    levels = np.unique(maps)[::-1]
    fpr = np.array([0.0, *[(others >= t).mean() for t in levels]])
    pro = np.array([0.0, *[np.mean([(r >= t).mean() for r in regions]) for t in levels]])
    inside = fpr <= limit
    x = np.append(fpr[inside], limit)
    y = np.append(pro[inside], np.interp(limit, fpr, pro))
    return np.trapezoid(y, x) / limit


@pytest.mark.parametrize("levels", [7, 10_000])
def test_region_overlap_is_that_of_a_direct_computation(levels):
    maps, truth, brain, records = make_set(12, healthy=3)
    truth[2, 26:28, 4:6] = True  # a second region in its slice
    maps = (np.round(maps * levels) / levels).astype(np.float32)
    row = _filled((maps, truth, brain, records)).result()
    assert row["aupro"] == pytest.approx(_aupro_directly(maps, truth), abs=1e-6)
    assert row["n_regions"] == 10
    weight, count = region_overlap.weights(truth[2])
    assert count == 2 and weight.sum() == pytest.approx(2.0)


def test_rates_asked_and_found():
    maps, truth, brain, records = make_set(24, healthy=12)
    ev = _filled((maps, truth, brain, records), rates={0.01: 0.29, 0.1: 0.27})
    found = ev.result()["rates"]
    healthy = maps[12:][brain[12:]]
    assert [e["asked"] for e in found] == [0.01, 0.1]
    for entry, limit in zip(found, (0.29, 0.27), strict=True):
        assert entry["realised"] == pytest.approx((healthy > np.float32(limit)).mean())
        assert entry["interval"][0] <= entry["realised"] <= entry["interval"][1]
    assert _filled((maps, truth, brain, records)).result()["rates"] == []
