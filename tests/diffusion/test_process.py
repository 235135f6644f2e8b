import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.diffusion import process, schedule
from tests.diffusion import fixtures

FULL = schedule.make_schedule("cosine", 10)


def golden():
    file = fixtures.load("b_diffusion")
    return {k: fixtures.nhwc(v) if v.ndim == 4 else v for k, v in file.items()}


def normal(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def test_q_sample_is_the_official_one():
    g = golden()
    assert set(g["q/t"].tolist()) == set(range(10))
    x_t = process.q_sample(
        FULL,
        *(jnp.asarray(g[f"q/{k}"]) for k in ("x_start", "t", "noise")),
        jnp.asarray(g["q/mask"][..., 0]),
    )
    np.testing.assert_allclose(x_t, g["q/x_t"], rtol=0, atol=2e-6)


def test_visible_cells_are_untouched_to_the_bit():
    x0, noise = jnp.asarray(normal(0, 3, 4, 4, 2)), jnp.asarray(normal(1, 3, 4, 4, 2))
    visible = (normal(2, 3, 4, 4) > 0).astype(np.float32)
    x_t = process.q_sample(FULL, x0, jnp.array([0, 5, 9]), noise, jnp.asarray(visible))
    np.testing.assert_array_equal(x_t[visible == 1], x0[visible == 1])
    assert (np.asarray(x_t)[visible == 0] != np.asarray(x0)[visible == 0]).all()


def test_noised_cells_keep_the_variance():
    """abar + (1 - abar) = 1 at every t, and at t = 9 almost nothing of the signal is left."""
    x0, noise = normal(0, 10, 32, 32, 4), normal(1, 10, 32, 32, 4)
    t = jnp.arange(10)
    x_t = process.q_sample(FULL, jnp.asarray(x0), t, jnp.asarray(noise), jnp.zeros((10, 32, 32)))
    np.testing.assert_allclose(np.asarray(x_t).std((1, 2, 3)), 1, atol=0.05)
    correlation = [np.corrcoef(x0[i].ravel(), np.ravel(x_t[i]))[0, 1] for i in range(10)]
    np.testing.assert_allclose(correlation, np.sqrt(FULL.alphas_cumprod), atol=0.07)


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_ddim_step_at_every_t_is_the_official_one(eta):
    g = golden()
    flagged = (g["loss/mask_output"][..., 0] < 0.5).astype(np.float32)
    assert 0 < flagged.mean() < 1
    for i, t in enumerate(g["ddimstep/t"]):
        one = slice(i, i + 1)
        ours = process.ddim_step(
            jnp.asarray(g["ddimstep/x"][one]),
            jnp.asarray(g["loss/model_output"][one]),
            jnp.asarray(flagged[one]),
            jnp.asarray(g["ddimstep/noise"][one]),
            abar=jnp.float32(FULL.alphas_cumprod[t]),
            abar_prev=jnp.float32(FULL.alphas_cumprod_prev[t]),
            eta=eta,
        )
        np.testing.assert_allclose(
            ours, g[f"ddimstep/sample_eta{eta}"][one], rtol=1e-5, atol=1e-5, err_msg=f"t={t}"
        )


def step(flagged, t, eta, x=None, x0_hat=None, noise=None):
    x = normal(0, 1, 4, 4, 2) if x is None else x
    x0_hat = normal(1, 1, 4, 4, 2) if x0_hat is None else x0_hat
    noise = normal(2, 1, 4, 4, 2) if noise is None else noise
    return process.ddim_step(
        jnp.asarray(x),
        jnp.asarray(x0_hat),
        jnp.full((1, 4, 4), flagged, jnp.float32),
        jnp.asarray(noise),
        abar=jnp.float32(FULL.alphas_cumprod[t]),
        abar_prev=jnp.float32(FULL.alphas_cumprod_prev[t]),
        eta=eta,
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("t", range(10))
def test_cells_that_are_not_flagged_stay_and_the_last_step_gives_x0(t, eta):
    np.testing.assert_array_equal(step(0.0, t, eta), normal(0, 1, 4, 4, 2))
    if t == 0:
        np.testing.assert_allclose(step(1.0, 0, eta), normal(1, 1, 4, 4, 2), atol=1e-6)


@pytest.mark.parametrize("t", range(1, 10))
def test_eta_one_is_ancestral(t):
    """Mean and variance of the DDPM posterior q(x_{t-1} | x_t, x0)."""
    abar, before = FULL.alphas_cumprod[t], FULL.alphas_cumprod_prev[t]
    beta = FULL.betas[t]
    x, x0_hat = normal(0, 1, 4, 4, 2), normal(1, 1, 4, 4, 2)
    mean = np.sqrt(before) * beta / (1 - abar) * x0_hat
    mean = mean + np.sqrt(1 - beta) * (1 - before) / (1 - abar) * x
    quiet = step(1.0, t, 1.0, noise=np.zeros((1, 4, 4, 2), np.float32))
    np.testing.assert_allclose(quiet, mean, atol=2e-5)
    spread = step(1.0, t, 1.0) - quiet
    variance = beta * (1 - before) / (1 - abar)
    np.testing.assert_allclose(spread, np.sqrt(variance) * normal(2, 1, 4, 4, 2), atol=2e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_true_prediction_is_carried_along_the_marginals(eta):
    """With the right x0, x_t ~ (abar_t) goes to x_{t-1} ~ (abar_{t-1}): variance is conserved."""
    t, shape = 6, (1, 64, 64, 4)
    x0 = np.full(shape, 0.5, np.float32)
    abar, before = FULL.alphas_cumprod[t], FULL.alphas_cumprod_prev[t]
    x = (np.sqrt(abar) * x0 + np.sqrt(1 - abar) * normal(3, *shape)).astype(np.float32)
    y = process.ddim_step(
        jnp.asarray(x),
        jnp.asarray(x0),
        jnp.ones(shape[:3]),
        jnp.asarray(normal(4, *shape)),
        abar=jnp.float32(abar),
        abar_prev=jnp.float32(before),
        eta=eta,
    )
    assert abs(float(y.mean()) - np.sqrt(before) * 0.5) < 0.02
    assert abs(float(y.std()) - np.sqrt(1 - before)) < 0.02


def test_a_fraction_mixes_old_and_new():
    half, old, new = step(0.25, 5, 0.5), step(0.0, 5, 0.5), step(1.0, 5, 0.5)
    np.testing.assert_allclose(half, 0.75 * old + 0.25 * new, atol=1e-6)
