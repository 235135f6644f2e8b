"""An atlas of patterns that are known, on slices of one pixel a cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import healthy_groups as atlas
from madad_jax.core import errors

SIDE = 32
BRAIN = np.zeros((SIDE, SIDE), bool)
BRAIN[4:-4, 4:-4] = True
TOP = np.where(np.arange(SIDE)[:, None] < 12, 1.0, -1.0) * BRAIN  # bright above


def fit(z, groups=2, seed=0):
    z = z.astype(np.float32)
    made = atlas.Fit(atlas.Options(groups), seed)
    for show_again in (False, True):
        if show_again:
            made.group()
        for part in np.array_split(z, 3):
            made.add(part, np.broadcast_to(BRAIN, part.shape))
    return made.result()


def compare(made, z):
    z = jnp.asarray(z, jnp.float32)
    brain = jnp.broadcast_to(jnp.asarray(BRAIN), z.shape)
    return [np.asarray(part) for part in jax.jit(atlas.compare)(made, z, brain)]


def two_kinds():
    """Sixteen slices bright above and sixteen bright below, each 0.5 brighter or darker."""
    offsets = np.where(np.arange(16) % 2, 0.5, -0.5)[:, None, None] * BRAIN
    return np.concatenate([TOP + offsets, -TOP + offsets])[np.random.default_rng(0).permutation(32)]


def test_two_clear_kinds_are_the_groups():
    made = fit(two_kinds())
    specs = atlas.shapes(atlas.Options(2), SIDE)
    assert {k: (v.shape, v.dtype) for k, v in made.items()} == {
        k: (v.shape, v.dtype) for k, v in specs.items()
    }
    means = sorted(made["mean"], key=lambda mean: mean[6, 12])
    np.testing.assert_allclose(means, [-TOP, TOP], atol=1e-6)
    inside = np.broadcast_to(BRAIN, made["spread"].shape)
    # The floor of the variance, 0.05, is added.
    np.testing.assert_allclose(made["spread"][inside], np.sqrt(0.25 + 0.05), rtol=1e-5)
    # Too few brains outside: nothing is known there.
    np.testing.assert_allclose(made["spread"][~inside], np.sqrt(1.05), rtol=1e-5)
    assert not made["mean"][~inside].any()


def test_deviations_are_from_the_group_that_a_slice_looks_like():
    made = fit(two_kinds())
    strange = TOP.copy()
    strange[8, 8] += 0.6
    mean, deviation = compare(made, np.stack([TOP, -TOP, strange]))
    np.testing.assert_allclose(mean, [TOP, -TOP, TOP], atol=1e-5)
    np.testing.assert_allclose(deviation[:2], 0, atol=1e-5)
    expected = np.zeros((SIDE, SIDE))
    expected[8, 8] = 0.6 / np.sqrt(0.3)
    np.testing.assert_allclose(deviation[2], expected, atol=1e-4)


def test_a_mirrored_slice_has_the_mirrored_maps():
    z = np.random.default_rng(0).normal(0, 1, (12, SIDE, SIDE)) * BRAIN
    made = fit(z, groups=1)
    for straight, turned in zip(compare(made, z), compare(made, z[:, :, ::-1]), strict=True):
        np.testing.assert_allclose(straight, turned[:, :, ::-1], atol=1e-5)
        assert not straight[:, ~BRAIN].any() and np.abs(straight).max() > 0.3


def test_what_cannot_be_is_said():
    with pytest.raises(errors.UserError, match=r"atlas\.groups: found -1, accepted: at least 0"):
        atlas.Options(-1)
    with pytest.raises(errors.UserError, match=r"found 3 with data\.image_size=48, .* of 32"):
        atlas.shapes(atlas.Options(3), 48)
    with pytest.raises(errors.UserError, match=r"found 9 with 8 training slices"):
        fit(two_kinds()[:8], groups=9)
    with pytest.raises(errors.UserError, match=r"found 1 with 0 training slices"):
        atlas.Fit(atlas.Options(1)).group()


def test_outside_the_slices_own_brain_nothing_deviates():
    smaller = jnp.asarray(BRAIN).at[:12].set(False)[None]
    z = jnp.asarray(TOP, jnp.float32)[None] * smaller
    mean, deviation = jax.jit(atlas.compare)(fit(two_kinds()), z, smaller)
    # The groups' brains reach further, and their means are 1 there.
    assert not np.any(mean[~smaller]) and not np.any(deviation[~smaller])
