"""Anomalies drawn in several contrasts: one place, fillings of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.synthesis import drawn, drawn_stacked
from tests.synthesis.test_drawn import COUNT, slices

OPTIONS = drawn.Options(healthy=0.0, max_shapes=1, min_radius=0.1, max_radius=0.2, kinds=("shift",))


@pytest.fixture(scope="module")
def draw():
    """Draws in the same slice as both contrasts, and as its neighbours where asked for."""
    images, brain = slices()

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def program(key, channels, hidden):
        stack = jnp.tile(images, (1, 1, 1, channels))
        options = {"contrasts": 2, "hidden": hidden}
        return stack, *drawn_stacked.draw(key, stack, brain, OPTIONS, **options)

    def run(seed, channels, hidden=0.0):
        found = program(jax.random.key(seed), channels, hidden)
        stack, out, truth = (np.asarray(x) for x in found)
        return out != stack, truth, out - stack

    return run


def test_a_shape_lies_at_one_place_with_a_filling_for_each_contrast(draw):
    changed, truth, difference = draw(0, 2)
    both = changed[..., 0] & changed[..., 1]
    assert truth.any((1, 2, 3)).sum() >= COUNT - 2
    for n in np.flatnonzero(both.any((1, 2))):
        overlap = both[n].sum() / (changed[n, ..., 0] | changed[n, ..., 1]).sum()
        assert overlap > 0.5  # softness differs, the place does not
    # Some are bright in one and dark in the other.
    signs = np.sign((difference * truth.any(-1, keepdims=True)).sum((1, 2)))
    assert (signs[:, 0] * signs[:, 1] < 0).any() and (signs[:, 0] * signs[:, 1] > 0).any()


def test_what_a_contrast_does_not_show_is_no_truth_of_it(draw):
    for seed in range(3):
        changed, truth, _ = draw(seed, 2, hidden=0.5)
        alone = changed[..., 1].any((1, 2)) & ~changed[..., 0].any((1, 2))
        assert not truth[~changed.any((1, 2))[:, None, None, :] & np.ones_like(truth)].any()
        if (truth[alone][..., 1].any((1, 2)) & ~truth[alone][..., 0].any((1, 2))).any():
            break
    else:
        pytest.fail("no slice whose shape one contrast shows alone")


def test_neighbours_have_some_of_the_shapes_and_are_never_truth(draw):
    here, beside, marked = 0, 0, 0
    for seed in range(3):
        changed, truth, _ = draw(seed, 6)
        own = changed[..., :2].any((1, 2, 3))
        others = changed[..., 2:].any((1, 2, 3))
        here, beside = here + (own & ~others).sum(), beside + (others & ~own).sum()
        marked += truth.any((1, 2, 3)).sum()
        assert not truth[~own].any()
        # Both neighbours of a contrast have it, or none.
        np.testing.assert_array_equal(changed[..., 2:4].any((1, 2)), changed[..., 4:].any((1, 2)))
    assert here and beside and marked
