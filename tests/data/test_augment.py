import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.input import augment


def _element(side=64, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    image = np.where(mask, rng.uniform(-0.5, 0.5, (side, side)), -1.0).astype(np.float32)
    return {"image": image[..., None], "brain_mask": mask}


def _spot(side, row, column):
    image = np.full((side, side, 1), -1.0, np.float32)
    image[row - 1 : row + 2, column - 1 : column + 2] = 1.0
    return image, image[..., 0] > 0


def _centre(mask):
    return np.array(np.nonzero(mask)).mean(1)


def test_rotation_is_counter_clockwise_on_the_screen():
    image, mask = _spot(65, 32, 52)  # Right of the middle.
    turned, turned_mask = augment.warp(image, mask, angle=90.0, shift_right=0.0, shift_down=0.0)
    np.testing.assert_allclose(_centre(turned[..., 0] > 0), [12, 32], atol=0.6)  # On top.
    np.testing.assert_allclose(_centre(turned_mask), [12, 32], atol=0.6)


def test_shift_is_right_and_down():
    image, mask = _spot(64, 30, 30)
    moved, moved_mask = augment.warp(image, mask, angle=0.0, shift_right=8.0, shift_down=4.0)
    np.testing.assert_allclose(_centre(moved[..., 0] > 0), [34, 38], atol=1e-6)
    np.testing.assert_array_equal(moved_mask, moved[..., 0] > 0)


def test_intensity_acts_on_the_unit_scale():
    image = np.array([[-1.0, 0.0, 1.0]], np.float32)[..., None]
    changed = augment.change_intensity(image, gain=0.9, offset=0.1)
    np.testing.assert_allclose(changed[0, :, 0], [-0.8, 0.1, 1.0], atol=1e-6)


def test_official_moves_exactly_five_degrees_and_eight_pixels():
    official = augment.from_options({"style": "official", "contrast": 0.0, "brightness": 0.0})
    element = _element(256)
    shifted, _ = augment.warp(
        element["image"], element["brain_mask"], angle=0.0, shift_right=8.0, shift_down=8.0
    )
    turned, _ = augment.warp(
        element["image"], element["brain_mask"], angle=5.0, shift_right=0.0, shift_down=0.0
    )
    draws = [official(element, np.random.default_rng(s))["image"] for s in range(24)]

    def seen(reference):
        return sum(np.abs(draw - reference)[100:150, 100:150].max() < 1e-5 for draw in draws)

    assert seen(element["image"]) > 0 and seen(shifted) > 0 and seen(turned) > 0
    assert seen(element["image"]) + seen(shifted) + seen(turned) < 24  # Some have both.


def test_paper_style_stays_within_its_limits():
    paper = augment.from_options({"style": "paper", "rotate_degrees": 0.0, "contrast": 0.0})
    element = _element()
    before = _centre(element["brain_mask"])
    shifts = []
    for seed in range(60):
        mask = paper(element, np.random.default_rng(seed))["brain_mask"]
        shifts.append(_centre(mask) - before)
    shifts = np.array(shifts)
    assert np.abs(shifts).max() <= 2.0  # 64 / 32
    assert (np.abs(shifts).max(1) < 0.25).sum() >= 15  # Half of them stay where they are,
    assert shifts.min() <= -1.0 and shifts.max() >= 1.0  # the others go both ways.


def test_background_is_empty_again_and_dtypes_stay():
    augmented = augment.from_options({"style": "paper", "probability": 1.0})(
        _element(), np.random.default_rng(3)
    )
    assert augmented["image"].dtype == np.float32 and augmented["brain_mask"].dtype == bool
    assert np.all(augmented["image"][~augmented["brain_mask"]] == -1.0)
    assert augmented["brain_mask"].any()


def test_same_generator_same_draw():
    paper = augment.from_options({"style": "paper", "probability": 1.0})
    first, again, other = (
        paper(_element(), np.random.default_rng(seed))["image"] for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_options():
    assert augment.from_options(None) is None
    assert augment.from_options({}) is None
    assert augment.from_options({"enabled": False, "style": "paper"}) is None
    with pytest.raises(errors.UserError, match="did you mean 'rotate_degrees'"):
        augment.from_options({"rotate_degree": 5})
    with pytest.raises(errors.UserError, match="found 'offical', accepted: paper, official"):
        augment.from_options({"style": "offical"})
    with pytest.raises(errors.UserError, match="probability"):
        augment.from_options({"probability": 2.0})
