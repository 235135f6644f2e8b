"""Inpainting at several levels, on networks that can be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.diffusion import noise, partial, schedule
from madad_jax.methods import noise_agnostic
from tests.methods import stand_ins
from tests.methods.test_image_diffusion import SIDE, batch, run

SCHEDULE = schedule.make_schedule("linear", 20)
RESIDUAL = difference.Residual(inside_brain=True)


def method(network, kind="gaussian", **options):
    values = {"levels": (6, 9, 12), "steps": 3, "cell": 4} | options
    return noise_agnostic.NoiseAgnostic(
        stand_ins.network(network),
        partial.Process(SCHEDULE, noise.Noise(kind, frequency=8.0), "x0"),
        RESIDUAL,
        noise_agnostic.Inpainting(**values),
    )


def constant(params, x, t):
    return jnp.broadcast_to(params, x.shape)


@pytest.mark.parametrize(
    ("kind", "masks"),
    [("gaussian", "random"), ("simplex", "checkerboard"), ("pyramid", "random")],
)
def test_both_halves_are_painted_by_the_network(kind, masks):
    """It says 0.5: every pixel is painted 0.5 once, whatever the noise and the mask."""
    b = batch()
    out = run(
        method(constant, kind, masks=masks, standard="none", levels=(6, 9), steps=2),
        jnp.float32(0.5),
        b,
    )
    np.testing.assert_allclose(out["reconstruction"], 0.5, atol=1e-5)
    expected = np.abs(np.asarray(b["image"])[..., 0] - 0.5) / 2 * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], expected, atol=1e-5)


def test_what_is_known_reaches_the_network_at_each_level():
    """Before the last step cells outside the mask hold x at that level, not what was painted."""
    seen = []

    def watching(params, x, t):
        jax.debug.callback(lambda x, t: seen.append((np.asarray(x), int(t[0]))), x, t)
        return constant(params, x, t)

    b = batch()
    made = method(watching, levels=(12,), steps=3, cell=SIDE // 2)
    jax.block_until_ready(run(made, jnp.float32(-3.0), b))
    jax.effects_barrier()
    assert sorted(t for _, t in seen) == [0, 0, 6, 6, 12, 12]
    mask = np.asarray(
        noise_agnostic.cells(jax.random.key(0), (1, SIDE, SIDE), "checkerboard", SIDE // 2)
    )[0]
    last = [x[..., 0] for x, t in seen if t == 0]
    # At level 0 hardly any noise is left: the known cells are x, the painted ones -1 (clipped).
    x = np.asarray(b["image"])[..., 0]
    for painted in (mask > 0, mask == 0):
        errors_ = [np.abs(found - x)[:, ~painted].mean() for found in last]
        assert min(errors_) < 0.1
    painted = [np.abs(found + 1)[:, mask > 0].mean() for found in last]
    assert min(painted) < 0.2 and max(painted) > 0.4


def test_levels_are_standardised_before_they_are_averaged():
    """Against NumPy, level by level; one level's scale does not count."""

    def by_level(params, x, t):
        return params * (0.1 + 0.2 * t.astype(jnp.float32))[:, None, None, None]

    b = batch()
    field = jnp.asarray(np.random.default_rng(2).uniform(-0.1, 0.1, b["image"].shape), jnp.float32)
    made = method(by_level, levels=(6, 12), steps=1)
    out = np.asarray(run(made, field, b)["map"])
    x, brain = np.asarray(b["image"])[..., 0], np.asarray(b["brain_mask"])
    expected = np.zeros(x.shape)
    for i in range(len(x)):
        for level in (6, 12):
            painted = np.clip(np.asarray(field)[i, ..., 0] * (0.1 + 0.2 * level), -1, 1)
            error = np.abs(painted - x[i]) / 2
            middle = np.median(error[brain[i]])
            spread = 1.4826 * np.median(np.abs(error - middle)[brain[i]])
            expected[i] += (error - middle) / (spread + 0.01) / 2
    expected = (0.5 + 0.5 * expected / (2 + np.abs(expected))) * brain
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_a_slice_without_brain_is_0():
    b = batch()
    b["brain_mask"] = b["brain_mask"].at[0].set(False)
    out = np.asarray(run(method(constant), jnp.float32(0.5), b)["map"])
    assert not out[0].any() and np.isfinite(out).all() and out[1].any()


def test_cells_are_halves_that_differ_by_slice_where_they_are_random():
    board = np.asarray(noise_agnostic.cells(jax.random.key(0), (2, 6, 7), "checkerboard", 2))
    rows, columns = np.mgrid[:6, :7] // 2
    np.testing.assert_array_equal(board, np.tile((rows + columns) % 2, (2, 1, 1)))
    coins = np.asarray(noise_agnostic.cells(jax.random.key(0), (2, 64, 64), "random", 2))
    assert abs(coins.mean() - 0.5) < 0.05 and (coins[0] != coins[1]).mean() > 0.3
    cells = coins.reshape(2, 32, 2, 32, 2)
    assert (cells == cells[:, :, :1, :, :1]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"masks": "stripes"}, r"masks, standard: found 'stripes', 'slice'"),
        ({"cell": 0}, r"cell, draws, resamplings: found 0, 1, 1"),
        ({"steps": 8}, r"levels, steps: found \(6, 9, 12\), 8"),
        ({"levels": ()}, r"levels, steps: found \(\), 3"),
        ({"levels": (20,)}, r"levels: found \(20,\), accepted: 0 to 19"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(errors.UserError, match=said):
        method(constant, **options)
