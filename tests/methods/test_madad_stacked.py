"""MAD-AD on several contrasts, on stand-ins for its networks: what is missing is never read."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import schedule
from madad_jax.methods import madad, pixel_mask
from madad_jax.methods.stacked import channels, madad_stacked, stacked_mask
from madad_jax.models import image_networks
from madad_jax.synthesis import drawn, shapes
from tests.methods import stand_ins

SIDE, DEPTH = 16, 16  # pixels; channels of the stand-in autoencoder's latent
MASKING = madad.Masking(sides=(1, 2), probabilities=(0.5, 0.5), brain_cells=1)
FROZEN = {"autoencoder": {}, "scaling_factor": jnp.asarray([0.5, 2.0])}
BOTH = channels.Channels(2)


def method(settings=BOTH, head=None, gain=0.9, **more):
    network, calls = stand_ins.denoiser(gain)
    made = madad_stacked.StackedMadAd(
        denoiser=network,
        autoencoder=stand_ins.autoencoder(),
        schedule=schedule.make_schedule("cosine", 10),
        masking=MASKING,
        score=madad.Score(sigma=0.0, reference="autoencoded", latent_gamma=100.0, gamma=0.0),
        pixel_head=head,
        channels=settings,
        **more,
    )
    return made, calls


def batch(available, count=4, channel_count=2, seed=0):
    draw = np.random.default_rng(seed)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, :, : SIDE // 2] = True
    shape = (count, SIDE, SIDE, channel_count)
    image = np.where(brain[..., None], draw.uniform(-0.9, 0.9, shape), -1.0)
    there = np.broadcast_to(np.asarray(available), (count, channel_count))
    return {
        "image": jnp.asarray(image, jnp.float32),
        "brain_mask": jnp.asarray(brain),
        "available": jnp.asarray(there),
    }


def parameters(count=2, logit=-9.0, x0=0.1):
    return {
        "denoiser": {"x0": jnp.float32(x0), "logit": jnp.float32(logit)},
        "missing": jnp.linspace(-1.0, 1.0, count * DEPTH),
    }


def test_the_network_reads_scaled_latents_what_stands_for_missing_ones_and_planes():
    m, calls = method()
    b, params = batch((True, False)), parameters()
    latent, _ = m.encode(FROZEN, b["image"])
    squares, _ = m.autoencoder.encode({}, b["image"][..., :1])
    np.testing.assert_allclose(latent[..., 0, :], 0.5 * squares, rtol=1e-6)
    m.answer(params, latent, jnp.zeros(4, jnp.int32), b["available"])
    x = calls[-1]["x"]
    assert x.shape == (4, 4, 4, 2 * DEPTH + 2)
    np.testing.assert_array_equal(x[..., :DEPTH], latent[..., 0, :])
    wanted = jnp.broadcast_to(params["missing"][DEPTH:], (4, 4, 4, DEPTH))
    np.testing.assert_array_equal(x[..., DEPTH : 2 * DEPTH], wanted)
    np.testing.assert_array_equal(x[0, 0, 0, -2:], [1.0, 0.0])
    zero, calls = method(channels.Channels(2, missing="zero"))
    zero.answer({"denoiser": params["denoiser"]}, latent, jnp.zeros(4, jnp.int32), b["available"])
    assert not calls[-1]["x"][..., DEPTH : 2 * DEPTH].any()


def test_maps_do_not_depend_on_the_pixels_of_a_missing_contrast():
    m, _ = method()
    b, key = batch((True, False)), jax.random.key(1)
    other = b | {"image": b["image"].at[..., 1].set(0.7)}
    maps = jax.jit(lambda x: m.anomaly_map(parameters(), FROZEN, x, key))
    one, two = maps(b), maps(other)
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    assert one["map"].any() and one["reconstruction"].shape == (4, SIDE, SIDE, 2)
    # A contrast that is there counts.
    changed = maps(b | {"available": batch(True)["available"]})
    assert (changed["map"] != one["map"]).any()


def test_a_map_is_the_mean_over_the_contrasts_that_are_there():
    m, _ = method(gain=1.0)
    # Answers do not mix channels, so that each contrast's map stands alone.
    key, params = jax.random.key(1), parameters()
    maps = jax.jit(lambda x: m.anomaly_map(params, FROZEN, x, key))
    found = [maps(batch(there)) for there in ((True, False), (False, True), (True, True))]
    for name in ("map", "latent_map"):
        first, second, both = (one[name] for one in found)
        np.testing.assert_allclose(both, 0.5 * (first + second), atol=1e-6, err_msg=name)
    assert found[0]["map"].any()


def test_what_does_not_exist_has_no_loss_and_what_was_dropped_has_one():
    m, _ = method(channels.Channels(2, keep_all=0.0))
    per_channel = jnp.zeros((4, 4, 2 * DEPTH + 2))

    @jax.jit
    @jax.grad
    def gradient_of(shift, b, key):
        params = parameters() | {"denoiser": {"x0": shift, "logit": jnp.float32(0.0)}}
        return m.loss(params, FROZEN, b, key)[1]["x0_loss"]

    gradient = gradient_of(per_channel, batch((True, False)), jax.random.key(3))
    assert gradient[..., :DEPTH].any()
    assert not gradient[..., DEPTH : 2 * DEPTH].any()
    # One that shows one of its two: the loss is of both all the same.
    b = batch((True, True), count=1)
    keys = jax.random.split(jax.random.key(0), 20)
    shown = [m.channels.drop(jax.random.split(k, 7)[0], b["available"]).sum() for k in keys]
    gradient = gradient_of(per_channel, b, keys[shown.index(1)])
    for part in (gradient[..., :DEPTH], gradient[..., DEPTH : 2 * DEPTH]):
        assert part.any()


def test_the_mask_head_is_asked_about_own_contrasts_that_are_shown():
    m, _ = method(channels.Channels(1, neighbours=1))
    visible = jnp.ones((1, 2, 2, 3)).at[0, 0, 0, 0].set(0.0).at[0, 1, 1, 1].set(0.0)
    judged = m._judged(visible, jnp.asarray([[True, True, True]]))
    np.testing.assert_array_equal(judged[0], [[0, 1], [1, 1]])
    m, _ = method()
    visible = jnp.ones((1, 2, 2, 2)).at[0, 0, 0, 0].set(0.0).at[0, 1, 1, 1].set(0.0)
    judged = m._judged(visible, jnp.asarray([[True, False]]))
    np.testing.assert_array_equal(judged[0], [[0, 1], [1, 1]])
    judged = m._judged(visible, jnp.asarray([[True, True]]))
    np.testing.assert_array_equal(judged[0], [[0, 1], [1, 0]])


def test_blocks_are_shared_or_each_its_own():
    brain = jnp.ones((64, SIDE, SIDE), bool)
    for share, low, high in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.3)):
        m, _ = method(channels.Channels(2, same_blocks=share))
        visible = m._draw_visible(jax.random.key(0), (64, 4, 4, 2), brain)
        equal = np.asarray((visible[..., 0] == visible[..., 1]).all((1, 2)))
        noised = np.asarray((visible[..., 0] == 0).any((1, 2)))
        assert low <= equal[noised].mean() <= high


def head(fusion="joint"):
    network = image_networks.mask_network(widths=(8,), num_groups=4)
    options = drawn.Options(healthy=0.0, min_radius=0.1, max_shapes=1, kinds=("shift",))
    both = dataclasses.replace(BOTH, fusion=fusion)
    return madad.PixelHead(stacked_mask.StackedMask(network, options, channels=both))


def stirred(params):
    """A head's last layer starts from zero, which would hide everything."""
    return jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)


@pytest.mark.parametrize("fusion", channels.FUSIONS)
def test_the_head_at_image_resolution_reads_nothing_of_a_missing_contrast(fusion):
    mask, b = head(fusion).mask, batch((True, False))
    params = stirred(jax.jit(mask.init)(jax.random.key(0), b))
    other = b["image"].at[..., 1].set(0.7)
    brain, shown = b["brain_mask"], b["available"]
    probability = jax.jit(functools.partial(mask.probability_shown, params, {}))
    one, two = (probability(x, brain, shown) for x in (b["image"], other))
    np.testing.assert_array_equal(one, two)
    both = probability(other, brain, jnp.ones_like(shown))
    assert (both != one).any() and not both[~brain].any()
    mirrored = probability(b["image"][:, :, ::-1], brain[:, :, ::-1], shown)
    np.testing.assert_allclose(mirrored[:, :, ::-1], one, atol=1e-6)


@pytest.mark.parametrize("fusion", ["largest", "mean"])
def test_one_contrast_at_a_time_is_each_alone_and_then_one_number(fusion):
    mask, b = head(fusion).mask, batch((True, True))
    params, brain = stirred(jax.jit(mask.init)(jax.random.key(0), b)), b["brain_mask"]
    run = jax.jit(functools.partial(mask.probability_shown, params, {}))

    def probability(*shown):
        return run(b["image"], brain, jnp.broadcast_to(jnp.array(shown), (len(brain), 2)))

    each = jnp.stack([probability(True, False), probability(False, True)])
    assert (each[0] != each[1]).any()
    joined = each.max(0) if fusion == "largest" else each.mean(0)
    np.testing.assert_allclose(probability(True, True), joined, atol=1e-6)


def test_a_contrast_that_is_not_there_teaches_nothing():
    """Neither its picture nor what was drawn into it."""
    mask, b = head("largest").mask, batch((True, False))
    params, key = stirred(jax.jit(mask.init)(jax.random.key(0), b)), jax.random.key(1)
    exists = b["available"]

    @jax.jit
    def run(change):
        example = mask.draw_each(key, b)
        example = example._replace(
            images=example.images.at[..., 1].add(change),
            truth=example.truth.at[..., 1].set(change > 0),
        )
        return jax.grad(lambda p: mask.loss_shown(p, {}, example, exists, exists)[0])(params)

    one, two = run(0.0), run(0.3)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(x, y)
    assert any(x.any() for x in jax.tree.leaves(one))


@pytest.mark.parametrize("fusion", channels.FUSIONS)
def test_the_head_adds_its_loss_and_trains_with_anomalies(fusion):
    m, _ = method(head=head(fusion), synthesis=shapes.Options(share=0.5))
    b = batch((True, True))
    params = parameters() | {"pixel_head": jax.jit(m.pixel_head.mask.init)(jax.random.key(0), b)}

    @jax.jit
    def run(params, b):
        def total(params):
            return m.loss(params, FROZEN, b, jax.random.key(2))

        return jax.value_and_grad(total, has_aux=True)(params)

    (loss, metrics), gradients = run(params, b)
    own = metrics["x0_loss"] + m.loss_options.mask_weight * metrics["mask_loss"]
    more = metrics["pixel_entropy"] + 0.5 * (1.0 - metrics["pixel_dice"])
    np.testing.assert_allclose(loss, own + more, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))
    assert gradients["missing"].any()


def test_drawn_anomalies_in_latents_need_the_head_that_draws_them():
    with pytest.raises(errors.UserError, match=r"synthesis.share: found 0.5 with several"):
        method(synthesis=shapes.Options(share=0.5))


def test_z_scores_are_those_of_each_channel():
    b = batch((True, True))
    z = stacked_mask.stacked_z_scores(b["image"], b["brain_mask"])
    for c in range(2):
        one = pixel_mask.z_scores(b["image"][..., c : c + 1], b["brain_mask"])
        np.testing.assert_array_equal(z[..., c], one)
