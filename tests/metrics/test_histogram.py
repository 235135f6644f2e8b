"""The streaming figures keep within their own stated bounds, on kind and unkind scores."""

import numpy as np
import pytest

from madad_jax.metrics import histogram, pixel_pool


def _counts(positive, negative, n_bins=histogram.N_BINS):
    parts = (histogram.bin_of(s, n_bins) for s in (positive, negative))
    return np.stack([np.bincount(b, minlength=n_bins) for b in parts])


def _cases():
    rng = np.random.default_rng(0)
    n, p = 20_000, 400
    yield "spread", rng.beta(5, 2, p), rng.beta(1, 6, n)
    yield "tiny scores", 1e-4 * rng.random(p), 1e-4 * rng.random(n) ** 2
    yield "one bin", 0.5 + 1e-7 * rng.random(p), 0.5 + 1e-7 * rng.random(n)
    yield "saturated", np.minimum(1, 2 * rng.random(p)), np.maximum(0, rng.random(n) - 0.5)
    yield "all tied", np.full(p, 0.25), np.full(n, 0.25)
    yield "worst order", np.full(p, 0.5), np.full(n, np.nextafter(np.float32(0.5), np.float32(1)))
    yield "best order", np.full(p, np.nextafter(np.float32(0.5), np.float32(1))), np.full(n, 0.5)
    yield (
        "precision rises in the bin",
        0.5 + 1e-6 * rng.random(99),
        np.append(np.full(999, 0.9), 0.5),
    )
    yield "few", np.array([0.7]), np.array([0.2, 0.8])


@pytest.mark.parametrize("n_bins", [8, 1024, histogram.N_BINS])
@pytest.mark.parametrize("case", list(_cases()), ids=lambda c: c[0])
def test_exact_figures_lie_within_the_bounds(case, n_bins):
    _, positive, negative = case
    positive, negative = positive.astype(np.float32), negative.astype(np.float32)
    found = pixel_pool.Pool()
    found.add(positive, negative)
    exact = found.figures()
    got = histogram.pooled(_counts(positive, negative, n_bins))
    for name in ("auroc", "ap", "max_dice"):
        error = abs(getattr(got, name) - getattr(exact, name))
        assert error <= getattr(got, f"{name}_bound") + 1e-9, name


def test_bounds_are_small_on_ordinary_scores():
    _, positive, negative = next(iter(_cases()))
    got = histogram.pooled(_counts(positive.astype(np.float32), negative.astype(np.float32)))
    assert max(got.auroc_bound, got.ap_bound, got.max_dice_bound) < 2e-3
    assert got.auroc_bound < 1e-5


def test_saturated_pixels_cost_no_accuracy():
    ones, zeros = np.ones(50, np.float32), np.zeros(70, np.float32)
    mixed = _counts(np.concatenate([ones, zeros]), np.concatenate([ones[:9], zeros]))
    got = histogram.pooled(mixed)
    assert (got.auroc_bound, got.ap_bound, got.max_dice_bound) == (0, 0, 0)


def test_bins_are_monotone_and_keep_the_ends_apart():
    scores = np.sort(np.random.default_rng(1).random(10_000).astype(np.float32))
    bins = histogram.bin_of(scores, 512)
    assert (np.diff(bins) >= 0).all()
    ends = histogram.bin_of(np.array([0, 1e-12, 1 - 1e-7, 1, 1.00001], np.float32), 512)
    assert ends.tolist() == [0, 1, 510, 511, 511]
    for score, index in zip(scores[::997], bins[::997], strict=True):
        low, high = (histogram.lower_edge(int(index) + i, 512) for i in (0, 1))
        assert low - 1e-7 <= score <= high + 1e-7


def test_threshold_reproduces_the_dice():
    rng = np.random.default_rng(2)
    positive, negative = (rng.beta(a, 4, 3000).astype(np.float32) for a in (6, 1))
    got = histogram.pooled(_counts(positive, negative, 1024))
    tp, fp = (positive >= got.threshold).sum(), (negative >= got.threshold).sum()
    assert 2 * tp / (tp + fp + len(positive)) == pytest.approx(got.max_dice, abs=1e-3)


def test_many_draws_agree_with_one_by_one():
    rng = np.random.default_rng(3)
    stack = np.stack(
        [_counts(*(rng.beta(a, 4, 500).astype(np.float32) for a in (3, 1)), 256) for _ in range(4)]
    )
    ap, dice = histogram.ap_and_max_dice(stack.astype(np.float64))
    for i, one in enumerate(stack):
        assert ap[i] == pytest.approx(histogram.pooled(one).ap)
        assert dice[i] == pytest.approx(histogram.pooled(one).max_dice)
    nothing, none = histogram.ap_and_max_dice(np.zeros((1, 2, 16)))
    assert np.isnan(nothing[0]) and np.isnan(none[0])
    assert histogram.pooled(np.zeros((2, 16), np.int64)) == pixel_pool.NO_FIGURES


def test_fast_histogram_is_that_of_its_bins_and_folds_into_the_coarse_one():
    rng = np.random.default_rng(2)
    ends = np.array([0, -1e-5, 1e-12, 1, 1 - 6e-8, 1.00001], np.float32)
    scores = np.concatenate([rng.random(20_000).astype(np.float32) ** 3, ends])
    fine = histogram.count_fine(scores)
    bins = histogram.fine_bins(scores)
    np.testing.assert_array_equal(fine, np.bincount(bins, minlength=histogram.N_BINS))
    assert np.abs(bins - histogram.bin_of(scores, histogram.N_BINS)).max() <= 1
    coarse = histogram.bin_of(scores, histogram.COARSE_BINS)
    folded = histogram.fold(fine)
    assert folded.sum() == len(scores) and (folded[0], folded[-1]) == (2, 2)
    moved = np.abs(folded - np.bincount(coarse, minlength=histogram.COARSE_BINS)).sum()
    assert moved <= 4  # a score on an edge, rounded


@pytest.mark.parametrize("count", [0, 3, 40_000])
def test_placed_scores_give_the_histograms_that_counting_gives(count):
    rng = np.random.default_rng(count)
    ends = np.array([0, -1e-5, 1e-12, 1, 1 - 6e-8, 1.00001], np.float32)
    scores = np.concatenate([rng.random(count).astype(np.float32) ** 3, ends])
    counted = np.bincount(histogram.fine_bins(scores), minlength=histogram.N_BINS)
    placed, before = histogram.place_fine(scores), np.arange(histogram.N_BINS)
    sums = before.copy()
    placed.add_to(sums)
    np.testing.assert_array_equal(sums - before, counted)
    np.testing.assert_array_equal(placed.coarse(), histogram.fold(counted))
