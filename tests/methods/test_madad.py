import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import samplers, schedule
from madad_jax.methods import madad
from madad_jax.models import registry
from madad_jax.synthesis import shapes
from tests.methods import stand_ins

SCHEDULE = schedule.make_schedule("cosine", 10)
SCALE = 0.5
SMALL = {
    "channels": 8,
    "channel_mult": (1, 1),
    "num_res_blocks": 1,
    "decoder_num_res_blocks": 0,
    "num_groups": 4,
    "mid_attention": False,
}
SIDE = 32  # pixels; 8 cells of the stand-in autoencoder


def frozen():
    return {"autoencoder": {}, "scaling_factor": jnp.float32(SCALE)}


def answers(x0=0.0, logit=0.0):
    return {"x0": jnp.float32(x0), "logit": jnp.float32(logit)}


def batch(seed=0, count=4):
    draw = np.random.RandomState(seed)
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, :, : SIDE // 2] = True
    return {
        "image": jnp.asarray(draw.uniform(-1, 1, (count, SIDE, SIDE, 1)), jnp.float32),
        "brain_mask": jnp.asarray(brain),
        "step": jnp.int32(0),
    }


def method(gain=1.0, logvar=-30.0, **options):
    """(the method on stand-ins, what its denoiser is asked)."""
    denoiser, calls = stand_ins.denoiser(gain)
    made = madad.MadAd(
        denoiser=denoiser,
        autoencoder=stand_ins.autoencoder(logvar),
        schedule=SCHEDULE,
        **{"masking": madad.Masking(brain_cells=1)} | options,
    )
    return made, calls


def ask(made, calls, params, b, weights=None, train=True):
    """A compiled function key -> (loss, metrics, what the denoiser was given)."""
    weights = frozen() if weights is None else weights

    def run(key):
        calls.clear()
        total, metrics = made.loss(params, weights, b, key, train=train)
        return total, metrics, {"x": calls[0]["x"], "t": calls[0]["t"]}

    return jax.jit(run)


def maps(made, params, b, seed=0):
    return jax.jit(made.anomaly_map)(params, frozen(), b, jax.random.key(seed))


def latents(b):
    return np.asarray(stand_ins.autoencoder().encode({}, b["image"])[0]) * SCALE


def cells_changed(call, b):
    """True where the denoiser was given something else than the clean latent."""
    return np.abs(np.asarray(call["x"]) - latents(b)).max(-1) > 1e-4


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(
    ("options", "cell_error"),
    [
        (madad.Loss("mse", 1e-3, "all"), lambda v, p: np.square(v - p)),
        (madad.Loss("bce", 1.0, "all"), lambda v, p: -np.log(np.where(v == 1, p, 1 - p))),
        (madad.Loss("bce", 0.25, "noised"), lambda v, p: -np.log(np.where(v == 1, p, 1 - p))),
    ],
)
def test_loss_is_the_formula(options, cell_error):
    b, (m, calls) = batch(), method(loss_options=options)
    total, metrics, call = ask(m, calls, answers(x0=0.1, logit=0.4), b)(jax.random.key(3))
    visible = 1.0 - cells_changed(call, b)
    assert 0 < visible.mean() < 1
    error = np.square(np.asarray(call["x"]) + 0.1 - latents(b)).mean(-1)
    if options.region == "noised":
        x0_loss = np.mean(
            [e[v == 0].mean() if (v == 0).any() else 0 for e, v in zip(error, visible, strict=True)]
        )
    else:
        x0_loss = error.mean()
    mask_loss = cell_error(visible, sigmoid(0.4)).mean()
    np.testing.assert_allclose(metrics["x0_loss"], x0_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["mask_loss"], mask_loss, rtol=1e-5)
    np.testing.assert_allclose(total, x0_loss + options.mask_weight * mask_loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["x0_error_noised"], error[visible == 0].mean(), rtol=1e-5)
    assert metrics["mask_sensitivity"] == 0 and metrics["mask_specificity"] == 1


def test_flagging_everything_is_sensitive_and_not_specific():
    _, metrics, _ = ask(*method(), answers(logit=-1.0), batch())(jax.random.key(1))
    assert metrics["mask_sensitivity"] == 1 and metrics["mask_specificity"] == 0


def test_noise_is_added_by_t_in_the_noised_cells_alone():
    """Over many draws, cells are either exact or as noisy as the schedule says at that t."""
    b, (m, calls) = batch(count=32), method()
    loss = ask(m, calls, answers(), b)
    calls = [loss(jax.random.key(seed))[2] for seed in range(6)]
    seen = np.concatenate([np.asarray(c["t"]) for c in calls])
    assert set(seen.tolist()) == set(range(10))
    for t in range(10):
        ratio = []
        for call in calls:
            abar = SCHEDULE.alphas_cumprod[t]
            noise = (np.asarray(call["x"]) - np.sqrt(abar) * latents(b)) / np.sqrt(1 - abar)
            here = cells_changed(call, b) & (np.asarray(call["t"]) == t)[:, None, None]
            ratio.append(noise[here].ravel())
        noise = np.concatenate(ratio)
        assert abs(noise.mean()) < 6 / np.sqrt(noise.size)
        assert abs(noise.std() - 1) < 6 / np.sqrt(noise.size)


def noised_share(seeds=12, **masking):
    b, (m, calls) = batch(), method(masking=madad.Masking(brain_cells=1, **masking))
    loss = ask(m, calls, answers(), b)
    given = [loss(jax.random.key(seed))[2] for seed in range(seeds)]
    share = np.mean([cells_changed(g, b) for g in given], (0, 1))
    return share[:, :4].mean(), share[:, 4:].mean()  # inside, outside the brain


def test_gating_never_noises_outside_the_brain():
    inside, outside = noised_share()
    assert inside > 0.1 and outside == 0
    inside, outside = noised_share(brain_min_fraction=0.0)
    assert inside > 0.1 and outside > 0.1


def test_a_whole_noised_latent_leaves_numbers_finite():
    """One block of 8x8 cells is the whole latent here: it is noised at any ratio above 0."""
    m, calls = method(
        masking=madad.Masking(sides=(8,), probabilities=(1.0,), brain_min_fraction=0.0)
    )
    _, metrics, call = ask(m, calls, answers(), batch())(jax.random.key(0))
    assert cells_changed(call, batch()).all()
    assert all(np.isfinite(v) for v in metrics.values())


def test_training_sees_posterior_samples_and_the_map_their_mean():
    b, (m, calls) = batch(count=16), method(logvar=float(2 * np.log(0.3)))
    call = ask(m, calls, answers(), b)(jax.random.key(0))[2]
    outside = (np.asarray(call["x"]) - latents(b))[:, :, 4:] / SCALE
    assert abs(outside.std() - 0.3) < 0.01 and abs(outside.mean()) < 0.01
    out = maps(m, answers(logit=5.0), b)
    np.testing.assert_allclose(out["reconstruction"], b["image"], atol=1e-6)


def test_validation_turns_dropout_off():
    m, calls = method()
    noisy = ask(m, calls, answers(), batch())(jax.random.key(0))[2]
    assert calls[0]["train"] and calls[0]["rngs"] is not None
    call = ask(m, calls, answers(), batch(), train=False)(jax.random.key(0))[2]
    assert not calls[0]["train"] and calls[0]["rngs"] is None
    np.testing.assert_array_equal(noisy["x"], call["x"])  # other draws stay


def test_cached_latents_equal_encoding_online():
    b, (m, calls) = batch(), method(logvar=-2.0)
    mean, logvar = m.autoencoder.encode({}, b["image"])
    cached = {k: v for k, v in b.items() if k != "image"}
    cached |= {"latent_mean": mean, "latent_logvar": logvar}
    weights = {"scaling_factor": frozen()["scaling_factor"]}  # nothing to encode with
    params = answers(x0=0.2, logit=0.3)
    online, _, call = ask(m, calls, params, b)(jax.random.key(7))
    offline, _, cached_call = ask(m, calls, params, cached, weights)(jax.random.key(7))
    np.testing.assert_allclose(online, offline, rtol=1e-6)
    np.testing.assert_allclose(call["x"], cached_call["x"], atol=1e-6)


def synthetic(share):
    return shapes.Options(share=share, min_radius=0.1, max_radius=0.2)


def image_of(latent):
    return stand_ins.autoencoder().decode({}, jnp.asarray(latent) / SCALE)


def test_synthesis_notes_what_it_changed_and_keeps_the_clean_target():
    """share=1: the noised cells are the changed ones, whatever the blocks were."""
    b, key = batch(count=8), jax.random.key(2)
    m, calls = method(gain=0.0, synthesis=synthetic(1.0))
    given = ask(m, calls, answers(), b)(key)[2]["x"]
    changed = shapes.changed_cells(b["image"], image_of(given), (8, 8), 0.06)
    assert 0.05 < float(changed.mean()) < 0.9
    truth = {"x0": jnp.asarray(latents(b)), "logit": 30.0 - 60.0 * changed[..., None]}
    total, metrics, again = ask(m, calls, truth, b)(key)
    np.testing.assert_array_equal(again["x"], given)
    assert metrics["mask_sensitivity"] == 1 and metrics["mask_specificity"] == 1
    np.testing.assert_allclose([total, metrics["x0_loss"], metrics["mask_loss"]], 0, atol=1e-9)


def test_a_share_of_the_samples_is_synthetic():
    b, key = batch(count=24), jax.random.key(5)
    given = {}
    for share in (0.0, 0.5, 1.0):
        m, calls = method(synthesis=synthetic(share))
        given[share] = np.asarray(ask(m, calls, answers(), b)(key)[2]["x"])
    plain = np.asarray(ask(*method(), answers(), b)(key)[2]["x"])
    np.testing.assert_array_equal(given[0.0], plain)
    # Programs compiled for themselves round differently in the last digit.
    apart = {s: np.abs(given[0.5] - given[s]).max((1, 2, 3)) for s in (0.0, 1.0)}
    noised, corrupted = apart[0.0] < 1e-5, apart[1.0] < 1e-5
    assert (noised | corrupted).all() and 4 <= (corrupted & ~noised).sum() <= 20


def test_synthesis_needs_images_beside_cached_latents():
    b = batch()
    mean, logvar = stand_ins.autoencoder().encode({}, b["image"])
    cached = {k: v for k, v in b.items() if k != "image"}
    cached |= {"latent_mean": mean, "latent_logvar": logvar}
    with pytest.raises(errors.UserError, match=r"^synthesis.share: found 0.5.*synthesis.share=0"):
        ask(*method(synthesis=synthetic(0.5)), answers(), cached)(jax.random.key(0))
    ask(*method(), answers(), cached)(jax.random.key(0))


def test_no_gradient_reaches_the_frozen_weights():
    autoencoder = registry.autoencoder(**SMALL)
    m = dataclasses.replace(method()[0], autoencoder=autoencoder)
    weights = {
        "autoencoder": autoencoder.init(jax.random.key(0), (1, SIDE, SIDE, 1)),
        "scaling_factor": jnp.float32(SCALE),
    }
    gradient = jax.jit(
        jax.grad(lambda w: m.loss(answers(x0=0.1), w, batch(), jax.random.key(0))[0])
    )(weights)
    assert all(not g.any() for g in jax.tree.leaves(gradient["autoencoder"]))


AUTOENCODED = madad.Score(difference="l1", reference="autoencoded", gamma=0.25, sigma=1.0)


@pytest.mark.parametrize("reference", ["autoencoded", "input"])
def test_where_nothing_is_flagged_the_map_is_zero(reference):
    score = dataclasses.replace(AUTOENCODED, reference=reference)
    b, (m, _) = batch(), method(gain=0.3, score=score)
    out = maps(m, answers(x0=3.0, logit=2.0), b)
    np.testing.assert_allclose(out["map"], 0, atol=1e-6)
    np.testing.assert_allclose(out["latent_map"], 0, atol=1e-6)
    np.testing.assert_allclose(out["mask_map"], sigmoid(-2.0), rtol=1e-4)
    np.testing.assert_allclose(out["reconstruction"], b["image"], atol=1e-6)
    assert not out["rewritten"].any()


def test_rounding_where_nothing_was_rewritten_is_no_difference(monkeypatch):
    # Fused products leave 1e-8 on some meshes; more here, so that it shows.
    untouched = samplers.selective_ddim

    def rounded(*args, **kwargs):
        found = untouched(*args, **kwargs)
        return found | {"latent": found["latent"] + 1e-3}

    monkeypatch.setattr(samplers, "selective_ddim", rounded)
    m, _ = method(gain=0.3, score=AUTOENCODED)
    out = maps(m, answers(x0=3.0, logit=2.0), batch())
    assert not out["rewritten"].any()
    np.testing.assert_array_equal(out["latent_map"], 0)


def one_flagged(row, column):
    logit = jnp.full((4, 8, 8, 1), 2.0).at[:, row, column].set(-2.0)
    return {"x0": jnp.float32(0.25), "logit": logit}


def test_a_flagged_cell_shows_in_the_map_by_the_difference_of_its_pixels():
    """gain 0: the prediction is 0.25 everywhere, so the cell decodes to 0.25 / SCALE."""
    score = madad.Score(difference="l2", reference="input", gamma=0.7, latent_gamma=0.5, sigma=0.0)
    b, (m, _) = batch(), method(gain=0.0, score=score)
    out = maps(m, one_flagged(3, 1), b)
    expected = np.zeros((4, SIDE, SIDE))
    cell = (slice(None), slice(12, 16), slice(4, 8))
    difference = np.asarray(b["image"])[..., 0][cell] - 0.25 / SCALE
    expected[cell] = np.minimum(difference**2, 0.7) / 0.7
    np.testing.assert_allclose(out["map"], expected, atol=1e-5)
    assert (expected == 1).any()
    np.testing.assert_array_equal(np.argwhere(np.asarray(out["rewritten"][0])), [[3, 1]])
    moved = np.abs(latents(b)[:, 3, 1] - 0.25).mean(-1)
    centre = np.asarray(out["latent_map"])[:, 12:16, 4:8].max((1, 2))
    # Bilinear interpolation from cells to pixels reaches 0.875^2 of a lone cell's value.
    np.testing.assert_allclose(centre, np.minimum(moved, 0.5) / 0.5 * 0.875**2, rtol=1e-4)


def test_sampler_and_score_stay_inside_the_brain_when_told_to():
    everywhere = {"x0": jnp.float32(0.25), "logit": jnp.float32(-3.0)}
    b = batch()
    for inside in (False, True):
        m, _ = method(gain=0.0, score=AUTOENCODED, sampler=madad.Sampler(inside_brain=inside))
        out = maps(m, everywhere, b)
        assert out["rewritten"][:, :, :4].all()
        assert bool(out["rewritten"][:, :, 4:].any()) != inside
        score = dataclasses.replace(AUTOENCODED, inside_brain=inside)
        m, _ = method(gain=0.0, score=score)
        out = maps(m, everywhere, b)
        for name in ("map", "mask_map", "latent_map"):
            assert bool((out[name][:, :, 16:] > 0).any()) != inside, name
            assert (out[name][:, :, :12] > 0).all(), name


def test_the_sampler_options_arrive():
    b = batch()

    def rewritten(logit, **options):
        m, _ = method(gain=0.5, sampler=madad.Sampler(**options))
        return maps(m, answers(logit=logit), b)["rewritten"]

    assert not rewritten(0.1).any() and rewritten(0.1, threshold=0.6).all()
    np.testing.assert_allclose(rewritten(0.0, rewrite="probability"), 0.5)
    with pytest.raises(errors.UserError, match=r"sampler.steps: found 11"):
        rewritten(0.1, steps=11)


def test_images_to_maps_with_real_networks_in_one_compiled_call():
    autoencoder = registry.autoencoder(**SMALL)
    denoiser = registry.denoiser("dit", size=None, hidden_size=16, depth=1, num_heads=2)
    m = madad.MadAd(
        denoiser=denoiser, autoencoder=autoencoder, schedule=SCHEDULE, score=AUTOENCODED
    )
    b = batch(count=2)
    params = m.init(jax.random.key(0), b)
    weights = {
        "autoencoder": autoencoder.init(jax.random.key(1), (1, SIDE, SIDE, 1)),
        "scaling_factor": jnp.float32(1.0),
    }
    out = jax.jit(m.anomaly_map)(params, weights, b, jax.random.key(2))
    assert out["reconstruction"].shape == b["image"].shape
    for name in ("map", "mask_map", "latent_map"):
        assert out[name].shape == (2, SIDE, SIDE)
        assert float(out[name].min()) >= 0 and float(out[name].max()) <= 1 + 1e-6


def test_bad_options_name_the_key():
    with pytest.raises(errors.UserError, match=r"score.reference: found 'mean', accepted: input"):
        method(score=madad.Score(reference="mean"))
    with pytest.raises(errors.UserError, match=r"score.latent_gamma: found 0"):
        method(score=madad.Score(latent_gamma=0.0))
    m, _ = method()
    with pytest.raises(errors.UserError, match=r"masking.sides: \[8\] do not divide .* 12x12"):
        m.init(jax.random.key(0), {"image": jax.ShapeDtypeStruct((1, 48, 48, 1), jnp.float32)})
