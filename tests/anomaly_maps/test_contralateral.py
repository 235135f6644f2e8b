"""The other half of the head: exact exchange of columns, nothing without a counterpart."""

import jax.numpy as jnp
import numpy as np

from madad_jax.anomaly_maps import contralateral

SIDE = 32


def halves(shift=0):
    """(z [1,H,W] symmetric about its brain's middle, brain mask), moved by whole columns."""
    rng = np.random.default_rng(0)
    right = rng.normal(size=(SIDE, 10)).astype(np.float32)
    z, brain = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), bool)
    brain[4:-6, 6 + shift : 26 + shift] = True
    z[:, 6 + shift : 26 + shift] = np.concatenate([right[:, ::-1], right], 1)
    return jnp.asarray(z * brain)[None], jnp.asarray(brain)[None]


def test_a_symmetric_slice_equals_its_other_half_wherever_it_lies():
    for shift in (-5, 0, 6):
        z, brain = halves(shift)
        other, apart = contralateral.compare(z, brain)
        np.testing.assert_array_equal(other, z)
        assert not np.asarray(apart).any()


def test_a_change_on_one_side_stands_out_there_and_with_the_other_sign_opposite():
    z, brain = halves()
    changed = z.at[:, 12:18, 8:12].add(-0.5)
    other, apart = contralateral.compare(changed, brain)
    # Columns 8 to 11 of 6 to 25 lie opposite to 20 to 23.
    np.testing.assert_array_equal(other[:, 12:18, 20:24], changed[:, 12:18, 8:12][:, :, ::-1])
    assert apart[0, 15, 10] < -0.4 and apart[0, 15, 21] > 0.4
    np.testing.assert_allclose(apart, -apart[:, :, ::-1], atol=1e-6)


def test_of_a_mirrored_slice_it_is_the_mirror_image():
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(2, SIDE, SIDE)), jnp.float32)
    brain = jnp.asarray(rng.uniform(size=z.shape) < 0.7).at[:, :, -4:].set(False)
    straight = contralateral.compare(z, brain)
    turned = contralateral.compare(z[:, :, ::-1], brain[:, :, ::-1])
    for a, b in zip(straight, turned, strict=True):
        np.testing.assert_allclose(a, b[:, :, ::-1], atol=1e-5)
        assert not np.asarray(a)[~np.asarray(brain)].any()


def test_what_has_no_counterpart_has_no_difference():
    z, brain = halves()
    # The left half alone is brain: its middle is its own.
    brain_left = brain.at[:, :, 15:].set(False).at[:, 10, 6:9].set(False)
    _, apart = contralateral.compare(z, brain_left)
    _, empty = contralateral.compare(z, jnp.zeros_like(brain))
    assert not np.asarray(empty).any()
    # Columns 12 to 14 of row 10 lie opposite to what was cut off.
    assert not np.asarray(apart)[0, 10, 12:15].any()
    assert np.asarray(apart)[0, 11, 12:15].any()
