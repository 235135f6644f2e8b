"""Lesions of a bank on healthy slices: inside the brain, where they belong, truth what changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.synthesis import learned, shapes

SIDE = 48


def slices(count=16):
    """(slices whose left half is dark and right half bright, brain masks)."""
    draw = np.random.default_rng(0)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, 6:-6, 8:-8] = True
    image = np.where(np.arange(SIDE) < SIDE // 2, -0.4, 0.4) + draw.normal(0, 0.01, brain.shape)
    return jnp.asarray(np.where(brain, image, -1.0)[..., None], jnp.float32), jnp.asarray(brain)


def bank(level=1.0, change=-0.3, side=5):
    """Two lesions: a full square, and a half of one whose mask is narrower than its change."""
    changes = np.full((2, side, side), change, np.float32)
    masks = np.ones((2, side, side), np.float32)
    changes[1, :, : side // 2], masks[1, :, :-1] = 0.0, 0.0
    return {"change": changes, "mask": masks, "level": np.full(2, level, np.float32)}


def paste(lesions=None, seed=0, **options):
    image, brain = slices()
    made = jax.jit(learned.paste, static_argnums=4)(
        jax.random.key(seed), image, brain, lesions or bank(), learned.Options(**options)
    )
    return np.asarray(image)[..., 0], np.asarray(brain), np.asarray(made[0])[..., 0], *made[1:]


def test_pixels_of_no_lesion_stay_as_they_are():
    image, brain, made, truth = paste()
    changed = made != image
    assert changed.any((1, 2)).all() and not (changed & ~brain).any()
    assert truth.any((1, 2)).all() and not (truth & ~changed).any()
    # A change is one of the bank's, larger or smaller by a quarter at most.
    ratio = (made - image)[changed] / -0.3
    assert 0.79 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.26


def test_lesions_go_where_the_tissue_is_as_bright():
    for level, half in ((1.0, slice(SIDE // 2, None)), (-1.0, slice(None, SIDE // 2))):
        _image, _brain, _made, truth = paste(bank(level), match=0.3, max_lesions=1)
        inside = truth[:, :, half].sum((1, 2)) / truth.sum((1, 2))
        assert (inside > 0.5).mean() > 0.9, level
    # Nothing is as bright as that: anywhere in the brain.
    *_, truth = paste(bank(9.0), max_lesions=1)
    assert truth.any((1, 2)).mean() > 0.8


def test_what_does_not_change_is_no_truth():
    # White tissue cannot become brighter: clipped, the lesion is not there.
    image, brain = slices()
    white = jnp.where(brain[..., None], 1.0, image)
    made, truth = learned.paste(
        jax.random.key(0), white, brain, bank(change=0.3), learned.Options()
    )
    np.testing.assert_array_equal(made, white)
    assert not truth.any()
    faint = paste(bank(change=learned.LEAST_CHANGE / 2))
    assert (faint[2] != faint[0]).any() and not faint[3].any()


def test_slices_without_brain_stay_healthy():
    image, brain = slices(2)
    made, truth = learned.paste(
        jax.random.key(0), image, jnp.zeros_like(brain), bank(), learned.Options()
    )
    np.testing.assert_array_equal(made, image)
    assert not truth.any()


def test_a_bank_of_patches_larger_than_the_slice_is_cut():
    *_, made, truth = paste(bank(side=2 * SIDE + 1))
    assert np.isfinite(made).all() and truth.any((1, 2)).mean() > 0.5


def test_synthesis_of_kind_learned_pastes():
    image, brain = slices()
    options = shapes.Options(share=1.0, kind="learned")
    made = shapes.corrupt(jax.random.key(3), image, brain, options, bank())
    expected, _ = learned.paste(jax.random.key(3), image, brain, bank(), options.lesions)
    np.testing.assert_array_equal(made, expected)
    with pytest.raises(errors.UserError, match=r"found .learned. without lesions"):
        shapes.corrupt(jax.random.key(3), image, brain, options)


def test_shapes_of_a_bank_are_those_of_one():
    found = jax.tree.map(np.shape, bank())
    assert found == {k: s.shape for k, s in learned.shapes(2, 5).items()}
    assert learned.find({"lesions": 1}) == 1 and learned.find({}) is None
    assert learned.find(None) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"share": 1.5}, "lesions.share: found 1.5"),
        ({"max_lesions": 0}, "lesions.max_lesions: found 0"),
        ({"match": 0.0}, "lesions.match: found 0.0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text):
    with pytest.raises(errors.UserError, match=text):
        learned.Options(**options)
