"""deco_diff and reflect: what they train on and how they correct, in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.diffusion import schedule
from madad_jax.methods import deco_diff, reflect
from madad_jax.models import interfaces
from madad_jax.synthesis import shapes
from tests.methods import stand_ins
from tests.methods.test_madad import SCALE, answers, ask, batch, frozen, latents

SCHEDULE = schedule.make_schedule("cosine", 10)
SIDES = {"sides": (1, 2, 4), "probabilities": (0.4, 0.3, 0.3)}


@dataclasses.dataclass(frozen=True)
class Constant:
    """Answers params everywhere, whatever it is asked."""

    def apply(self, variables, x, t, *, train, rngs):
        del t, train, rngs
        return jnp.broadcast_to(variables["params"], x.shape), None


def deco(denoiser=None, **options):
    return deco_diff.DecoDiff(
        denoiser=denoiser or stand_ins.denoiser()[0],
        autoencoder=stand_ins.autoencoder(),
        schedule=SCHEDULE,
        corruption=deco_diff.Corruption(**SIDES, **options.pop("corruption", {})),
        **options,
    )


@pytest.mark.parametrize("t", [0, 4, 9])
def test_the_direction_leads_to_the_noised_latent(t):
    """x_0 + sqrt(1 - abar) d is x_0 on visible cells and a noised latent, of unit spread around
    sqrt(abar) x_0, on the others."""
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((64, 8, 8, 4)), jnp.float32)
    brain = jnp.ones((64, 32, 32), bool)
    made = deco(corruption={"foreign": 0.0})
    d = np.asarray(jax.jit(made.direction)(jax.random.key(1), x0, jnp.full(64, t), brain))
    abar = SCHEDULE.alphas_cumprod[t]
    x_t = np.asarray(x0) + np.sqrt(1 - abar) * d
    changed = np.abs(d).max(-1) > 0
    assert 0.15 < changed.mean() < 0.5  # U(0, 0.7): 0.35 on average
    noise = ((x_t - np.sqrt(abar) * np.asarray(x0)) / np.sqrt(1 - abar))[changed]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert abs(np.corrcoef(noise.ravel(), np.asarray(x0)[changed].ravel())[0, 1]) < 0.05


def test_outside_the_brain_nothing_is_moved():
    x0 = jnp.ones((32, 8, 8, 2))
    brain = jnp.zeros((32, 32, 32), bool).at[:, :16].set(True)
    d = np.asarray(jax.jit(deco().direction)(jax.random.key(0), x0, jnp.full(32, 5), brain))
    assert np.abs(d[:, :4]).max() > 0 and not d[:, 4:].any()


def test_a_share_of_the_noise_is_patches_of_other_latents():
    """Latents that are constants of their own: at the noisiest level a foreign cell shows one."""
    values = np.arange(16.0) * 100 + 1000
    x0 = jnp.broadcast_to(jnp.asarray(values, jnp.float32)[:, None, None, None], (16, 8, 8, 1))
    brain = jnp.ones((16, 32, 32), bool)
    run = jax.jit(deco(corruption={"foreign": 0.9}).direction)
    d = np.asarray(run(jax.random.key(2), x0, jnp.full(16, 9), brain))
    abar = SCHEDULE.alphas_cumprod[9]
    shrink = (1 - np.sqrt(abar)) / np.sqrt(1 - abar)
    changed = np.abs(d[..., 0]) > 0
    noise = (d + shrink * np.asarray(x0))[..., 0][changed]
    foreign = noise > 500
    assert 0.2 < foreign.mean() < 0.7
    nearest = np.abs(noise[foreign][:, None] - values).min(1)
    assert nearest.max() < 1.0


def test_shuffling_moves_whole_patches_and_loses_none():
    x = jnp.arange(2 * 4 * 4, dtype=jnp.float32).reshape(2, 4, 4, 1)
    out = np.asarray(deco_diff.shuffle_patches(jax.random.key(0), x, 2))

    def patches(v):
        v = np.asarray(v)[..., 0]
        return sorted(
            v[b, r : r + 2, c : c + 2].tobytes() for b in (0, 1) for r in (0, 2) for c in (0, 2)
        )

    assert patches(out) == patches(x) and not np.array_equal(out, x)


def test_a_true_direction_is_taken_back_exactly():
    """The network answers the same d at every step: the sum telescopes to x - sqrt(1-abar) d."""
    made = deco(interfaces.Denoiser(name="constant", _module=Constant()), start=6)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 8, 8, 4)), jnp.float32)
    d = jnp.asarray(np.random.default_rng(2).standard_normal((8, 8, 4)), jnp.float32)
    found = jax.jit(made.correct)(d, x)
    width = np.sqrt(1 - SCHEDULE.alphas_cumprod[6])
    np.testing.assert_allclose(found, x - width * d, atol=1e-5)


def test_no_direction_changes_nothing():
    b, made = batch(), deco(interfaces.Denoiser(name="constant", _module=Constant()))
    out = jax.jit(made.anomaly_map)(jnp.float32(0), frozen(), b, jax.random.key(0))
    np.testing.assert_allclose(out["reconstruction"], b["image"], atol=1e-5)
    assert np.asarray(out["map"]).max() < 1e-2


def test_deco_diffs_loss_is_the_error_of_the_direction():
    b, (network, calls) = batch(count=8), stand_ins.denoiser(gain=0.0)
    made = deco(network, corruption={"foreign": 0.0, "brain_min_fraction": 0.0})
    loss, metrics, call = ask(made, calls, answers(x0=0.1), b)(jax.random.key(0))
    width = np.sqrt(1 - SCHEDULE.alphas_cumprod[np.asarray(call["t"])])[:, None, None, None]
    d = (np.asarray(call["x"]) - latents(b)) / width
    np.testing.assert_allclose(loss, np.square(0.1 - d).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_over_zero"], loss / np.square(d).mean(), rtol=1e-4)


def test_start_must_be_a_step():
    with pytest.raises(errors.UserError, match="start: found 10, accepted: 0 to 9"):
        deco(start=10)


def flow(denoiser=None, **options):
    return reflect.Reflect(
        denoiser=denoiser or stand_ins.denoiser()[0],
        autoencoder=stand_ins.autoencoder(),
        corruption=reflect.Corruption(**options.pop("corruption", {})),
        **options,
    )


def test_strength_is_the_objects_and_mostly_inside_the_brain():
    made = flow(corruption={"max_objects": 2, "min_radius": 0.1})
    brain = jnp.zeros((128, 32, 32), bool).at[:, 8:24, 8:24].set(True)
    m = np.asarray(jax.jit(made.strength, static_argnums=2)(jax.random.key(0), brain, (16, 16)))
    inside = np.zeros((16, 16), bool)
    inside[4:12, 4:12] = True
    present = m[m > 0]
    assert present.min() >= 0.2 and present.max() <= 1
    assert all(len(np.unique(v[v > 0])) <= 2 for v in m), "a strength for every object"
    leaking = m[:, ~inside].any(1).mean()
    assert 0 < leaking < 0.25  # one in ten is not cut at the rim
    assert m.any((1, 2)).mean() > 0.5


def test_corruption_keeps_unit_spread_and_untouched_cells():
    b = batch(count=48)
    made = flow(corruption={"texture": 0.0, "min_radius": 0.2, "max_radius": 0.3})
    z1 = jnp.asarray(np.random.default_rng(0).standard_normal((48, 8, 8, 16)), jnp.float32)
    key = jax.random.key(5)
    z0 = np.asarray(jax.jit(made.corrupt)(frozen(), b, z1, key))
    strength = jax.jit(made.strength, static_argnums=2)
    m = np.asarray(strength(jax.random.split(key, 6)[0], b["brain_mask"], (8, 8)))
    np.testing.assert_allclose(z0[m == 0], np.asarray(z1)[m == 0], atol=1e-6)
    touched = z0[m > 0]
    assert abs(touched.std() - 1) < 0.1 and not np.allclose(touched, np.asarray(z1)[m > 0])


def test_noise_has_a_part_constant_over_the_latent_and_unit_variance():
    drawn = np.asarray(reflect.mixed_noise(jax.random.key(0), (4000, 4, 4, 2)))
    assert abs(drawn.std() - 1) < 0.03
    # E a = 1/2: two cells of a channel share half of their variance, two channels nothing.
    cells = np.corrcoef(drawn[:, 0, 0, 0], drawn[:, 3, 3, 0])[0, 1]
    channels = np.corrcoef(drawn[:, 0, 0, 0], drawn[:, 0, 0, 1])[0, 1]
    assert abs(cells - 0.5) < 0.05 and abs(channels) < 0.05


def test_flow_is_trained_on_the_straight_line():
    """With an answer of 0: the loss is |z_1 - z_0|^2, and the input lies on the line at t."""
    b, (network, calls) = batch(count=8), stand_ins.denoiser(gain=0.0)
    made = flow(network, corruption={"textures": "shuffled"})
    key = jax.random.key(7)
    loss, _, call = ask(made, calls, answers(), b)(key)
    z1 = latents(b)
    z0 = jax.jit(made.corrupt)(frozen(), b, jnp.asarray(z1), jax.random.split(key, 4)[2])
    np.testing.assert_allclose(loss, np.square(z1 - z0).mean(), rtol=1e-3)
    t = (np.asarray(call["t"]) / 1000)[:, None, None, None]
    np.testing.assert_allclose(call["x"], (1 - t) * np.asarray(z0) + t * z1, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_straight_flow_is_followed_exactly_in_any_number_of_steps(steps):
    made = flow(interfaces.Denoiser(name="constant", _module=Constant()), steps=steps)
    z = jnp.asarray(np.random.default_rng(1).standard_normal((2, 8, 8, 4)), jnp.float32)
    v = jnp.asarray(np.random.default_rng(2).standard_normal((8, 8, 4)), jnp.float32)
    np.testing.assert_allclose(jax.jit(made.correct)(v, z), z + v, atol=1e-5)


def test_eulers_levels_start_at_the_corrupted_end():
    network, calls = stand_ins.denoiser()
    made = flow(network, steps=4)
    with jax.disable_jit():
        made.correct({"x0": 0.0, "logit": 0.0}, jnp.zeros((1, 8, 8, 4)))
    assert [int(call["t"][0]) for call in calls] == [0, 250, 500, 750]


def test_textures_are_pictures_that_differ():
    drawn = np.asarray(
        jax.jit(reflect.textures, static_argnums=1)(jax.random.key(0), (8, 32, 32, 1))
    )
    assert drawn.min() >= -1 and drawn.max() <= 1
    assert (drawn.std((1, 2, 3)) > 0.005).mean() > 0.8
    assert np.abs(drawn[0] - drawn[1]).mean() > 0.05


@pytest.mark.parametrize("made", [deco, flow])
def test_a_synthetic_anomaly_can_stand_in_for_the_corruption(made):
    """The input is the corrupted image's latent where it changed (deco_diff: there alone)."""
    b, (network, calls) = batch(count=4), stand_ins.denoiser()
    options = shapes.Options(share=1.0, min_radius=0.1)
    method = made(network, synthesis=options)
    x = np.asarray(ask(method, calls, answers(), b)(jax.random.key(0))[2]["x"])
    outside = np.zeros(x.shape[:3], bool)
    outside[:, :, 4:] = True  # of the brain
    np.testing.assert_allclose(x[outside], latents(b)[outside], atol=1e-5)
    assert np.abs(x - latents(b)).max() > 0.05
    mean = jnp.asarray(latents(b)) / SCALE
    cached = {"latent_mean": mean, "latent_logvar": 0 * mean - 30}
    cached |= {k: b[k] for k in ("brain_mask", "step")}
    with pytest.raises(errors.UserError, match=r"synthesis\.share: found 1"):
        if made is flow:
            method = flow(network, synthesis=options, corruption={"textures": "shuffled"})
        jax.eval_shape(method.loss, answers(), frozen(), cached, jax.random.key(0))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"corruption": {"textures": "photographs"}}, "textures: found 'photographs'"),
        ({"corruption": {"max_objects": 0}}, "max_objects"),
        ({"steps": 0}, "steps: found 0, accepted: 1 to 1000"),
    ],
)
def test_bad_options_of_the_flow_are_named(options, found):
    with pytest.raises(errors.UserError, match=found):
        flow(**options)
