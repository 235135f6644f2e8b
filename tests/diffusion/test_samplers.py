"""The loop with small stand-ins for the network.

Agreement of whole loops with the official code is in tests/models/test_parity.py (weights drawn
by a rule) and benchmarks/parity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import samplers, schedule

FULL = schedule.make_schedule("cosine", 10)
SHAPE = (2, 4, 4, 3)


def normal(seed, *shape):
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape), jnp.float32)


def constant(x0_hat, logit):
    """A network that always answers the same."""

    def denoise(x, t):
        del t
        return jnp.broadcast_to(x0_hat, x.shape), jnp.broadcast_to(logit, (*x.shape[:3], 1))

    return denoise


def run(denoise, latent, steps=10, **kwargs):
    spaced = schedule.respace(FULL, steps)
    kwargs = {"eta": 0.0, "noise": normal(9, steps, *latent.shape)} | kwargs
    noise = kwargs.pop("noise")
    return samplers.selective_ddim(denoise, latent, spaced, noise, **kwargs)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("steps", [10, 5, 3])
def test_flagged_cells_become_the_prediction_and_others_stay(steps, eta):
    latent, target = normal(0, *SHAPE), normal(1, *SHAPE)
    flagged = np.asarray(normal(2, 2, 4, 4, 1)) > 0
    out = run(constant(target, jnp.where(flagged, -1.0, 1.0)), latent, steps, eta=eta)
    np.testing.assert_allclose(out["latent"], jnp.where(flagged, target, latent), atol=1e-6)
    stay = ~np.broadcast_to(flagged, SHAPE)
    np.testing.assert_array_equal(out["latent"][stay], latent[stay])
    np.testing.assert_allclose(out["rewritten"], flagged[..., 0])
    p_abnormal = 1 / (1 + np.exp(np.where(flagged[..., 0], -1.0, 1.0)))
    np.testing.assert_allclose(out["abnormal"], p_abnormal, rtol=1e-6)


def test_the_loop_is_the_formula():
    """Against a loop in float64 written from the equations of the paper."""

    def weights(x, t, np=np):
        x0_hat = 0.6 * x + 0.1 * t.reshape(-1, 1, 1, 1) - 0.2
        logit = 2.0 * x[..., :1] + 0.3 - 0.05 * t.reshape(-1, 1, 1, 1)
        return x0_hat, logit

    latent, noise, eta = normal(3, *SHAPE), normal(4, 5, *SHAPE), 0.5
    out = run(lambda x, t: weights(x, t), latent, 5, eta=eta, noise=noise)
    x, rewritten = np.asarray(latent, np.float64), []
    kept = [0, 2, 4, 6, 8]
    for i, k in enumerate(reversed(range(5))):
        abar = FULL.alphas_cumprod[kept[k]]
        before = FULL.alphas_cumprod[kept[k - 1]] if k else 1.0
        x0_hat, logit = weights(x, np.full(2, kept[k]))
        assert np.abs(logit).min() > 1e-4  # no cell so near the threshold that rounding decides
        eps = (x - np.sqrt(abar) * x0_hat) / np.sqrt(1 - abar)
        sigma = eta * np.sqrt((1 - before) / (1 - abar) * (1 - abar / before))
        y = np.sqrt(before) * x0_hat + np.sqrt(1 - before - sigma**2) * eps
        y = y + sigma * np.asarray(noise[i], np.float64)
        x = np.where(logit < 0, y, x)
        rewritten.append(logit[..., 0] < 0)
    assert 0.1 < np.mean(rewritten) < 0.9
    np.testing.assert_allclose(out["latent"], x, atol=2e-5)
    np.testing.assert_allclose(out["rewritten"], np.mean(rewritten, 0), atol=1e-6)


def test_the_network_is_given_original_timesteps_from_the_noisiest():
    seen = []

    def denoise(x, t):
        jax.debug.callback(lambda t: seen.append(t.tolist()), t, ordered=True)
        return x, jnp.zeros((*x.shape[:3], 1))

    run(denoise, normal(0, *SHAPE), 4)["latent"].block_until_ready()
    jax.effects_barrier()
    assert seen == [[9, 9], [6, 6], [3, 3], [0, 0]]


def test_eta_zero_ignores_the_noise_and_eta_uses_it():
    latent, target = normal(0, *SHAPE), normal(1, *SHAPE)

    def denoise(x, t):  # depends on x, so that noise of early steps reaches the end
        return 0.5 * x + target, jnp.full((*x.shape[:3], 1), -1.0)

    def final(eta, seed):
        return run(denoise, latent, eta=eta, noise=normal(seed, 10, *SHAPE))["latent"]

    np.testing.assert_array_equal(final(0.0, 1), final(0.0, 2))
    assert float(jnp.abs(final(0.5, 1) - final(0.5, 2)).max()) > 1e-2


@pytest.mark.parametrize(("threshold", "moved"), [(0.2, False), (0.3, True)])
def test_threshold_is_on_the_probability_of_being_visible(threshold, moved):
    logit = jnp.log(0.25 / 0.75)
    out = run(constant(jnp.float32(0), logit), normal(0, *SHAPE), threshold=threshold)
    assert bool(out["rewritten"].all()) == moved == bool(out["rewritten"].any())


def test_rewriting_by_probability_mixes():
    latent, target = normal(0, *SHAPE), normal(1, *SHAPE)
    denoise = constant(target, jnp.log(0.75 / 0.25))
    out = run(denoise, latent, 1, rewrite="probability")
    np.testing.assert_allclose(out["latent"], 0.75 * latent + 0.25 * target, atol=1e-4)
    np.testing.assert_allclose(out["rewritten"], 0.25, rtol=1e-5)


@pytest.mark.parametrize("rewrite", samplers.REWRITES)
def test_cells_outside_are_never_rewritten(rewrite):
    latent = normal(0, *SHAPE)
    outside = jnp.zeros((2, 4, 4)).at[:, :2].set(1.0)
    denoise = constant(jnp.float32(5), jnp.float32(-9))
    out = run(denoise, latent, outside=outside, rewrite=rewrite)
    np.testing.assert_array_equal(out["latent"][:, :2], latent[:, :2])
    assert (np.asarray(out["latent"][:, 2:]) > 4).all()
    assert (np.asarray(out["rewritten"][:, :2]) == 0).all()


@pytest.mark.parametrize("rewrite", samplers.REWRITES)
def test_a_cell_known_to_be_noised_is_rewritten_whatever_the_network_says(rewrite):
    latent, known = normal(0, *SHAPE), jnp.zeros((2, 4, 4)).at[:, 1, 2].set(1.0)
    # The network is sure that all is visible.
    denoise = constant(jnp.float32(5), jnp.float32(30))
    out = run(denoise, latent, at_least=known, rewrite=rewrite)
    np.testing.assert_allclose(out["rewritten"], known, atol=1e-6)
    # What the network itself says stays apart.
    np.testing.assert_allclose(out["abnormal"], 0, atol=1e-6)
    np.testing.assert_allclose(out["latent"][:, 1, 2], 5, rtol=1e-5)
    np.testing.assert_allclose(out["latent"][:, 0], latent[:, 0], atol=1e-6)


def test_what_is_known_takes_nothing_from_the_network():
    latent, denoise = normal(0, *SHAPE), constant(jnp.float32(5), jnp.float32(-1.0))
    out = run(denoise, latent, at_least=jnp.full((2, 4, 4), 0.1))
    plain = run(denoise, latent)
    assert all((out[name] == plain[name]).all() for name in plain)


def test_unknown_rewrite_names_the_key():
    with pytest.raises(errors.UserError, match=r"sampler.rewrite: found 'soft', accepted: thres"):
        run(constant(jnp.float32(0), jnp.float32(0)), normal(0, *SHAPE), rewrite="soft")


def test_inpainting_draws_in_the_region_and_keeps_the_rest_to_the_bit():
    latent = normal(0, 2, 6, 6, 3)
    region = jnp.zeros((2, 6, 6)).at[:, 1:3, 2:5].set(1.0)
    noise = normal(1, 11, 2, 6, 6, 3)
    seen = []

    def denoise(x, t):
        jax.debug.callback(lambda x, t: seen.append((np.array(x), int(t[0]))), x, t)
        return jnp.where(region[..., None] > 0, 0.7, jnp.inf) + 0.0 * x

    # Content outside that no number is must not come through either.
    drawn = np.asarray(samplers.inpaint(denoise, latent, region, FULL, noise))
    inside = np.asarray(region) > 0
    np.testing.assert_array_equal(drawn[~inside], np.asarray(latent)[~inside])
    np.testing.assert_allclose(drawn[inside], 0.7, atol=1e-5)
    assert [t for _, t in seen] == list(range(9, -1, -1))
    # It begins with noise in the region: little of the latent is left there.
    first, abar = seen[0][0], FULL.alphas_cumprod[-1]
    start = np.sqrt(abar) * latent + np.sqrt(1 - abar) * noise[0]
    np.testing.assert_allclose(first[inside], np.asarray(start)[inside], atol=1e-6)
