"""Masks from examples: whole lesions, deformed a little, and always in the brain."""

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.synthesis import lesion_masks

BRAIN = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 24


def example(*boxes):
    mask = np.zeros((64, 64), bool)
    for rows, columns in boxes:
        mask[slice(*rows), slice(*columns)] = True
    grey = np.random.default_rng(0).uniform(0, 1, mask.shape).astype(np.float32)
    return grey, mask


def test_a_lesion_is_a_component_with_its_surroundings():
    grey, mask = example(((0, 4), (10, 13)), ((4, 6), (13, 15)), ((40, 41), (60, 64)))
    lesions = lesion_masks.cut("a", grey, mask, margin=3)
    # The two first touch at a corner.
    assert [int(one.mask.sum()) for one in lesions] == [16, 4]
    assert [one.mask.shape for one in lesions] == [(12, 11), (7, 10)]
    first, last = lesions
    np.testing.assert_array_equal(first.grey[3:, :], grey[:9, 7:18])
    assert not first.mask[:3].any() and first.mask[3, 3]
    np.testing.assert_array_equal(last.grey[:, :7], grey[37:44, 57:64])


def test_deformed_lesions_keep_their_size_and_their_grey():
    _grey, mask = example(((20, 32), (20, 30)))
    (lesion,) = lesion_masks.cut("a", np.where(mask, 1.0, 0.0).astype(np.float32), mask)
    areas = []
    for seed in range(40):
        made, values = lesion_masks.deform(
            np.random.default_rng(seed), lesion, lesion_masks.Deformation()
        )
        areas.append(made.sum() / 120)
        # Grey values move with the mask: white inside, black outside.
        assert values[made].mean() > 0.85 and values[~made].mean() < 0.1
        assert not made[[0, -1]].any() and not made[:, [0, -1]].any()
    assert 0.8**2 * 0.75 < min(areas) < 0.85 and 1.15 < max(areas) < 1.25**2 * 1.25
    still = lesion_masks.Deformation(
        turn=0.0, least_scale=1.0, most_scale=1.0, elastic=0.0, mirror=0.0
    )
    same, _ = lesion_masks.deform(np.random.default_rng(0), lesion, still)
    (_rows, _columns, inside), *others = lesion_masks.components(same)
    assert inside.all() and inside.shape == (12, 10) and not others


def test_a_lesion_of_one_pixel_does_not_vanish():
    grey, mask = example(((20, 21), (20, 21)))
    (lesion,) = lesion_masks.cut("a", grey, mask)
    for seed in range(20):
        made, _ = lesion_masks.deform(
            np.random.default_rng(seed), lesion, lesion_masks.Deformation(least_scale=0.3)
        )
        assert made.any()


@pytest.mark.parametrize("side", [1, 6, 20])
def test_masks_lie_in_the_brain(side):
    mask = np.ones((side, side), bool)
    corners = set()
    for seed in range(60):
        corner = lesion_masks.place(np.random.default_rng(seed), mask, BRAIN)
        canvas = np.zeros(BRAIN.shape, bool)
        lesion_masks.paint(canvas, mask, corner, mask)
        assert (canvas & BRAIN).sum() >= lesion_masks.IN_BRAIN * mask.size
        corners.add(corner)
    assert len(corners) > 20  # at random


def test_a_mask_that_fits_nowhere_has_no_place():
    mask = np.ones((60, 60), bool)
    assert lesion_masks.place(np.random.default_rng(0), mask, BRAIN) is None
    assert lesion_masks.place(np.random.default_rng(0), mask, np.zeros((64, 64), bool)) is None


def test_what_lies_beyond_the_picture_is_cut():
    canvas = np.zeros((4, 4), np.float32)
    patch = np.arange(9, dtype=np.float32).reshape(3, 3)
    for corner in ((-2, -2), (3, 3), (-9, 0), (0, 4)):
        lesion_masks.paint(canvas, patch, corner, patch != 4)
    assert canvas[0, 0] == 8 and canvas.sum() == 8  # patch[0, 0] is 0


def test_the_rim_is_soft_and_ends():
    mask = np.zeros((40, 40), bool)
    mask[20, 20] = True
    weight = lesion_masks.soften(mask, 2.0)
    distance = np.hypot(*(np.mgrid[:40, :40] - 20))
    assert weight[20, 20] == 1.0  # a lesion of a pixel is not faded
    assert (weight[distance > 5] == 0).all()
    assert ((weight > 0.1) & (weight < 0.9)).any()
    assert not lesion_masks.soften(np.zeros((8, 8), bool)).any()


def test_similarity_is_a_correlation():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 20, 20)).astype(np.float32)
    assert lesion_masks.similarity(a, 3 * a + 7) == pytest.approx(1, abs=1e-5)
    assert lesion_masks.similarity(a, -a) == pytest.approx(-1, abs=1e-5)
    expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert lesion_masks.similarity(a, b) == pytest.approx(expected, abs=1e-5)
    assert lesion_masks.similarity(a, np.ones_like(a)) == 0


def test_scales_that_cannot_be_are_refused():
    with pytest.raises(errors.UserError, match=r"least_scale, most_scale: found 2\.0, 1\.25"):
        lesion_masks.Deformation(least_scale=2.0)
