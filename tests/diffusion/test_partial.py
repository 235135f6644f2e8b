"""Noising and denoising of whole images against formulas and a loop over single images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import noise, partial, schedule

SCHEDULE = schedule.make_schedule("linear", 20)
ABAR = SCHEDULE.alphas_cumprod


def process(predicts="eps"):
    return partial.Process(SCHEDULE, noise.Noise("gaussian"), predicts)


def images(count=3, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(draw.uniform(-0.6, 0.6, (count, 4, 4, 1)), jnp.float32)


@pytest.mark.parametrize("predicts", ["eps", "x0"])
def test_a_network_that_knows_the_truth_loses_nothing_and_gives_the_image_back(predicts):
    x, p = images(), process(predicts)

    def network(x_t, t):
        abar = jnp.asarray(ABAR, jnp.float32)[t][:, None, None, None]
        return x if predicts == "x0" else (x_t - jnp.sqrt(abar) * x) / jnp.sqrt(1 - abar)

    def loss(key):
        x_t, t, target = p.draw_example(x, key)
        return jnp.square(network(x_t, t) - target).mean()

    np.testing.assert_allclose(jax.jit(loss)(jax.random.key(0)), 0, atol=1e-10)
    for steps, eta in ((0, 1.0), (4, 0.0)):
        way = partial.Reverse(start=15, steps=steps, eta=eta)
        found = jax.jit(lambda key, way=way: p.reconstruct(network, x, key, way))(jax.random.key(1))
        np.testing.assert_allclose(found, x, atol=1e-4)


def test_step_is_ddpms_posterior_at_eta_1():
    """Ho et al. eqs. 6 and 7: mean and variance of q(x_{t-1} | x_t, x_0)."""
    p, x0, t = process(), images(seed=1), 7
    x_t, drawn = images(seed=2), images(seed=3)
    eps = (x_t - np.sqrt(ABAR[t]) * x0) / np.sqrt(1 - ABAR[t])
    found = p.step(x0, eps, drawn, t=jnp.int32(t), before=jnp.int32(t - 1), eta=1.0)
    beta, before = SCHEDULE.betas[t], ABAR[t - 1]
    mean = np.sqrt(before) * beta / (1 - ABAR[t]) * x0
    mean += np.sqrt(1 - beta) * (1 - before) / (1 - ABAR[t]) * x_t
    sigma = np.sqrt((1 - before) / (1 - ABAR[t]) * beta)
    np.testing.assert_allclose(found, mean + sigma * drawn, rtol=1e-4, atol=1e-5)


def test_noisier_goes_from_level_to_level_as_the_schedule_does():
    p, x, n = process(), images(), images(seed=4)
    one = p.add_more_noise(x, n, before=jnp.int32(-1), t=jnp.int32(5))
    np.testing.assert_allclose(one, p.add_noise(x, jnp.full(3, 5), n), atol=1e-6)
    two = p.add_more_noise(x, n, before=jnp.int32(4), t=jnp.int32(5))
    beta = SCHEDULE.betas[5]
    np.testing.assert_allclose(two, np.sqrt(1 - beta) * x + np.sqrt(beta) * n, atol=1e-6)


def test_times_run_down_to_0_and_refuse_what_there_is_not():
    p = process()
    assert p.times(4, 0).tolist() == [4, 3, 2, 1, 0]
    assert p.times(10, 3).tolist() == [10, 5, 0] and p.times(10, 1).tolist() == [10]
    with pytest.raises(errors.UserError, match=r"inference.start: found 20, accepted: 0 to 19"):
        p.times(20, 0)
    with pytest.raises(errors.UserError, match=r"inference.steps: found 6, accepted: 0 to 5"):
        p.times(4, 6)
    with pytest.raises(errors.UserError, match=r"predicts: found 'v'"):
        process("v")
    with pytest.raises(errors.UserError, match=r"diffusion.noise: found 'pink', .*simplex"):
        noise.Noise("pink")


def towards(x_t, t):
    """A network whose clean estimate goes further from the input the cleaner the level."""
    return 0.2 * x_t + (0.6 - 0.03 * t.astype(jnp.float32))[:, None, None, None] * jnp.sign(x_t)


@pytest.mark.parametrize("first", [0, 4])
def test_images_stop_for_themselves_as_a_loop_over_them_says(first):
    """Each image alone, in plain Python, with the noise that it had in the batch."""
    p, key = process("x0"), jax.random.key(5)
    x = images(4) * jnp.asarray([0.1, 0.6, 1.0, 1.4])[:, None, None, None]
    options = partial.Adaptive(limit=0.42, first=first, side=2, patches=2)
    times = p.times(12, 7)
    x_t = p.add_noise(x, jnp.full(4, 12), images(4, seed=9))
    found, taken = jax.jit(
        lambda key: p.denoise_adaptively(towards, x_t, x, key, times, eta=0.7, adaptive=options)
    )(key)
    counts = []
    for i in range(4):
        running = np.asarray(x_t[i : i + 1])
        for number, t in enumerate(times):
            level = jnp.full(1, int(t))
            x0 = np.clip(np.asarray(towards(jnp.asarray(running), level)), -1, 1)
            difference = np.abs(x0 - x[i])[0, ..., 0].reshape(2, 2, 2, 2).mean((1, 3))
            if np.sort(difference.ravel())[-2:].mean() > 0.42 or t < first:
                share = 1 / (1 + np.exp(-np.abs(x0 - x[i])))
                running = share * x0 + (1 - share) * np.asarray(x[i])
                break
            before = ABAR[times[number + 1]] if number + 1 < len(times) else 1.0
            sigma = 0.7 * np.sqrt((1 - before) / (1 - ABAR[t]) * (1 - ABAR[t] / before))
            eps = (running - np.sqrt(ABAR[t]) * x0) / np.sqrt(1 - ABAR[t])
            drawn = jax.random.normal(jax.random.fold_in(key, number), x.shape)[i]
            running = np.sqrt(before) * x0 + np.sqrt(1 - before - sigma**2) * eps + sigma * drawn
        counts.append(number + 1)
        np.testing.assert_allclose(found[i], running[0], atol=2e-4)
    assert taken.tolist() == counts
    assert len(set(counts)) > 1, "all stop together: nothing was tested"


def test_without_a_limit_to_reach_adaptive_is_plain():
    p, x, key = process("x0"), images(), jax.random.key(2)
    way = partial.Reverse(start=10, steps=4)
    never = partial.Reverse(start=10, steps=4, adaptive=partial.Adaptive(limit=9.0))
    plain, adaptive = (
        jax.jit(lambda key, w=w: p.reconstruct(towards, x, key, w))(key) for w in (way, never)
    )
    np.testing.assert_allclose(plain, adaptive, atol=1e-6)
