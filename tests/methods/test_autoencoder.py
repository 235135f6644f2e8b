import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.methods import autoencoder
from madad_jax.models import registry
from madad_jax.models.networks import lpips

SIDE = 16
NETWORK = registry.autoencoder(  # one level: the smallest that there is, quick to compile
    channels=8,
    channel_mult=(1,),
    num_res_blocks=1,
    decoder_num_res_blocks=0,
    num_groups=4,
    mid_attention=False,
)
DISCRIMINATOR = registry.discriminator(channels=4, num_layers=1)
LOSS = autoencoder.Loss(kl_weight=1e-2, disc_weight=0.5, disc_start=10)
METHOD = autoencoder.KLAutoencoder(NETWORK, DISCRIMINATOR, loss_options=LOSS)
PIXELS = SIDE * SIDE


def batch(step=10):
    image = np.random.RandomState(0).uniform(-1, 1, (3, SIDE, SIDE, 1))
    return {
        "image": jnp.asarray(image, jnp.float32),
        "brain_mask": jnp.ones((3, SIDE, SIDE), bool),
        "step": jnp.int32(step),
    }


first_params = jax.jit(lambda key: METHOD.init(key, batch()))


def parameters():
    """Fresh, but with a posterior of almost no width: the loss is then free of draws."""
    params = first_params(jax.random.key(0))
    quant = params["autoencoder"]["quant_conv"]
    channels = NETWORK.latent_channels
    quant["kernel"] = quant["kernel"].at[..., channels:].set(0.0)
    quant["bias"] = quant["bias"].at[channels:].set(-30.0)
    return params


def nll(params, x):
    mean, _ = NETWORK.encode(params["autoencoder"], x)
    return jnp.abs(x - NETWORK.decode(params["autoencoder"], mean)).sum() / len(x)


def kl(params, x):
    mean, logvar = NETWORK.encode(params["autoencoder"], x)
    return 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).sum() / len(x)


def generator(params, disc, x):
    """What the generator wants of the discriminator `disc`: to take its images for real."""
    mean, _ = NETWORK.encode(params["autoencoder"], x)
    return -DISCRIMINATOR.apply(disc, NETWORK.decode(params["autoencoder"], mean)).mean()


def hinge(disc, real, fake):
    real, fake = DISCRIMINATOR.apply(disc, real), DISCRIMINATOR.apply(disc, fake)
    return 0.5 * (jnp.maximum(1 - real, 0).mean() + jnp.maximum(1 + fake, 0).mean())


@functools.partial(jax.jit, static_argnums=0)
def gradient(method, params, b):
    return jax.grad(lambda p: method.loss(p, None, b, jax.random.key(1)), has_aux=True)(params)


@functools.partial(jax.jit, static_argnums=0)
def metrics_of(method, params, b, key):
    return method.loss(params, None, b, key)[1]


@jax.jit
def direct(params, x):
    """(weight, gradient of the autoencoder, loss and gradient of the discriminator).

    From whole gradients of the separate losses; of two only the output kernel's part is read.
    """
    disc = params["discriminator"]

    def size(g):
        for name in ("autoencoder", *NETWORK.output_kernel_path):
            g = g[name]
        return jnp.sqrt((g**2).sum())

    nll_gradient = jax.grad(nll)(params, x)
    generator_gradient = jax.grad(generator)(params, disc, x)
    weight = LOSS.disc_weight * size(nll_gradient) / (size(generator_gradient) + 1e-4)
    kl_gradient = jax.grad(kl)(params, x)
    total = jax.tree.map(
        lambda a, b, c: (a + LOSS.kl_weight * b + weight * c) / PIXELS,
        *(g["autoencoder"] for g in (nll_gradient, kl_gradient, generator_gradient)),
    )
    mean, _ = NETWORK.encode(params["autoencoder"], x)
    fake = NETWORK.decode(params["autoencoder"], mean)
    return weight, total, *jax.value_and_grad(hinge)(disc, x, fake)


def assert_trees_close(ours, theirs, rtol=2e-4):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(ours),
        jax.tree_util.tree_leaves_with_path(theirs),
        strict=True,
    ):
        scale = max(float(jnp.abs(b).max()), 1e-7)
        np.testing.assert_allclose(a / scale, b / scale, atol=rtol, err_msg=str(path))


def test_adaptive_weight_and_both_gradients_are_those_computed_directly():
    params, b = parameters(), batch()
    found, metrics = gradient(METHOD, params, b)
    weight, generator_side, hinge_loss, discriminator_side = direct(params, b["image"])
    assert 1e-3 < weight < 1e4
    np.testing.assert_allclose(metrics["disc_weight"], weight, rtol=1e-3)
    np.testing.assert_allclose(metrics["disc_loss"], hinge_loss, rtol=1e-4)
    assert_trees_close(found["autoencoder"], generator_side)
    assert_trees_close(found["discriminator"], discriminator_side)


def test_before_its_start_the_discriminator_neither_learns_nor_teaches():
    params, b = parameters(), batch(step=9)
    found, metrics = gradient(METHOD, params, b)
    assert all(not g.any() for g in jax.tree.leaves(found["discriminator"]))
    alone = dataclasses.replace(METHOD, discriminator=None)
    expected, _ = gradient(alone, {"autoencoder": params["autoencoder"]}, b)
    assert_trees_close(found["autoencoder"], expected["autoencoder"])
    assert metrics["disc_weight"] == 0
    assert any(g.any() for g in jax.tree.leaves(expected))


def test_what_the_best_checkpoint_is_chosen_by_does_not_jump_when_the_discriminator_starts():
    params, key = parameters(), jax.random.key(1)
    before, after = (metrics_of(METHOD, params, batch(step), key) for step in (9, 10))
    assert after["loss"] - before["loss"] > 0.1
    name = METHOD.selected_by
    expected = nll(params, batch()["image"]) / PIXELS
    np.testing.assert_allclose([before[name], after[name]], [expected, expected], rtol=1e-4)


@pytest.mark.parametrize("steps,acts", [(10, False), (11, True)])
def test_a_discriminator_acts_from_its_start_on(steps, acts):
    assert METHOD.acts_within(steps) is acts
    assert dataclasses.replace(METHOD, discriminator=None).acts_within(steps)


def test_the_perceptual_term_adds_to_every_pixel_as_published(monkeypatch):
    """LDM adds w LPIPS to each pixel's error before summing: its share of the mean is w d."""
    monkeypatch.setattr(
        lpips, "distance", lambda w, a, b: w * jnp.ones((a.shape[0], 1, 1, 1)) * a.mean()
    )
    method = dataclasses.replace(
        METHOD, discriminator=None, loss_options=dataclasses.replace(LOSS, perceptual_weight=0.3)
    )
    params, b = parameters(), batch()

    @jax.jit
    def loss(frozen):
        return method.loss(params, frozen, b, jax.random.key(0))[0]

    without, with_term = loss({}), loss({"lpips": jnp.float32(2.0)})
    np.testing.assert_allclose(with_term - without, 0.3 * 2.0 * b["image"].mean(), atol=1e-5)


def test_the_posterior_is_sampled_with_its_width():
    """Two keys give two reconstructions when the posterior is wide, one when it is not."""
    params = parameters()
    method = dataclasses.replace(METHOD, discriminator=None)

    def l1(key):
        return float(metrics_of(method, params, batch(), jax.random.key(key))["l1"])

    assert l1(0) == pytest.approx(l1(1), rel=1e-4)
    params["autoencoder"]["quant_conv"]["bias"] += 30.0  # logvar 0, and another mean
    assert l1(0) != pytest.approx(l1(1), rel=1e-4)


def test_training_sees_crops_and_validation_whole_slices():
    method = dataclasses.replace(METHOD, discriminator=None, crop=8)
    params = parameters()

    def kl_of(**options):
        b, key = batch(), jax.random.key(0)
        return float(jax.jit(lambda: method.loss(params, None, b, key, **options)[1]["kl"])())

    whole = float(jax.jit(kl)(params, batch()["image"]))
    assert kl_of(train=False) == pytest.approx(whole, rel=1e-4)
    assert kl_of() == pytest.approx(whole / 4, rel=0.2)  # a sum over cells


def test_as_a_detector_it_shows_its_reconstruction_error():
    method = dataclasses.replace(METHOD, sigma=1.0, gamma=0.4)
    params, b = parameters(), batch()
    out = jax.jit(method.anomaly_map)(params, None, b, jax.random.key(0))
    mean, _ = jax.jit(NETWORK.encode)(params["autoencoder"], b["image"])
    decoded = jax.jit(NETWORK.decode)(params["autoencoder"], mean)
    np.testing.assert_allclose(out["reconstruction"], decoded, atol=1e-4)
    error = jnp.minimum(jnp.abs(decoded - b["image"])[..., 0], 0.4) / 0.4
    np.testing.assert_allclose(out["map"], difference.gaussian_smooth(error, 1.0), atol=1e-4)


@pytest.mark.parametrize("crop", [7, 32])
def test_a_crop_that_does_not_fit_is_refused(crop):
    network = registry.autoencoder(channels=32, channel_mult=(1, 1), num_res_blocks=1)
    method = autoencoder.KLAutoencoder(network, crop=crop)
    with pytest.raises(errors.UserError, match=rf"autoencoder.crop: found {crop};.* of 2 "):
        method.init(jax.random.key(0), batch())


HEIGHT, WIDTH = 12, 16
crop_in_brain = jax.jit(autoencoder.crop_in_brain, static_argnums=3)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    side=st.sampled_from([1, 4, 7, 12]),
)
def test_crops_are_windows_around_brain(seed, share, side):
    """Pixels hold their own number, so that a crop tells where it was taken."""
    brain = np.random.RandomState(seed).rand(3, HEIGHT, WIDTH) < share
    numbers = np.broadcast_to(
        np.arange(HEIGHT * WIDTH).reshape(1, HEIGHT, WIDTH, 1), (3, HEIGHT, WIDTH, 1)
    )
    images = np.concatenate([numbers, brain[..., None]], -1).astype(np.float32)
    crops = np.asarray(
        crop_in_brain(jax.random.key(seed), jnp.asarray(images), jnp.asarray(brain), side)
    )
    assert crops.shape == (3, side, side, 2)
    for crop, image, mask in zip(crops, images, brain, strict=True):
        row, column = divmod(int(crop[0, 0, 0]), WIDTH)
        np.testing.assert_array_equal(crop, image[row : row + side, column : column + side])
        assert crop[..., 1].any() == mask.any()


@pytest.mark.parametrize("side", [1, 4, 7])
def test_a_lone_brain_pixel_is_in_the_middle_or_as_near_as_the_border_lets_it(side):
    pixels = [(0, 0), (6, 8), (11, 15), (0, 15), (11, 2)]
    brain = np.zeros((len(pixels), HEIGHT, WIDTH), bool)
    for mask, pixel in zip(brain, pixels, strict=True):
        mask[pixel] = True
    numbers = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH, 1)
    images = jnp.asarray(np.stack([numbers] * len(pixels)))
    crops = crop_in_brain(jax.random.key(0), images, jnp.asarray(brain), side)
    for crop, (row, column) in zip(np.asarray(crops), pixels, strict=True):
        top = min(max(row - side // 2, 0), HEIGHT - side)
        left = min(max(column - side // 2, 0), WIDTH - side)
        assert divmod(int(crop[0, 0, 0]), WIDTH) == (top, left)


def test_every_brain_pixel_is_a_centre_as_often_as_another():
    brain = np.zeros((1, HEIGHT, WIDTH), bool)
    brain[0, 2:6, 3:8] = True  # 20 pixels
    numbers = jnp.arange(HEIGHT * WIDTH, dtype=jnp.float32).reshape(1, HEIGHT, WIDTH, 1)
    count = 2000
    crops = crop_in_brain(
        jax.random.key(3),
        jnp.broadcast_to(numbers, (count, HEIGHT, WIDTH, 1)),
        jnp.broadcast_to(jnp.asarray(brain), (count, HEIGHT, WIDTH)),
        1,
    )
    found = np.bincount(np.asarray(crops, int).ravel(), minlength=HEIGHT * WIDTH)
    assert (found[~brain.ravel()] == 0).all()
    expected = count / 20
    # Chi-square with 19 degrees of freedom: 43.8 is the 0.1 % point.
    assert ((found[brain.ravel()] - expected) ** 2 / expected).sum() < 43.8
