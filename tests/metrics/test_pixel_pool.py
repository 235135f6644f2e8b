"""All pixels in one pool: against the official numbers and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from madad_jax.metrics import pixel_pool, threshold_counts
from tests.metrics.records import group


@pytest.mark.parametrize("name", ["e_main", "e_ties", "e_quirk_th1"])
def test_pooled_figures_are_anomalibs_and_sklearns(golden, name):
    got = pixel_pool.pooled(*group(golden, name))
    assert got.auroc == pytest.approx(float(golden[f"{name}/auroc"]), abs=1e-6)
    assert got.ap == pytest.approx(float(golden[f"{name}/ap"]), abs=1e-6)
    assert got.max_dice == pytest.approx(float(golden[f"{name}/f1max"]), abs=1e-6)
    assert got.max_dice == pytest.approx(float(golden[f"{name}/sk_f1max"]), abs=1e-6)
    assert got.threshold == pytest.approx(float(golden[f"{name}/f1max_threshold"]), abs=1e-6)


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize("share", [0.002, 0.4])
def test_pooled_equals_sklearn_with_and_without_ties(levels, share):
    rng = np.random.default_rng(levels)
    labels = rng.random(5000) < share
    scores = (rng.integers(0, levels, 5000) / levels + 0.3 * labels).astype(np.float32)
    got = pixel_pool.pooled(scores, labels)
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
        assert pixel_pool.pooled(scores, labels) == pixel_pool.NO_FIGURES
    assert pixel_pool.Pool().figures() == pixel_pool.NO_FIGURES


def test_perfect_and_inverted_maps():
    labels = np.arange(10) >= 7
    scores = np.linspace(0, 1, 10, dtype=np.float32)
    right, wrong = pixel_pool.pooled(scores, labels), pixel_pool.pooled(1 - scores, labels)
    assert right.auroc == 1.0 and right.ap == 1.0
    assert wrong.auroc == 0.0 and wrong.max_dice == pytest.approx(6 / 13)


@pytest.mark.parametrize("parts", [1, 7])
def test_zeros_and_blocks_change_nothing(parts):
    # Zeros on both sides, scores below them, and blocks that parts overflow.
    rng = np.random.default_rng(parts)
    scores = (rng.integers(-3, 12, 2000) / 10).astype(np.float32)
    labels = rng.random(2000) < 0.1 + 0.2 * (scores > 0.5)
    found = pixel_pool.Pool(first_block=16)
    for some, sick in zip(np.split(scores, 20)[::-1], np.split(labels, 20)[::-1], strict=True):
        for values, lesion in zip(
            np.array_split(some, parts), np.array_split(sick, parts), strict=True
        ):
            found.add(values[lesion], values[~lesion])
    got = found.figures()
    assert got.auroc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert got.ap == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    assert got == pixel_pool.pooled(scores, labels) == found.figures()


def plain_figures(scores, labels):
    """The same sums over counts that are searched for, score by score."""
    score, count = np.unique(scores[labels], return_counts=True)
    other = np.sort(scores[~labels])
    below = np.searchsorted(other, score, side="left")
    tied = np.searchsorted(other, score, side="right") - below
    tp = count[::-1].cumsum()[::-1]
    precision, recall = tp / (tp + other.size - below), tp / labels.sum()
    dice = 2.0 * precision * recall / (precision + recall + 1e-10)
    return pixel_pool.Pooled(
        auroc=float((count * (below + 0.5 * tied)).sum() / (labels.sum() * other.size)),
        ap=float((precision * count).sum() / labels.sum()),
        max_dice=float(dice.max()),
        threshold=float(score[dice.argmax()]),
    )


@pytest.mark.parametrize("levels", [3, 40, 1 << 24])
@pytest.mark.parametrize("lowest", [-1, 0, 1])
def test_one_sort_gives_the_figures_of_searches_to_the_last_digit(levels, lowest):
    rng = np.random.default_rng(levels)
    scores = (rng.integers(lowest, levels + 1, (6, 20, 20)) / levels).astype(np.float32)
    labels = rng.random(scores.shape) < 0.02 + 0.3 * scores.clip(0)
    pixels, slices, within = pixel_pool.Pool(first_block=7), pixel_pool.Pool(), pixel_pool.Pool()
    for one, sick in zip(scores, labels, strict=True):
        pixels.add(one[sick], one[~sick])
        threshold_counts.ThresholdCounts().add(one[None], sick[None], pool=slices)
        threshold_counts.ThresholdCounts().add(one[None], sick[None], one[None] > 0.5, within)
    expected = plain_figures(scores.ravel(), labels.ravel())
    assert pixels.figures() == expected == within.figures()
    assert slices.figures() == expected == slices.figures()
