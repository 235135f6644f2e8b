import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import losses
from tests.diffusion import fixtures


def test_losses_are_the_official_ones():
    g = {
        k: jnp.asarray(fixtures.nhwc(v) if v.ndim == 4 else v)
        for k, v in fixtures.load("b_diffusion").items()
        if k.startswith(("q/", "loss/"))
    }
    visible, p = g["q/mask"][..., 0], g["loss/mask_output"]
    mse = losses.latent_loss(g["q/x_start"], g["loss/model_output"], visible)
    mask = losses.mask_loss(visible, jnp.log(p) - jnp.log1p(-p), "mse")
    np.testing.assert_allclose(mse, g["loss/mse"], rtol=1e-5)
    np.testing.assert_allclose(mask, g["loss/mask_prediction"], rtol=1e-5)
    total = mse + 0.001 * mask
    np.testing.assert_allclose(total, g["loss/loss"], rtol=1e-5)
    np.testing.assert_allclose(total.mean(), g["loss/loss_batch_mean"], rtol=1e-5)


def test_bce_is_minus_the_log_likelihood_and_does_not_overflow():
    visible = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
    logit = jnp.array([[[0.5, 0.5], [-2.0, -2.0]]])
    p = 1 / (1 + np.exp(-np.asarray(logit)))
    expected = -np.where(np.asarray(visible) == 1, np.log(p), np.log(1 - p)).mean((1, 2))
    found = losses.mask_loss(visible, logit[..., None], "bce")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    wrong = jnp.where(visible == 1, -300.0, 300.0)[..., None]
    assert float(losses.mask_loss(visible, wrong, "bce")[0]) == pytest.approx(300)
    slope = jax.grad(lambda z: losses.mask_loss(visible, z, "bce").sum())(wrong)
    np.testing.assert_allclose(jnp.abs(slope), 0.25, rtol=1e-6)


def test_noised_region_counts_noised_cells_alone():
    x0 = jnp.zeros((3, 2, 2, 2))
    x0_hat = jnp.arange(24.0).reshape(3, 2, 2, 2)
    visible = jnp.array([[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], jnp.float32)
    error = np.square(np.arange(24.0)).reshape(3, 4, 2).mean(-1)
    expected = [error[0, 1:3].mean(), error[1].mean(), 0.0]
    np.testing.assert_allclose(
        losses.latent_loss(x0, x0_hat, visible, "noised"), expected, rtol=1e-6
    )
    np.testing.assert_allclose(losses.latent_loss(x0, x0_hat, visible), error.mean(1), rtol=1e-6)
    slope = jax.grad(lambda y: losses.latent_loss(x0, y, visible, "noised").sum())(x0_hat)
    assert (slope[np.asarray(visible) == 1] == 0).all()
    assert np.isfinite(slope).all()


def test_unknown_kinds_name_the_key():
    x, v = jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2))
    with pytest.raises(errors.UserError, match=r"loss.region: found 'some', accepted: all, noised"):
        losses.latent_loss(x, x, v, "some")
    with pytest.raises(errors.UserError, match=r"loss.mask: found 'l1', accepted: bce, mse"):
        losses.mask_loss(v, x, "l1")
