"""Disyre's levels, loss and scores, on networks that can be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from madad_jax.anomaly_maps import difference, sliding_window
from madad_jax.core import errors
from madad_jax.diffusion import schedule
from madad_jax.methods import disyre
from madad_jax.models import registry
from madad_jax.synthesis import disentangled
from tests.methods import stand_ins
from tests.methods.test_madad import ask

SIDE = 16
SCHEDULE = schedule.make_schedule("linear", 100)
ANOMALIES = disentangled.Options(box=12, sides=(4, 8), blur=0.5)
INSIDE = difference.Residual(inside_brain=True)


def batch(count=4, side=SIDE, seed=0):
    draw = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(draw.uniform(-1, 1, (count, side, side, 1)), (0, 1, 1, 0))
    brain = np.zeros((count, side, side), bool)
    brain[:, 2:-2, 3:-3] = True
    image = np.where(brain[..., None], np.clip(3 * image, -0.9, 0.9), -1.0)
    return {"image": jnp.asarray(image, jnp.float32), "brain_mask": jnp.asarray(brain)}


def method(network, kind="ensemble", steps=4, weight="window", side=SIDE, **fields):
    score = disyre.Score(kind, steps, weight, sliding_window.Window(side))
    network = stand_ins.network(network) if callable(network) else network
    return disyre.Disyre(network, SCHEDULE, INSIDE, ANOMALIES, score, **fields)


def same(params, x, t):
    del params, t
    return x


def run(made, b, params=None):
    return jax.jit(made.anomaly_map)({} if params is None else params, {}, b, jax.random.key(0))


def test_a_level_is_that_of_the_nearest_severity_and_strong_is_small():
    made = method(same)
    c = np.cumprod(np.sqrt(1 - np.linspace(0.001, 0.2, 100)))
    np.testing.assert_allclose(made.severities, c)
    alpha = np.array([0.0, 0.0045, 0.05, 0.3, 0.72, 0.9999, 1.0])
    found = np.asarray(made.level(jnp.asarray(alpha, jnp.float32)))
    np.testing.assert_array_equal(found, np.abs(c - alpha[:, None]).argmin(1))
    assert found[0] == 99 and found[-1] == 0 and (np.diff(found) <= 0).all()


def test_levels_of_the_test_are_those_published():
    assert method(same).levels().tolist() == [99, 74, 49, 24]
    assert method(same, steps=5).levels().tolist() == [99, 79, 59, 39, 19]
    assert method(same, "multistep").levels().tolist() == [0, 25, 50, 75]


@pytest.mark.parametrize("kind", disyre.SCORES)
@pytest.mark.parametrize("side", [SIDE, 8])
def test_a_network_that_copies_finds_nothing(kind, side):
    b = batch()
    out = run(method(same, kind, side=side), b)
    np.testing.assert_allclose(out["map"], 0.0, atol=1e-6)
    np.testing.assert_allclose(out["reconstruction"], b["image"], atol=1e-6)


def shifted(params, x, t):
    """Moves by an amount that tells the level."""
    return x + params["shift"] * (1.0 + t.astype(jnp.float32))[:, None, None, None]


@pytest.mark.parametrize("weight", disyre.WEIGHTS)
def test_the_ensemble_is_the_mean_over_levels_of_the_slice_as_it_is(weight):
    b = batch()
    out = run(method(shifted, weight=weight), b, {"shift": jnp.float32(0.004)})
    brain = np.asarray(b["brain_mask"])
    share = 1.0 if weight == "none" else brain.mean()
    moved = 0.004 * np.mean([100, 75, 50, 25])
    np.testing.assert_allclose(out["map"], moved / 2 * share * brain, atol=1e-6)
    expected = np.where(brain[..., None], b["image"] + moved, b["image"])
    np.testing.assert_allclose(out["reconstruction"], expected, atol=1e-5)


def test_weights_of_windows_and_slices_differ_where_windows_are_used():
    b = batch()
    params = {"shift": jnp.float32(0.004)}
    maps = {w: run(method(shifted, weight=w, side=8), b, params)["map"] for w in disyre.WEIGHTS}
    brain = np.asarray(b["brain_mask"])
    np.testing.assert_allclose(maps["slice"], maps["none"] * brain.mean(), atol=1e-6)
    # A window in the middle holds brain alone, and counts in full.
    np.testing.assert_allclose(maps["window"][:, 8, 8], maps["none"][:, 8, 8], rtol=0.05)
    assert (maps["window"][:, 2, 3] < 0.8 * maps["none"][:, 2, 3]).all()


def test_multistep_follows_its_recursion():
    """A network that says p everywhere: x_i - p shrinks by the ratio of the severities."""
    b = batch()
    made = method(lambda p, x, t: jnp.broadcast_to(p, x.shape), "multistep", weight="none")
    out = run(made, b, jnp.float32(0.25))
    c = made.severities[[0, 25, 50, 75]]
    x, far = np.asarray(b["image"])[..., 0], []
    for i in range(4):
        far.append(np.abs(x - 0.25) / 2)
        x = 0.25 + (c[min(i + 1, 3)] / c[i]) * (x - 0.25)
    expected = np.mean(far, axis=0) * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], expected, atol=1e-6)


def test_multistep_tells_the_level_that_the_step_assumes():
    """The error left at level k is c_k times what it was: the network takes all of it away."""
    b = batch()
    table = jnp.asarray(method(same).severities, jnp.float32)
    healthy, lesion = b["image"], 0.1 * jnp.ones(b["image"].shape)

    def knows(params, x, t):
        return x - table[t][:, None, None, None] / table[0] * params

    made = method(knows, "multistep", weight="none")
    b["image"] = healthy + lesion
    out = run(made, b, lesion)
    brain = np.asarray(b["brain_mask"])[..., None]
    np.testing.assert_allclose(out["reconstruction"] * brain, healthy * brain, atol=1e-5)


def test_the_loss_is_the_error_of_the_clean_slice_at_the_level_of_the_anomaly():
    network, calls = stand_ins.denoiser()
    made, b = method(network), batch(8)
    params = {"x0": jnp.float32(0.0), "logit": jnp.float32(0.0)}
    loss, metrics, call = ask(made, calls, params, b, {})(jax.random.key(3))
    _, k_anomaly, _ = jax.random.split(jax.random.key(3), 3)
    draw = jax.jit(disentangled.draw, static_argnums=3)
    drawn = draw(k_anomaly, b["image"], b["brain_mask"], ANOMALIES)
    np.testing.assert_allclose(call["x"], drawn.images, atol=1e-6)
    np.testing.assert_array_equal(call["t"], made.level(drawn.severity))
    # A network that copies is left with the anomaly, and with nothing else: there is no noise.
    expected = np.square(np.asarray(drawn.images - b["image"])).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_over_copy"], 1.0, rtol=1e-5)


def test_training_sees_crops_of_larger_slices_and_validation_whole_ones():
    network, calls = stand_ins.denoiser()
    made, b = method(network, side=12), batch(4, 20)
    params = {"x0": jnp.float32(0.0), "logit": jnp.float32(0.0)}
    for train, side in ((True, 12), (False, 20)):
        asked = ask(made, calls, params, b, {}, train)
        assert jax.eval_shape(asked, jax.random.key(0))[2]["x"].shape == (4, side, side, 1)


def test_the_loss_goes_down():
    """Forty steps of a small U-Net on smooth slices: below what giving the input back costs."""
    settings = {"model_channels": 8, "channel_mult": (1,), "num_res_blocks": 1, "num_groups": 4}
    settings |= {"attention_rates": (), "num_heads": 1, "dropout": 0.0, "residual_x0": True}
    network = registry.denoiser(name="unet", size="XS", mask_head=False, out_channels=1, **settings)
    made, b = method(network), batch(16)
    optimizer = optax.adam(1e-2)
    params = made.init(jax.random.key(0), b)
    state, curve = optimizer.init(params), []

    @jax.jit
    def step(params, state, key):
        gradient, metrics = jax.grad(made.loss, has_aux=True)(params, {}, b, key)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, metrics["loss_over_copy"]

    for key in jax.random.split(jax.random.key(1), 40):
        params, state, ratio = step(params, state, key)
        curve.append(float(ratio))
    assert curve[0] == pytest.approx(1.0, abs=1e-3)
    assert np.mean(curve[-10:]) < 0.9, curve


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "sum"}, r"inference\.score: found 'sum', accepted: ensemble, multistep"),
        ({"weight": "all"}, r"inference\.weight: found 'all', accepted: window"),
        ({"steps": 101}, r"inference\.steps: found 101, accepted: 1 to 100"),
    ],
)
def test_bad_scores_are_named(options, said):
    with pytest.raises(errors.UserError, match=said):
        method(same, **options)
