import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import baseline_maps, pixel_pool


def _slices(n, seed=0, size=32):
    """Round brains with a bright ring, each with its own gain and offset."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x)
    brain = np.repeat((radius < 0.42 * size)[None], n, axis=0)
    texture = np.sin(radius) * 0.2 + 0.05 * rng.standard_normal((n, size, size))
    images = rng.uniform(0.5, 1.5, (n, 1, 1)) * texture + rng.uniform(-0.3, 0.3, (n, 1, 1))
    return np.where(brain, images, -1.0).astype(np.float32), brain


def _with_lesion(images, brain, change):
    truth = np.zeros_like(brain)
    truth[:, 12:17, 14:19] = True
    return np.where(truth, images + np.float32(change), images).astype(np.float32), truth


def test_z_score_is_of_the_brain_and_forgets_gain_and_offset():
    images, brain = _slices(3)
    z = baseline_maps.z_score(images, brain)
    for i in range(3):
        assert z[i][brain[i]].mean() == pytest.approx(0, abs=1e-5)
        assert z[i][brain[i]].std() == pytest.approx(1, abs=1e-4)
    assert not z[~brain].any()
    again = baseline_maps.z_score(np.float32(0.3) * images - np.float32(0.2), brain)
    np.testing.assert_allclose(again, z, atol=1e-4)


def test_flat_or_missing_brain_is_no_nan():
    images, brain = np.zeros((2, 8, 8), np.float32), np.zeros((2, 8, 8), bool)
    brain[0, 2:5, 2:5] = True
    assert np.isfinite(baseline_maps.z_score(images, brain)).all()


@pytest.mark.parametrize(("change", "winner"), [(1.0, "bright"), (-1.0, "dark")])
def test_the_right_direction_finds_the_lesion(change, winner):
    images, brain = _slices(4)
    images, truth = _with_lesion(images, brain, change)
    ap = {
        d: pixel_pool.pooled(
            baseline_maps.intensity(images, brain, direction=d, sigma=1.0), truth
        ).ap
        for d in baseline_maps.DIRECTIONS
    }
    assert max(ap, key=ap.get) in (winner, "absolute")
    loser = "dark" if winner == "bright" else "bright"
    assert ap[winner] > 0.8 > 0.2 > ap[loser]
    assert ap["absolute"] > 0.7


def test_maps_are_in_the_unit_interval_and_zero_outside_the_brain():
    images, brain = _slices(2)
    images, _ = _with_lesion(images, brain, 50.0)
    mean = baseline_maps.MeanImage()
    mean.add(*_slices(6, seed=1))
    maps = [
        baseline_maps.intensity(images, brain, direction=d, sigma=1.0)
        for d in baseline_maps.DIRECTIONS
    ]
    maps += [mean.maps(images, brain, sigma=1.0, spread=s) for s in (False, True)]
    for m in maps:
        assert m.dtype == np.float32
        assert m.min() >= 0 and m.max() < 1
        assert not m[~brain].any()


def test_unit_maps_keep_the_order():
    z = np.linspace(-8, 8, 1001, dtype=np.float32)
    assert (np.diff(baseline_maps._signed_to_unit(z)) > 0).all()
    assert (np.diff(baseline_maps._positive_to_unit(np.abs(z[501:]))) > 0).all()
    assert baseline_maps._signed_to_unit(np.zeros(1, np.float32))[0] == 0.5


def test_unknown_direction():
    images, brain = _slices(1)
    with pytest.raises(errors.UserError, match="direction: found 'loud', accepted: bright"):
        baseline_maps.intensity(images, brain, direction="loud", sigma=1.0)


def test_mean_image_streams():
    images, brain = _slices(12)
    whole, parts = baseline_maps.MeanImage(), baseline_maps.MeanImage()
    whole.add(images, brain)
    for i in range(0, 12, 5):
        parts.add(images[i : i + 5], brain[i : i + 5])
    test = _slices(2, seed=5)
    for spread in (False, True):
        np.testing.assert_allclose(
            parts.maps(*test, sigma=1.0, spread=spread),
            whole.maps(*test, sigma=1.0, spread=spread),
            atol=1e-6,
        )


def test_mean_image_is_the_distance_to_the_mean():
    images, brain = _slices(12)
    mean = baseline_maps.MeanImage()
    mean.add(images, brain)
    test, test_brain = _slices(1, seed=5)
    z = baseline_maps.z_score(test, test_brain)
    distance = np.abs(z - baseline_maps.z_score(images, brain).mean(axis=0))[test_brain]
    got = mean.maps(test, test_brain, sigma=0.0)[test_brain]
    np.testing.assert_allclose(got / (1 - got), distance, rtol=1e-3, atol=1e-5)


def test_mean_image_finds_what_no_brightness_can():
    """Tissue of ordinary brightness in the wrong place, where training brains are dark."""
    images, brain = _slices(40)
    mean = baseline_maps.MeanImage()
    mean.add(images, brain)
    test, test_brain = _slices(3, seed=7)
    truth = np.zeros_like(test_brain)
    truth[:, 15:18, 19:22] = True
    dark = test.copy()
    dark[truth] = np.roll(test, 3, axis=2)[truth]
    ap = pixel_pool.pooled(mean.maps(dark, test_brain, sigma=0.5), truth).ap
    best = max(
        pixel_pool.pooled(
            baseline_maps.intensity(dark, test_brain, direction=d, sigma=0.5), truth
        ).ap
        for d in baseline_maps.DIRECTIONS
    )
    assert ap > 0.5 > best


def test_spread_forgives_where_training_brains_differ():
    images, brain = _slices(60)
    rng = np.random.default_rng(3)
    images[:, 8:12, 8:12] += rng.normal(0, 0.5, (60, 1, 1)).astype(np.float32)
    mean = baseline_maps.MeanImage()
    mean.add(images, brain)
    test, test_brain = _slices(3, seed=9)
    test[:, 8:12, 8:12] += 0.4  # within what people have
    test[:, 20:24, 18:22] += 0.4  # not so here
    plain, over = (mean.maps(test, test_brain, sigma=0.5, spread=s) for s in (False, True))
    ratio = [m[:, 21, 20].mean() / m[:, 10, 10].mean() for m in (plain, over)]
    assert ratio[1] > 1.3 * ratio[0]


def test_bands_keep_levels_of_the_head_apart():
    images, brain = _slices(20)
    numbers = [10] * 10 + [90] * 10
    flipped = np.where(brain, -images, -1.0).astype(np.float32)
    images = np.concatenate([images[:10], flipped[10:]])
    mean = baseline_maps.MeanImage(band=8)
    mean.add(images, brain, numbers)
    test = images[[0, 10]], brain[[0, 10]]
    near = mean.maps(*test, sigma=0.0, slice_numbers=[13, 70])  # 70: the nearest band is 90's
    far = mean.maps(*test, sigma=0.0, slice_numbers=[90, 10])
    assert near[brain[:2]].mean() < 0.5 * far[brain[:2]].mean()
    with pytest.raises(ValueError, match="slice_numbers"):
        mean.add(images, brain)


def test_mean_image_errors():
    images, brain = _slices(1)
    with pytest.raises(errors.UserError, match="0 training slices"):
        baseline_maps.MeanImage().maps(images, brain, sigma=1.0)
    mean = baseline_maps.MeanImage()
    mean.add(images, brain)
    with pytest.raises(errors.UserError, match="found a slice of 16 x 16, accepted: 32 x 32"):
        mean.add(images[:, :16, :16], brain[:, :16, :16])


def test_best_intensity_says_that_it_looked():
    rows = [
        {"method": "a", "direction": "bright", "ap": None},
        {"method": "b", "direction": "dark", "ap": 0.3},
        {"method": "c", "direction": "absolute", "ap": 0.2},
    ]
    best = baseline_maps.best_intensity(rows)
    assert best["ap"] == 0.3 and best["id"] == "intensity"
    assert "dark" in best["method"] and "oracle" in best["method"]
    nothing = baseline_maps.best_intensity([dict(r, ap=None) for r in rows])
    assert nothing["direction"] == "bright"
