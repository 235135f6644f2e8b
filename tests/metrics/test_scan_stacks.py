import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.metrics import scan_stacks

SPACING = (2.0, 1.0, 1.0)


def _stack(seed=0, shape=(5, 12, 12), levels=9):
    """Coarse values, so that ties and touching components are many."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, levels, shape) / (levels - 1)).astype(np.float32)


@hypothesis.given(st.integers(0, 50), st.sampled_from([0.0, 0.002, 0.004, 0.01]), st.floats(0, 1))
@hypothesis.settings(max_examples=60)
def test_curve_counts_as_labelling_does(seed, least, threshold):
    maps = _stack(seed)
    options = scan_stacks.Options(min_volume_ml=least)
    curve = scan_stacks.count_curve(maps, SPACING, options)
    labels, count = scan_stacks.candidates(maps, threshold, SPACING, options)
    assert scan_stacks.count_at(*curve, threshold) == count == labels.max()


def test_curve_is_exact_above_its_limit():
    maps = np.random.default_rng(1).random((6, 20, 20)).astype(np.float32)
    levels, counts = scan_stacks.count_curve(maps, SPACING, scan_stacks.Options(), limit=300)
    whole = scan_stacks.count_curve(maps, SPACING, scan_stacks.Options())
    cut = np.sort(maps.ravel())[-300]
    for t in np.linspace(cut, 1, 9):
        assert scan_stacks.count_at(levels, counts, float(t)) == scan_stacks.count_at(
            *whole, float(t)
        )


def test_candidates_are_by_volume_and_join_over_corners():
    maps = np.zeros((3, 8, 8), np.float32)
    maps[0, 0, 0] = maps[1, 1, 1] = 0.9  # two voxels that touch at a corner, on two slices
    maps[2, 4:7, 4:7] = 0.8
    maps[0, 7, 7] = 0.7
    labels, count = scan_stacks.candidates(maps, 0.5, SPACING, scan_stacks.Options())
    assert count == 3 and labels[2, 5, 5] == 1
    assert labels[0, 0, 0] == labels[1, 1, 1] == 2 and labels[0, 7, 7] == 3
    _, count = scan_stacks.candidates(maps, 0.5, SPACING, scan_stacks.Options(min_volume_ml=0.004))
    assert count == 2, "two voxels of 2 mm3 are 0.004 ml and stay"
    assert scan_stacks.candidates(maps, 0.8, SPACING, scan_stacks.Options())[1] == 1, (
        "above, not at"
    )


def test_median_and_erosion_are_in_millimetres():
    brain = np.zeros((5, 21, 21), bool)
    brain[:, 3:18, 3:18] = True
    maps = np.random.default_rng(0).random(brain.shape).astype(np.float32)
    out, inside = scan_stacks.process_stack(
        maps, brain, SPACING, scan_stacks.Options(median_mm=5.0)
    )
    expected = ndimage.median_filter(np.where(brain, maps, 0), size=(3, 5, 5), mode="nearest")
    np.testing.assert_array_equal(out, np.where(brain, expected, 0))
    assert inside is brain
    flat = scan_stacks.Options(median_mm=5.0, median_in_slice=True)
    out, _ = scan_stacks.process_stack(maps, brain, SPACING, flat)
    expected = ndimage.median_filter(np.where(brain, maps, 0), size=(1, 5, 5), mode="nearest")
    np.testing.assert_array_equal(out, np.where(brain, expected, 0))
    out, inside = scan_stacks.process_stack(maps, brain, SPACING, scan_stacks.Options(erode_mm=3.0))
    assert inside.sum() == 5 * 9 * 9 and inside[0].any(), "the ends of the stack are no rim"
    assert not out[~inside].any()


def test_smoothing_joins_neighbouring_slices_and_keeps_a_constant():
    brain = np.zeros((5, 21, 21), bool)
    brain[:, 5:16, 5:16] = True
    options = scan_stacks.Options(smooth_mm=2.0)
    out, _ = scan_stacks.process_stack(np.ones(brain.shape, np.float32), brain, SPACING, options)
    np.testing.assert_allclose(out[brain], 1.0, atol=1e-5)
    spot = np.zeros(brain.shape, np.float32)
    spot[2, 10, 10] = 1
    out, _ = scan_stacks.process_stack(spot, brain, SPACING, options)
    assert out[3, 10, 10] > 0.3 * out[2, 10, 10] > 0


def test_nothing_outside_the_brain_is_scored():
    maps = np.ones((2, 4, 4), np.float32)
    out, inside = scan_stacks.process_stack(
        maps, np.zeros((2, 4, 4), bool), SPACING, scan_stacks.Options()
    )
    assert not out.any() and scan_stacks.score(out, inside) == 0.0


def test_score_is_the_mean_of_the_highest_hundredth():
    maps = np.arange(1000, dtype=np.float32).reshape(10, 10, 10) / 1000
    assert scan_stacks.score(maps, np.ones(maps.shape, bool)) == pytest.approx(0.9945)


def test_published_settings_at_their_own_voxels():
    """pDDPM drops components of 7 voxels and keeps 8; DAE drops 20 and keeps 21."""
    assert scan_stacks.min_voxels((2.0, 2.0, 2.0), scan_stacks.PRESETS["pddpm"]) == 8
    assert scan_stacks.min_voxels((1.0, 1.875, 1.875), scan_stacks.PRESETS["dae"]) == 21


@pytest.mark.parametrize("field", ["smooth_mm", "median_mm", "erode_mm", "min_volume_ml"])
def test_bad_option_is_named(field):
    with pytest.raises(errors.UserError, match=f"{field}: found -1"):
        scan_stacks.Options(**{field: -1.0})


def test_a_curve_says_how_far_it_holds():
    """Nothing happens below the last voxel, and nothing is known below the cut."""
    maps = np.zeros((3, 8, 8), np.float32)
    maps[1, 2, 2] = 0.9
    levels, counts = scan_stacks.count_curve(maps, SPACING, scan_stacks.Options())
    assert levels.tolist() == [np.float32(0.9), 0.0] and counts.tolist() == [1, 1]
    maps = np.random.default_rng(1).random((6, 20, 20)).astype(np.float32)
    levels, _ = scan_stacks.count_curve(maps, SPACING, scan_stacks.Options(), limit=300)
    assert levels[-1] == np.sort(maps.ravel())[-301]
    levels, counts = scan_stacks.count_curve(
        np.ones((3, 9, 9), np.float32), SPACING, scan_stacks.Options(), limit=20
    )
    assert levels.tolist() == [1.0] and counts.tolist() == [0]
