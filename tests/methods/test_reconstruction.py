"""ae, vae and dae: their losses and corruptions against direct computations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from madad_jax.anomaly_maps import difference as difference_lib
from madad_jax.core import errors
from madad_jax.methods import ae, dae, vae
from madad_jax.models import image_networks
from madad_jax.synthesis import shapes
from tests.methods import stand_ins
from tests.methods.test_madad import ask

SIDE = 16
NETWORK = {"levels": 1, "channels": 8, "max_channels": 8, "latent": 3, "num_groups": 4}


def batch(count=4, side=SIDE, seed=0):
    draw = np.random.default_rng(seed)
    brain = np.zeros((count, side, side), bool)
    brain[:, 2:-2, 3:-3] = True
    return {
        "image": jnp.asarray(draw.uniform(-1, 1, (count, side, side, 1)), jnp.float32),
        "brain_mask": jnp.asarray(brain),
        "step": jnp.int32(0),
    }


def test_ae_loss_and_map_are_the_absolute_difference():
    network = image_networks.reconstructor(**NETWORK, dropout=0.0)
    method, b = ae.Ae(network, difference_lib.Residual(gamma=0.5)), batch()
    params = method.init(jax.random.key(0), b)
    x_hat = np.asarray(jax.jit(network.apply)(params, b["image"])[0])
    difference = np.abs(x_hat - np.asarray(b["image"]))
    loss, _ = jax.jit(method.loss)(params, {}, b, jax.random.key(1))
    np.testing.assert_allclose(loss, difference.mean(), rtol=1e-5)
    out = jax.jit(method.anomaly_map)(params, {}, b, jax.random.key(1))
    expected = np.minimum(difference[..., 0], 0.5) / 0.5
    np.testing.assert_allclose(out["map"], expected, atol=1e-6)
    np.testing.assert_allclose(out["reconstruction"], x_hat, atol=1e-6)


def test_kl_is_that_of_two_normal_distributions():
    """Against the integral of p log(p/q) by quadrature, one latent number at a time."""
    mean, log_sigma = np.array([[0.7, -1.2]]), np.array([[-0.4, 0.3]])
    z = np.linspace(-15, 15, 20001)
    total = 0.0
    for m, s in zip(mean[0], np.exp(log_sigma[0]), strict=True):
        p = stats.norm(m, s)
        total += np.trapezoid(p.pdf(z) * (p.logpdf(z) - stats.norm.logpdf(z)), z)
    found = vae.kl_divergence(jnp.asarray(mean, jnp.float32), jnp.asarray(log_sigma, jnp.float32))
    np.testing.assert_allclose(found, [total], rtol=1e-5)


def test_vae_loss_is_the_bound_a_pixel():
    network = image_networks.reconstructor(**NETWORK, dropout=0.0, variational=True)
    b = batch()
    method = vae.Vae(network, kl_weight=2.0)
    params = method.init(jax.random.key(0), b)
    x_hat, mean, log_sigma = (np.asarray(v) for v in jax.jit(network.apply)(params, b["image"]))
    quiet = functools.partial(method.loss, train=False)
    loss, metrics = jax.jit(quiet)(params, {}, b, jax.random.key(1))
    error = np.abs(x_hat - np.asarray(b["image"])).sum((1, 2, 3)).mean()
    kl = 0.5 * (mean**2 + np.exp(log_sigma) ** 2 - np.log(np.exp(log_sigma) ** 2) - 1).sum(1)
    np.testing.assert_allclose(loss, (error + 2.0 * kl.mean()) / SIDE**2, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl.mean(), rtol=1e-5)


def bilinear(cells, side):
    """Half-pixel centred, edges held: written out."""
    n = len(cells)
    at = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 2)
    f = at - low
    rows = cells[low] * (1 - f)[:, None] + cells[low + 1] * f[:, None]
    return rows[:, low] * (1 - f) + rows[:, low + 1] * f


def test_coarse_noise_is_upsampled_cells_rolled():
    key, shape = jax.random.key(3), (3, 16, 16, 1)
    found = np.asarray(jax.jit(dae.coarse_noise, static_argnums=(1, 2))(key, shape, 4))[..., 0]
    cells = np.asarray(jax.random.normal(jax.random.split(key)[0], (3, 4, 4, 1)))[..., 0]
    rolls = set()
    for i in range(3):
        fine = bilinear(cells[i], 16)
        match = [
            (r, c)
            for r in range(16)
            for c in range(16)
            if np.allclose(np.roll(fine, (r, c), (0, 1)), found[i], atol=1e-5)
        ]
        assert len(match) == 1
        rolls.add(match[0])
    assert len(rolls) == 3


def test_dae_sees_noise_in_the_brain_alone_and_is_asked_for_the_image_there():
    network, calls = stand_ins.denoiser(gain=1.0)
    method, b = dae.Dae(network, resolution=4, sigma=0.2), batch(count=64)
    params = {"x0": jnp.float32(0.0), "logit": jnp.float32(0.0)}
    loss, _, call = ask(method, calls, params, b, {})(jax.random.key(0))
    noise = np.asarray(call["x"] - b["image"])[..., 0]
    brain = np.asarray(b["brain_mask"])
    assert not noise[~brain].any() and not np.asarray(call["t"]).any()
    # The stand-in answers its input: what is left is the noise, over brain pixels.
    np.testing.assert_allclose(loss, np.square(noise[brain]).mean(), rtol=1e-4)
    # 0.2 for intensities in [0, 1] is 0.4 here; bilinear mixing of cells lowers the variance.
    assert 0.4 * 0.5 < noise[brain].std() < 0.4
    coarse = noise[:, 2:-2, 3:-3]
    assert np.abs(np.diff(coarse, axis=1)).mean() < 0.5 * np.abs(coarse).mean(), "not coarse"


def test_dae_scores_the_clean_image_and_keeps_the_background():
    network, calls = stand_ins.denoiser(gain=1.0)
    method, b = dae.Dae(network, difference_lib.Residual(gamma=1.0)), batch()
    params = {"x0": jnp.float32(0.25), "logit": jnp.float32(0.0)}
    out = method.anomaly_map(params, {}, b, jax.random.key(0))
    np.testing.assert_array_equal(calls[0]["x"], b["image"])
    np.testing.assert_allclose(out["map"], 0.25 * np.asarray(b["brain_mask"]), atol=1e-6)


def test_dae_can_learn_from_synthetic_anomalies_in_place_of_noise():
    options = shapes.Options(share=1.0, min_radius=0.1, max_radius=0.12, kind="dag")
    method, b = dae.Dae(stand_ins.denoiser()[0], synthesis=options), batch(count=16)
    made = jax.jit(method.corrupt)(b, jax.random.key(0))
    changed = np.abs(made - b["image"])[..., 0] > 1e-6
    inside = changed[np.asarray(b["brain_mask"])]
    # Noise would change every pixel of the brain, a shape leaves most of them.
    assert 0.01 < inside.mean() < 0.6 and changed.any((1, 2)).mean() > 0.8


def test_bad_noise_is_named():
    with pytest.raises(errors.UserError, match=r"resolution, sigma: found 0, 0\.2"):
        dae.Dae(stand_ins.denoiser()[0], resolution=0)
