"""The mask at image resolution: its loss in closed form, its symmetry, and the U-Net alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.anomaly_maps import contralateral, difference
from madad_jax.core import errors
from madad_jax.methods import drawn_unet, pixel_mask
from madad_jax.metrics import baseline_maps
from madad_jax.models import image_networks
from madad_jax.synthesis import drawn, learned

SIDE = 16
NETWORK = image_networks.mask_network(widths=(8,), num_groups=4)
MASK = pixel_mask.PixelMask(NETWORK, drawn.Options(min_radius=0.1, healthy=0.0))
SMOOTH = 20.0  # pixels beside both sides of the Dice ratio


def batch(count=4):
    draw = np.random.default_rng(0)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, 2:-2, 3:-4] = True
    image = np.where(brain, draw.uniform(-1, 1, brain.shape), -1.0)[..., None]
    return {"image": jnp.asarray(image, jnp.float32), "brain_mask": jnp.asarray(brain)}


def halves():
    """(truth [2,H,W]: the upper rows of the brain, brain masks)."""
    brain = np.asarray(batch(2)["brain_mask"])
    truth = brain.copy()
    truth[:, SIDE // 2 :] = False
    return jnp.asarray(truth), jnp.asarray(brain)


def test_an_answer_that_is_all_right_costs_nothing():
    truth, brain = halves()
    logit = jnp.where(truth, 40.0, -40.0)
    # What is said outside the brain does not count.
    loss, metrics = MASK.loss(jnp.where(brain, logit, 40.0), truth, brain)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    assert metrics["pixel_dice"] == metrics["pixel_sensitivity"] == 1
    assert metrics["pixel_specificity"] == 1 and abs(metrics["pixel_entropy"]) < 1e-6


def test_an_answer_that_is_all_wrong_costs_its_logit():
    truth, brain = halves()
    logit = jnp.where(truth, -40.0, 40.0)
    mask = dataclasses.replace(MASK, dice_weight=0.25)
    loss, metrics = mask.loss(logit, truth, brain)
    pixels = float(brain[0].sum())  # half of them flagged, the other half true
    dice = SMOOTH / (pixels + SMOOTH)
    np.testing.assert_allclose(metrics["pixel_entropy"], 40.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["pixel_dice"], dice, rtol=1e-5)
    np.testing.assert_allclose(loss, 40.0 + 0.25 * (1 - dice), rtol=1e-6)
    assert metrics["pixel_sensitivity"] == metrics["pixel_specificity"] == 0


def test_an_answer_of_a_half_everywhere():
    truth, brain = halves()
    loss, metrics = MASK.loss(jnp.zeros(truth.shape), truth, brain)
    pixels, true = float(brain[0].sum()), float(truth[0].sum())
    dice = (true + SMOOTH) / (0.5 * pixels + true + SMOOTH)
    np.testing.assert_allclose(metrics["pixel_entropy"], np.log(2), rtol=1e-5)
    np.testing.assert_allclose(loss, np.log(2) + 0.5 * (1 - dice), rtol=1e-5)


def test_a_batch_without_brain_has_no_entropy_and_no_nan():
    truth, brain = halves()
    logit = jnp.where(truth, 40.0, -40.0)
    loss, metrics = MASK.loss(logit, truth, jnp.zeros_like(brain))
    assert loss == 0 and all(np.isfinite(v) for v in metrics.values())


def test_z_scores_are_those_of_the_baselines():
    b = batch()
    brain = b["brain_mask"].at[0].set(False)
    image = b["image"].at[1].set(0.3)
    found = np.asarray(pixel_mask.z_scores(image, brain))
    expected = baseline_maps.z_score(np.asarray(image[..., 0]), np.asarray(brain))
    np.testing.assert_allclose(found[2:], expected[2:], atol=1e-4)
    assert not found[0].any() and np.abs(found[1]).max() < 0.1  # no brain; nothing but rounding


def test_a_mirrored_slice_has_the_mirrored_probability():
    b, params = batch(2), jax.jit(MASK.init)(jax.random.key(0), batch(2))
    images, brain = b["image"], b["brain_mask"]

    @jax.jit
    def run(images, brain):
        logit = MASK.logit(params, {}, images, brain)
        return logit, MASK.probability(params, {}, images, brain)

    logit, straight = run(images, brain)
    logit_turned, turned = run(images[:, :, ::-1], brain[:, :, ::-1])
    np.testing.assert_allclose(straight, turned[:, :, ::-1], atol=1e-6)
    assert not straight[~brain].any() and straight[brain].min() > 0
    # The network alone is not symmetric: its mean over both is.
    assert np.abs(logit - logit_turned[:, :, ::-1])[brain].max() > 1e-3


def test_an_atlas_brings_two_channels_and_is_read():
    mask = dataclasses.replace(MASK, atlas=True)
    b = {"image": jnp.zeros((1, 32, 32, 1)), "brain_mask": jnp.ones((1, 32, 32), bool)}
    params = jax.eval_shape(lambda k: mask.init(k, b), jax.random.key(0))
    kernel = params["stem"]["kernel"].shape
    plain = jax.eval_shape(lambda k: MASK.init(k, b), jax.random.key(0))["stem"]["kernel"].shape
    assert kernel[2] == plain[2] + 2 * 4  # squares of 2 x 2 pixels in channels
    with pytest.raises(KeyError, match="atlas"):
        mask.logit(params, {}, b["image"], b["brain_mask"])


def test_the_other_half_brings_two_channels_that_are_read():
    mask = dataclasses.replace(MASK, contralateral=True)
    b = batch(1)
    params = jax.jit(mask.init)(jax.random.key(0), b)
    plain = jax.eval_shape(MASK.init, jax.random.key(0), b)
    assert params["stem"]["kernel"].shape[2] == plain["stem"]["kernel"].shape[2] + 2 * 4
    image, brain = b["image"], b["brain_mask"]
    z = jnp.clip(pixel_mask.z_scores(image, brain), -4.0, 5.0)
    channels = [z, brain.astype(jnp.float32), *contralateral.compare(z, brain)]
    expected = NETWORK.apply(params, jnp.stack(channels, -1))
    np.testing.assert_allclose(mask.logit(params, {}, image, brain), expected, atol=1e-5)


def test_cached_latents_are_refused():
    spec = {"latent_mean": jnp.zeros((1, 4, 4, 2)), "brain_mask": batch()["brain_mask"]}
    with pytest.raises(errors.UserError, match=r"data\.latents: found 'cached'.*latents=live"):
        MASK.init(jax.random.key(0), spec)
    with pytest.raises(errors.UserError, match=r"dice_weight: found -1"):
        pixel_mask.PixelMask(NETWORK, dice_weight=-1.0)


def test_the_unet_alone_learns_drawn_anomalies_and_maps_slices():
    b = batch(8)
    made = drawn_unet.DrawnUnet(MASK, difference.Residual(sigma=0.0, inside_brain=True))
    params = jax.jit(made.init)(jax.random.key(0), b)

    @jax.jit
    def step(params, key):
        (loss, metrics), gradient = jax.value_and_grad(made.loss, has_aux=True)(params, {}, b, key)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient), loss, metrics

    key = jax.random.key(1)  # the same anomalies at every step
    losses = []
    for _ in range(12):
        params, loss, metrics = step(params, key)
        losses.append(float(loss))
        assert all(np.isfinite(v) for v in metrics.values())
    assert losses[-1] < 0.8 * losses[0], losses
    assert set(metrics) == {
        *("loss", "pixel_entropy", "pixel_dice", "pixel_sensitivity", "pixel_specificity")
    }
    out = jax.jit(made.anomaly_map)(params, {}, b, key)
    np.testing.assert_array_equal(out["reconstruction"], b["image"])
    assert out["map"].shape == (8, SIDE, SIDE) and not out["map"][~b["brain_mask"]].any()
    assert 0 < out["map"].max() <= 1


def test_lesions_of_a_bank_take_the_place_of_drawn_ones():
    change = np.full((1, 3, 3), -0.5, np.float32)
    bank = {"change": change, "mask": (change < 0).astype("f4"), "level": np.zeros(1, np.float32)}
    mask, data = dataclasses.replace(MASK, drawn=drawn.Options(healthy=0.4)), batch(32)
    shares = (0.0, 0.5, 1.0)
    options = [learned.Options(share=share, max_lesions=1) for share in shares]

    # In one program: several would round what is the same in all differently, and compile longer.
    @jax.jit
    def draw(key, data):
        masks = [dataclasses.replace(mask, lesions=o) for o in options]
        return mask.draw(key, data), [m.draw(key, data, {"lesions": bank}) for m in masks]

    alone, drawn_with = draw(jax.random.key(7), data)
    for share, both in zip(shares, drawn_with, strict=True):
        np.testing.assert_array_equal(both.healthy, alone.healthy)
        same = np.asarray(both.images == alone.images).all((1, 2, 3))
        had = np.asarray(alone.truth).any((1, 2))
        # Slices that were to stay healthy do, and the others keep what they had where not chosen.
        assert same[~had].all()
        assert abs((~same[had]).mean() - share) < 0.25
        changed = np.asarray(both.truth & (both.images != both.healthy)[..., 0])
        assert changed[~same].any((1, 2)).mean() > 0.9 if share else True
        np.testing.assert_array_equal(both.truth[same], alone.truth[same])
