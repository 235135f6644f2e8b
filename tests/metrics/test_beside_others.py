"""Figures beside scikit-learn's and MONAI's, on maps with and without ties."""

import numpy as np
import pytest

from madad_jax.data.sources import record
from madad_jax.metrics import evaluator, pixel_pool, scan_figures, threshold_counts

sk = pytest.importorskip("sklearn.metrics")

SHAPE = (6, 16, 16)


def make_maps(kind):
    rng = np.random.default_rng(0)
    truth = np.zeros(SHAPE, bool)
    truth[:4, 3:7, 5:9] = True
    maps = np.clip(0.6 * rng.random(SHAPE) + 0.3 * truth, 0, 1).astype(np.float32)
    if kind == "six values":
        maps = (np.round(maps * 5) / 5).astype(np.float32)
    elif kind in ("zero", "constant"):
        maps = np.full(SHAPE, 0.0 if kind == "zero" else 0.4, np.float32)
    elif kind == "binary":
        maps = (maps > 0.5).astype(np.float32)
    return maps, truth


KINDS = ["random", "six values", "constant", "zero", "binary"]


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_ap_and_auroc_are_scikit_learns(kind):
    maps, truth = make_maps(kind)
    found = pixel_pool.pooled(maps, truth)
    flat = truth.ravel(), maps.ravel()
    assert found.ap == pytest.approx(sk.average_precision_score(*flat), abs=1e-12)
    assert found.auroc == pytest.approx(sk.roc_auc_score(*flat), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_dice_at_each_threshold_is_scikit_learns_f1(kind):
    maps, truth = make_maps(kind)
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, truth)
    for column in (0, 40, 80, 120, 199):
        limit = np.float32(threshold_counts.THRESHOLDS[column])
        for k in range(4):
            marked = (maps[k] > limit).ravel()
            expected = sk.f1_score(truth[k].ravel(), marked, zero_division=0.0)
            assert counts.dice()[k, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_slice_auroc_is_scikit_learns(kind):
    maps, truth = make_maps(kind)
    one = evaluator.Evaluator(draws=0)
    records = [record.Record(f"s{k}", f"s{k}", 0, "T1") for k in range(len(maps))]
    brain = np.ones(SHAPE, bool)
    one.add(maps, truth, brain, np.ones(len(maps), bool), records)
    sick = truth.any(axis=(1, 2))
    expected = sk.roc_auc_score(sick, maps.max(axis=(1, 2)))
    assert one.result()["image_auroc_max"] == pytest.approx(expected, abs=1e-12)


# Of detections: (scan, score, whether it is a lesion); ties within and across.
DETECTIONS = [
    (0, 0.9, True), (0, 0.7, False), (0, 0.6, True), (0, 0.6, False),
    (1, 0.8, False), (1, 0.5, True), (1, 0.3, False), (1, 0.2, True), (1, 0.1, False),
]  # fmt: skip


def froc_by_formula(false, true, lesions, images):
    """Bejnordi et al. 2017 (CAMELYON16), as MONAI has it: at each score, >= counts."""
    levels = sorted({*false, *true})[1:]
    false, true = np.array(false), np.array(true)
    return (
        np.array([*((false >= t).sum() for t in levels), 0]) / images,
        np.array([*((true >= t).sum() for t in levels), 0]) / lesions,
    )


def our_froc():
    """The curve of our own code on scans whose candidates are those detections."""
    maps, truth = np.zeros((2, 1, 20, 20), np.float32), np.zeros((2, 1, 20, 20), bool)
    for k, (scan, score, lesion) in enumerate(DETECTIONS):
        place = (scan, 0, 2 * k, 2 * k)  # none touches another
        maps[place], truth[place] = score, lesion
    levels = np.unique(np.float32([score for _, score, _ in DETECTIONS]))[1:]
    # Ours counts above a threshold, the formula at and above it.
    grid = [*np.nextafter(levels, np.float32(0)).tolist(), 1.0]
    scans = scan_figures.Scans(
        {"0": 1, "1": 1}, spacing=(1.0, 1.0, 1.0), healthy_threshold=0.5, grid=grid
    )
    records = [record.Record(str(k), str(k), 0, "T1") for k in range(2)]
    brain = np.ones((2, 20, 20), bool)
    scans.add(maps[:, 0], truth[:, 0], brain, np.ones(2, bool), records)
    return scans.result()


def expected_parts():
    false = [float(np.float32(score)) for _, score, lesion in DETECTIONS if not lesion]
    true = [float(np.float32(score)) for _, score, lesion in DETECTIONS if lesion]
    return false, true, len(true), 2


def test_the_froc_curve_is_that_of_the_formula():
    curve = our_froc()["froc"]
    false, sensitivity = froc_by_formula(*expected_parts())
    np.testing.assert_allclose(curve["false_positives"], false[::-1], atol=1e-12)
    np.testing.assert_allclose(curve["sensitivity"], sensitivity[::-1], atol=1e-12)


def test_the_froc_curve_is_monais():
    froc = pytest.importorskip("monai.metrics.froc")
    false, true, lesions, images = expected_parts()
    curve = froc.compute_froc_curve_data(np.array(false), np.array(true), lesions, images)
    ours = our_froc()
    np.testing.assert_allclose(ours["froc"]["false_positives"], curve[0][::-1], atol=1e-6)
    np.testing.assert_allclose(ours["froc"]["sensitivity"], curve[1][::-1], atol=1e-6)
    # MONAI joins the points by lines; ours takes the best point that was reached.
    joined = froc.compute_froc_score(*curve, eval_thresholds=(1,))
    assert ours["sensitivity_at_1"] <= joined + 1e-6
