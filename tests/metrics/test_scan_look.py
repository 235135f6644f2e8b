"""Closed forms: a contrast turned around has the likeness -1, and lies further off than any."""

import numpy as np
import pytest

from madad_jax.metrics import calibration_checks, scan_look

PIXEL = 4.0  # Cells of 8 mm are 2 x 2 pixels.


def picture(seed, noise=0.02):
    """A head of its own noise over what all heads share: 3 slices of 8 x 8 pixels."""
    shared = np.random.default_rng(99).uniform(0.2, 0.8, (3, 8, 8))
    own = np.random.default_rng(seed).normal(0.0, noise, shared.shape)
    return np.clip(shared + own, 0.0, 1.0).astype(np.float32)


BRAIN = np.ones((3, 8, 8), bool)


def look(image, brain=BRAIN):
    return scan_look.measure(image, brain, PIXEL)


@pytest.fixture(scope="module")
def healthy():
    return scan_look.collect([look(picture(seed)) for seed in range(8)])


def test_deciles_and_cells_of_a_picture_that_is_known():
    image = np.arange(32, dtype=np.float32).reshape(2, 4, 4) / 31
    found = look(image, np.ones((2, 4, 4), bool))
    np.testing.assert_allclose(found.deciles, np.arange(1, 10) / 10, atol=1e-6)
    assert found.cells.shape == (2, 2, 2)
    assert found.cells[0, 0, 0] == pytest.approx((0 + 1 + 4 + 5) / 4 / 31)


def test_the_rim_of_the_brain_is_not_mixed_with_what_lies_beyond():
    brain = np.zeros((1, 4, 4), bool)
    brain[0, :2, :3] = True
    found = look(np.full((1, 4, 4), 0.5, np.float32) * brain + (~brain) * np.float32(0.9), brain)
    np.testing.assert_allclose(found.cells[0], [[0.5, 0.5], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.deciles, np.full(9, 0.5))


def test_another_healthy_scan_is_not_unlike(healthy):
    for seed in range(100, 110):
        verdict = healthy.compare(look(picture(seed)))
        assert not verdict.is_unlike and verdict.likeness > 0.95, verdict


def test_a_contrast_turned_around_is_unlike(healthy):
    verdict = healthy.compare(look(1.0 - picture(100)))
    assert verdict.is_unlike and verdict.likeness < -0.95
    assert verdict.least_alike > 0.95


def test_a_scan_that_is_brighter_all_over_is_unlike(healthy):
    verdict = healthy.compare(look(np.clip(picture(100) + np.float32(0.19), 0, 1)))
    assert verdict.is_unlike and verdict.likeness > 0.9, "by its deciles alone"


def test_the_distance_is_the_root_mean_square_of_both_parts():
    """Healthy scans without any spread: distances are counted in the least spread, 0.02."""
    healthy = scan_look.HealthyLooks(np.full((5, 9), 0.5), np.full(5, 0.9), look(picture(0)).cells)
    same = look(picture(0))
    verdict = healthy.compare(scan_look.Look(np.full(9, 0.56), same.cells))
    assert verdict.furthest == 0.0 and verdict.likeness == pytest.approx(1.0)
    assert verdict.distance == pytest.approx(np.sqrt((3.0**2 + 0.0) / 2))
    lower = scan_look.HealthyLooks(np.full((5, 9), 0.5), np.full(5, 0.9), 1 - same.cells)
    verdict = lower.compare(scan_look.Look(np.full(9, 0.5), same.cells))
    assert verdict.distance == pytest.approx((1.9 / 0.02) / np.sqrt(2), rel=1e-5)


def test_the_factor_is_over_the_furthest_healthy_scan():
    assert not scan_look.Verdict(3.0, 2.0, 0.0, 0.0).is_unlike
    assert scan_look.Verdict(3.01, 2.0, 0.0, 0.0).is_unlike
    assert scan_look.Verdict(5.0, 4.0, 0.0, 0.0).is_unlike is False
    assert scan_look.Verdict(2.9, 0.0, 0.0, 0.0).is_unlike is False, "below three spreads never"
    assert scan_look.Verdict(3.1, 0.0, 0.0, 0.0).is_unlike


def test_likeness_is_with_the_mean_of_the_others(healthy):
    cells = [look(picture(seed)).cells for seed in range(8)]
    others = np.mean(cells[1:], axis=0, dtype=np.float64)
    expected = np.corrcoef(cells[0].ravel(), others.ravel())[0, 1]
    assert healthy.likeness[0] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(healthy.mean, np.mean(cells, axis=0), atol=1e-6)


def test_few_scans_and_other_slices_say_nothing(healthy):
    few = scan_look.collect([look(picture(seed)) for seed in range(scan_look.FEWEST - 1)])
    assert few.compare(look(1.0 - picture(100))) is None
    cut = scan_look.Look(healthy.deciles[0], healthy.mean[:2])
    assert healthy.compare(cut) is None


def test_slices_that_a_scan_lacks_count_for_nothing(healthy):
    whole = look(picture(100))
    part = scan_look.place(
        scan_look.Look(whole.deciles, whole.cells[[0, 2]]), [10, 14], [10, 12, 14]
    )
    assert np.isnan(part.cells[1]).all()
    np.testing.assert_array_equal(part.cells[[0, 2]], whole.cells[[0, 2]])
    assert not healthy.compare(part).is_unlike
    together = scan_look.collect([part, whole, part])
    np.testing.assert_allclose(together.mean[1], whole.cells[1])
    assert np.isfinite(together.likeness).all()


def test_a_constant_picture_is_like_nothing(healthy):
    assert healthy.compare(look(np.full((3, 8, 8), 0.5, np.float32))).likeness == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("deciles", np.full((4, 8), 0.5)),
        ("deciles", np.full((4, 9), np.nan)),
        ("deciles", np.full((4, 9), 1.5)),
        ("likeness", np.full(4, -1.5)),
        ("likeness", np.full(3, 0.5)),
        ("mean", np.full((1, 2, 2), np.inf, np.float16)),
        ("mean", np.full((1, 2, 2), -0.5, np.float16)),
        ("mean", np.full((2, 2), 0.5, np.float16)),
    ],
)
def test_looks_of_a_file_that_no_measurement_gives_are_refused(name, value):
    good = {"deciles": np.full((4, 9), 0.5), "likeness": np.full(4, 0.9)}
    good |= {"mean": np.full((1, 2, 2), np.nan, np.float16)}
    calibration_checks.check_looks(**good)
    with pytest.raises(ValueError, match="look_"):
        calibration_checks.check_looks(**good | {name: value})
