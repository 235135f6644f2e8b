import numpy as np
import pytest

from madad_jax.metrics import bootstrap, histogram, pixel_pool, threshold_counts


def _add(sums, positive, negative, dice):
    bins = (histogram.bin_of(s, bootstrap.N_BINS) for s in (positive, negative))
    scores = np.stack([np.bincount(b, minlength=bootstrap.N_BINS) for b in bins])
    bootstrap.add_slice(sums, scores, dice)


def _subjects(n, seed=0, slices=2):
    rng = np.random.default_rng(seed)
    out, pixels = [], []
    for _ in range(n):
        sums = bootstrap.empty_sums(threshold_counts.N_THRESHOLDS)
        skill = rng.uniform(2, 8)
        for _ in range(slices):
            positive = rng.beta(skill, 3, 30).astype(np.float32)
            negative = rng.beta(1, 5, 500).astype(np.float32)
            counts = threshold_counts.ThresholdCounts()
            labels = np.arange(530) < 30
            values = np.concatenate([positive, negative])
            counts.add(values[None, None], labels[None, None])
            _add(sums, positive, negative, counts.dice()[0])
            pixels.append((values, labels))
        out.append(sums)
    return out, pixels


def test_taking_everyone_once_gives_the_figures_themselves():
    subjects, pixels = _subjects(6)
    figures = bootstrap.draw_figures(subjects, np.ones((1, 6)))
    exact = pixel_pool.pooled(*(np.concatenate(a) for a in zip(*pixels, strict=True)))
    assert figures["ap"][0] == pytest.approx(exact.ap, abs=2e-3)
    assert figures["pooled_max_dice"][0] == pytest.approx(exact.max_dice, abs=2e-3)
    counts = threshold_counts.ThresholdCounts()
    for values, labels in pixels:
        counts.add(values[None, None], labels[None, None])
    assert figures["max_dice"][0] == pytest.approx(counts.max_dice()[0], abs=1e-9)


def test_interval_holds_the_figure_and_narrows_with_more_subjects():
    widths = []
    for n in (8, 100):
        subjects, _ = _subjects(n)
        own = bootstrap.draw_figures(subjects, np.ones((1, n)))
        got = bootstrap.intervals(subjects, draws=200, seed=0)
        assert set(got) == {"ap", "pooled_max_dice", "max_dice"}
        for name, (low, high) in got.items():
            assert low <= own[name][0] <= high
        widths.append(got["ap"][1] - got["ap"][0])
    assert widths[1] < 0.7 * widths[0]


def test_seed_decides():
    subjects, _ = _subjects(6)
    assert bootstrap.intervals(subjects, seed=1) == bootstrap.intervals(subjects, seed=1)
    assert bootstrap.intervals(subjects, seed=1) != bootstrap.intervals(subjects, seed=2)


def test_slices_of_one_subject_are_drawn_together():
    weights = bootstrap.draw_weights(7, 50, 0)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.max() > 1


def test_few_subjects_or_no_draws_give_none():
    subjects, _ = _subjects(bootstrap.MIN_SUBJECTS - 1)
    assert bootstrap.intervals(subjects) == {}
    assert bootstrap.intervals(_subjects(6)[0], draws=0) == {}
    names = {str(i): s for i, s in enumerate(subjects)}
    assert bootstrap.paired_difference(names, names) == {}


def test_draws_without_a_lesion_are_left_out():
    subjects = [bootstrap.empty_sums(201) for _ in range(6)]
    for s in subjects:
        _add(s, np.zeros(0, np.float32), np.full(9, 0.1, np.float32), np.ones(201))
    assert set(bootstrap.intervals(subjects)) == {"max_dice"}


def test_paired_difference_of_equals_is_zero_and_has_a_sign():
    one = {str(i): s for i, s in enumerate(_subjects(8)[0])}
    assert bootstrap.paired_difference(one, one)["ap"] == [0.0, 0.0]
    flat = {name: bootstrap.empty_sums(201) for name in one}
    for s in flat.values():
        _add(s, np.full(30, 0.1, np.float32), np.full(500, 0.1, np.float32), np.zeros(201))
    ahead = bootstrap.paired_difference(one, flat)["ap"]
    behind = bootstrap.paired_difference(flat, one)["ap"]
    assert ahead[0] > 0.2 and behind == pytest.approx([-ahead[1], -ahead[0]])
