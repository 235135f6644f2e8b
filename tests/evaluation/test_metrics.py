"""Against the official code's numbers, against scikit-learn, and against plain loops."""

import pathlib

import numpy as np
import pytest
from sklearn import metrics as sk

from madad_jax.evaluation import metrics

_FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def golden():
    with np.load(_FIXTURES / "e_metrics.npz") as data:
        return dict(data)


def _group(golden, name):
    maps = golden[f"{name}/maps"]
    truth = golden[f"{name}/gt"] > 0 if f"{name}/gt" in golden else np.zeros(maps.shape, bool)
    return maps, truth


def _naive_dice(values, truth, th):
    predicted = (values > np.float32(th)) | (values >= 1)
    if not truth.any():
        return float(not predicted.any())
    return 2.0 * (predicted & truth).sum() / (predicted.sum() + truth.sum() + 1e-6)


@pytest.mark.parametrize("name", ["e_main", "e_ties", "e_quirk_th1", "e_emptyonly"])
def test_max_dice_is_the_official_one(golden, name):
    maps, truth = _group(golden, name)
    counts = metrics.ThresholdCounts()
    for i in range(0, len(maps), 5):
        counts.add(maps[i : i + 5], truth[i : i + 5])
    assert counts.max_dice()[0] == pytest.approx(float(golden[f"{name}/max_dice"]), abs=1e-6)
    np.testing.assert_allclose(
        counts.dice().mean(axis=0), golden[f"{name}/mean_dice_per_threshold"], atol=1e-6
    )
    if f"{name}/dice_per_threshold_image" in golden:
        np.testing.assert_allclose(
            counts.dice().T, golden[f"{name}/dice_per_threshold_image"], atol=1e-6
        )


@pytest.mark.parametrize("name", ["e_main", "e_ties", "e_quirk_th1"])
def test_pooled_figures_are_anomalibs_and_sklearns(golden, name):
    got = metrics.pooled(*_group(golden, name))
    assert got.auroc == pytest.approx(float(golden[f"{name}/auroc"]), abs=1e-6)
    assert got.ap == pytest.approx(float(golden[f"{name}/ap"]), abs=1e-6)
    assert got.max_dice == pytest.approx(float(golden[f"{name}/f1max"]), abs=1e-6)
    assert got.max_dice == pytest.approx(float(golden[f"{name}/sk_f1max"]), abs=1e-6)
    assert got.threshold == pytest.approx(float(golden[f"{name}/f1max_threshold"]), abs=1e-6)


def test_quirk_is_reached_only_at_threshold_one(golden):
    counts = metrics.ThresholdCounts()
    counts.add(*_group(golden, "e_quirk_th1"))
    assert counts.max_dice()[1] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    # Multiples of 1/200 tie with thresholds; float32 and float64 disagree about them.
    maps = (rng.integers(0, 211, (4, 9, 7)) / 200).astype(np.float32)
    truth = rng.random((4, 9, 7)) < 0.3
    truth[1] = False
    maps[2] = 0
    inside = rng.random((4, 9, 7)) < 0.7
    counts = metrics.ThresholdCounts()
    counts.add(maps, truth, inside)
    expected = [
        [_naive_dice(m[k], t[k], th) for th in metrics.THRESHOLDS]
        for m, t, k in zip(maps, truth, inside, strict=True)
    ]
    np.testing.assert_allclose(counts.dice(), expected, atol=1e-12)
    pooled = [
        2
        * ((p := (maps[inside] > np.float32(th)) | (maps[inside] >= 1)) & truth[inside]).sum()
        / (p.sum() + truth[inside].sum())
        for th in metrics.THRESHOLDS
    ]
    assert counts.pooled_max_dice() == pytest.approx(max(pooled), abs=1e-12)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize("share", [0.002, 0.4])
def test_pooled_equals_sklearn_with_and_without_ties(levels, share):
    rng = np.random.default_rng(levels)
    labels = rng.random(5000) < share
    scores = (rng.integers(0, levels, 5000) / levels + 0.3 * labels).astype(np.float32)
    got = metrics.pooled(scores, labels)
    assert got.auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert got.ap == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / (precision + recall + 1e-10)
    assert got.max_dice == pytest.approx(f1.max(), abs=1e-9)
    predicted = scores >= got.threshold
    assert sk.f1_score(labels, predicted) == pytest.approx(got.max_dice, abs=1e-9)


def test_one_class_gives_none():
    scores = np.linspace(0, 1, 9, dtype=np.float32)
    for labels in (np.zeros(9, bool), np.ones(9, bool)):
        assert metrics.pooled(scores, labels) == metrics.NO_FIGURES
    assert metrics.auroc(scores, np.zeros(9)) is None
    assert metrics.average_precision(scores, np.zeros(9)) is None
    assert metrics.f1_max(scores, np.zeros(9)) is None
    assert metrics.ThresholdCounts().max_dice() == (None, None)
    assert metrics.ThresholdCounts().pooled_max_dice() is None


def test_perfect_and_inverted_maps():
    labels = np.arange(10) >= 7
    scores = np.linspace(0, 1, 10, dtype=np.float32)
    assert metrics.auroc(scores, labels) == 1.0
    assert metrics.average_precision(scores, labels) == 1.0
    assert metrics.auroc(1 - scores, labels) == 0.0
    assert metrics.f1_max(1 - scores, labels) == pytest.approx(6 / 13)


@pytest.mark.parametrize("levels", [6, 10**6])
def test_exact_max_dice_equals_trying_every_score(levels):
    rng = np.random.default_rng(levels)
    maps = (rng.integers(0, levels + 1, (5, 40)) / levels).astype(np.float32)
    truth = rng.random((5, 40)) < 0.2
    truth[3] = False
    tried = []
    for th in [*np.unique(maps), 2.0]:
        predicted = maps >= np.float32(th)
        inter, p, g = (predicted & truth).sum(1), predicted.sum(1), truth.sum(1)
        tried.append(np.where(g > 0, 2 * inter / (p + g + 1e-6), p == 0).mean())
    assert metrics.max_dice_exact(list(maps), list(truth)) == pytest.approx(max(tried), abs=1e-12)


def test_exact_max_dice_is_never_below_the_grid(golden):
    maps, truth = _group(golden, "e_main")
    flat = (list(a.reshape(len(a), -1)) for a in (maps, truth))
    exact = metrics.max_dice_exact(*flat)
    assert float(golden["e_main/max_dice"]) <= exact < float(golden["e_main/max_dice"]) + 0.01


@pytest.mark.parametrize(
    ("area", "shape", "group"),
    [
        (0, (128, 128), ""),
        (3, (128, 128), "tiny"),
        (4, (128, 128), "small"),
        (71, (128, 128), "small"),
        (72, (128, 128), "medium"),
        (570, (128, 128), "medium"),
        (571, (128, 128), "large"),
        (71 * 4, (256, 256), "small"),
        (71 * 4 + 1, (256, 256), "medium"),
        (71 // 4, (64, 64), "small"),
        (570 * 2, (128, 256), "medium"),
    ],
)
def test_size_groups_scale_with_the_image(area, shape, group):
    assert metrics.size_group(area, shape) == group
