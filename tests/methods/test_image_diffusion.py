"""Methods that denoise whole images, on networks that can be written down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from madad_jax.anomaly_maps import difference, morphology, structure
from madad_jax.diffusion import noise, partial, schedule
from madad_jax.methods import anoddpm, autoddpm, ddpm, thor
from tests.methods import stand_ins

SIDE = 16
SCHEDULE = schedule.make_schedule("linear", 20)
PLAIN = difference.Residual("l1", 0.0, 0.0, True)


def batch(count=2, seed=0):
    draw = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(draw.uniform(-1, 1, (count, SIDE, SIDE, 1)), (0, 1, 1, 0))
    brain = np.zeros((count, SIDE, SIDE), bool)
    brain[:, 2:14, 2:14] = True
    image = np.where(brain[..., None], np.clip(3 * image, -0.8, 0.8), -1.0)
    return {"image": jnp.asarray(image, jnp.float32), "brain_mask": jnp.asarray(brain)}


def process(predicts="x0", kind="gaussian"):
    return partial.Process(SCHEDULE, noise.Noise(kind, frequency=8.0), predicts)


def constant(params, x, t):
    return jnp.broadcast_to(params, x.shape)


def run(method, params, b, frozen=None, seed=0):
    return jax.jit(method.anomaly_map)(params, frozen or {}, b, jax.random.key(seed))


@pytest.mark.parametrize("cls", [ddpm.Ddpm, anoddpm.AnoDdpm])
def test_the_map_is_the_difference_from_what_the_network_paints(cls):
    """A network that always says 0.5 paints 0.5, from whatever noise."""
    made = cls(stand_ins.network(constant), process(), PLAIN, reverse=partial.Reverse(12, 3, 1.0))
    b = batch()
    out = run(made, jnp.float32(0.5), b)
    np.testing.assert_allclose(out["reconstruction"], 0.5, atol=1e-6)
    expected = np.abs(np.asarray(b["image"])[..., 0] - 0.5) / 2 * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], expected, atol=1e-6)


def test_anoddpm_trains_on_simplex_noise():
    """The loss of a network that says nothing is the mean square of the noise."""
    zero = stand_ins.network(lambda p, x, t: 0.0 * x)
    b, losses = batch(8), {}
    for kind in ("gaussian", "simplex"):
        made = anoddpm.AnoDdpm(zero, process("eps", kind), PLAIN)
        losses[kind] = float(jax.jit(made.loss)({}, {}, b, jax.random.key(0))[0])
    assert abs(losses["gaussian"] - 1) < 0.15 and 0.05 < losses["simplex"] < 0.8


def test_thor_harmonises_by_the_formula():
    """m, its closing and dilation and the mixture, by SciPy."""
    b = batch()
    x, x0 = b["image"], jnp.clip(b["image"] + 0.3 * batch(seed=4)["image"], -1, 1)
    made = thor.Thor(stand_ins.network(constant), process(), PLAIN, window=3)
    m = np.asarray(jax.jit(made.difference)({}, x0, x))
    apart = np.clip(np.asarray(structure.dissimilarity(x0, x)), 0, 1)
    expected = np.abs(x0 - x)[..., 0] * ndimage.gaussian_filter(apart, (0, 2, 2))
    expected = expected / expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(m, expected, atol=2e-5)
    np.testing.assert_allclose(m.max((1, 2)), 1.0, atol=1e-6)
    mixed = np.asarray(jax.jit(thor.harmonise, static_argnums=3)(jnp.asarray(m), x0, x, 3))
    for i in range(2):
        wide = ndimage.grey_dilation(ndimage.grey_closing(m[i], size=3), size=3)
        cd = (wide + m[i])[..., None] / 2
        np.testing.assert_allclose(mixed[i], cd * x0[i] + (1 - cd) * x[i], atol=1e-5)


def test_thor_scores_the_harmonic_mean_of_its_levels():
    """A network whose estimate is a + b t: m at the harmonised levels is known in full."""

    def says(params, x, t):
        del params
        base = jnp.broadcast_to(jnp.linspace(-0.5, 0.5, SIDE)[None, :, None, None], x.shape)
        return base + 0.02 * t.astype(jnp.float32)[:, None, None, None]

    b = batch()
    made = thor.Thor(
        stand_ins.network(says),
        process(),
        PLAIN,
        reverse=partial.Reverse(12, 0),
        harmonise=(9, 3),
        window=3,
    )
    out = run(made, {}, b)
    ms = []
    for t in (9, 3):
        x0 = says({}, b["image"], jnp.full(2, t))
        ms.append(np.maximum(np.asarray(made.difference({}, x0, b["image"])), 1e-4))
    expected = 2 / (1 / ms[0] + 1 / ms[1]) * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], expected, atol=1e-4)
    np.testing.assert_allclose(out["reconstruction"], says({}, b["image"], jnp.zeros(2)), atol=1e-4)
    assert made.flags(np.array([12, 8, 4, 0])).tolist() == [False, True, True, False]


def test_autoddpm_keeps_what_is_not_suspicious():
    """Outside the mask the image comes back to the bit; inside it is painted anew."""
    inpainting = autoddpm.Inpainting(start=6, steps=3, resamplings=2, threshold=0.2, dilation=3)
    made = autoddpm.AutoDdpm(
        stand_ins.network(constant),
        process(),
        PLAIN,
        reverse=partial.Reverse(10, 2),
        inpainting=inpainting,
    )
    b = batch()
    out = run(made, jnp.float32(0.1), b)
    x, x_hat = np.asarray(b["image"]), np.full((2, SIDE, SIDE, 1), 0.1, np.float32)
    residual = np.abs(x_hat - x)[..., 0]
    high = np.quantile(residual, 0.95, axis=(1, 2), keepdims=True)
    apart = np.asarray(structure.dissimilarity(jnp.asarray(x_hat), b["image"]))
    s = apart * np.clip(residual / high, 0, 1)
    mask = np.asarray(morphology.dilate(jnp.asarray((s > 0.2) * 1.0, jnp.float32), 3)) > 0
    assert 0.05 < mask.mean() < 0.98
    found = np.asarray(out["reconstruction"])[..., 0]
    np.testing.assert_allclose(found[~mask], x[..., 0][~mask], atol=1e-5)
    np.testing.assert_allclose(found[mask], 0.1, atol=1e-5)
    expected = np.abs(found - x[..., 0]) / 2 * s * np.asarray(b["brain_mask"])
    np.testing.assert_allclose(out["map"], expected, atol=1e-4)


def test_autoddpm_resamples_as_often_as_told():
    """What the network is asked, counted outside the program."""
    asked = []

    def counting(params, x, t):
        jax.debug.callback(lambda t: asked.append(int(t)), t[0])
        return constant(params, x, t)

    inpainting = autoddpm.Inpainting(start=6, steps=3, resamplings=4)
    made = autoddpm.AutoDdpm(
        stand_ins.network(counting), process(), PLAIN, partial.Reverse(10, 2), inpainting
    )
    jax.block_until_ready(run(made, jnp.float32(0.1), batch()))
    jax.effects_barrier()
    assert sorted(asked) == sorted([10, 0, *[6, 3, 0] * 4])


def test_autoddpm_takes_the_percentile_where_no_threshold_is_given():
    options = autoddpm.Inpainting(threshold=0.0, dilation=1)
    made = autoddpm.AutoDdpm(stand_ins.network(constant), process(), PLAIN, inpainting=options)
    s = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 20, 20)), jnp.float32)
    np.testing.assert_allclose(made.mask(s).mean((1, 2)), 0.05, atol=1e-6)
