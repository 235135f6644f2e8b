"""Against the official code's numbers, against scikit-learn, and against plain loops."""

import numpy as np
import pytest

from madad_jax.metrics import threshold_counts
from tests.metrics.records import group


def _naive_dice(values, truth, th):
    predicted = (values > np.float32(th)) | (values >= 1)
    if not truth.any():
        return float(not predicted.any())
    return 2.0 * (predicted & truth).sum() / (predicted.sum() + truth.sum() + 1e-6)


@pytest.mark.parametrize("name", ["e_main", "e_ties", "e_quirk_th1", "e_emptyonly"])
def test_max_dice_is_the_official_one(golden, name):
    maps, truth = group(golden, name)
    counts = threshold_counts.ThresholdCounts()
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


@pytest.mark.parametrize("n", [1, 3])
def test_scores_beside_a_threshold_fall_on_their_side(n):
    # Every threshold, its two neighbours in float32, and what lies outside the grid.
    at = threshold_counts.THRESHOLDS.astype(np.float32)
    ends = np.array([-1e-4, 1e-45, 1.5], np.float32)
    values = np.concatenate([np.nextafter(at, np.float32(-1)), at, np.nextafter(at, 2), ends])
    maps = np.stack([np.roll(values, k).reshape(6, -1) for k in range(n)]).astype(np.float32)
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, maps > 0.3)
    above = (maps[..., None] > at) | (maps[..., None] >= 1)
    np.testing.assert_array_equal(counts.positives, above.sum(axis=(1, 2)))
    hits = (above & (maps > 0.3)[..., None]).sum(axis=(1, 2))
    np.testing.assert_array_equal(counts.true_positives, hits)


def test_without_slices_there_is_no_figure():
    assert threshold_counts.ThresholdCounts().max_dice() == (None, None)
    assert threshold_counts.ThresholdCounts().pooled_max_dice() is None


def test_quirk_is_reached_only_at_threshold_one(golden):
    counts = threshold_counts.ThresholdCounts()
    counts.add(*group(golden, "e_quirk_th1"))
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
    counts = threshold_counts.ThresholdCounts()
    counts.add(maps, truth, inside)
    expected = [
        [_naive_dice(m[k], t[k], th) for th in threshold_counts.THRESHOLDS]
        for m, t, k in zip(maps, truth, inside, strict=True)
    ]
    np.testing.assert_allclose(counts.dice(), expected, atol=1e-12)
    pooled = [
        2
        * ((p := (maps[inside] > np.float32(th)) | (maps[inside] >= 1)) & truth[inside]).sum()
        / (p.sum() + truth[inside].sum())
        for th in threshold_counts.THRESHOLDS
    ]
    assert counts.pooled_max_dice() == pytest.approx(max(pooled), abs=1e-12)


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
    assert threshold_counts.max_dice_exact(list(maps), list(truth)) == pytest.approx(
        max(tried), abs=1e-12
    )


def test_exact_max_dice_is_never_below_the_grid(golden):
    maps, truth = group(golden, "e_main")
    flat = (list(a.reshape(len(a), -1)) for a in (maps, truth))
    exact = threshold_counts.max_dice_exact(*flat)
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
    assert threshold_counts.size_group(area, shape) == group
