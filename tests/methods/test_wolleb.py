import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.methods import wolleb
from madad_jax.synthesis import shapes
from tests.methods import stand_ins
from tests.methods.test_image_diffusion import PLAIN, SCHEDULE, batch, process

ABAR = SCHEDULE.alphas_cumprod


def method(eps, logit, **options):
    return wolleb.Wolleb(
        stand_ins.network(eps),
        stand_ins.classifier(logit),
        process("eps"),
        shapes.Options(),
        PLAIN,
        **{"level": 6} | options,
    )


def test_direction_is_the_gradient_of_the_classifiers_log_probability():
    """C = sigmoid(-w . x): its gradient is -w times P(unhealthy)."""
    x = batch()["image"]
    w = jnp.asarray(np.random.default_rng(0).normal(size=x.shape[1:]), jnp.float32) / 16
    made = method(lambda p, x, t: x, lambda p, x, t: (w * x).sum((1, 2, 3)))

    def healthy(x, t):
        return jax.nn.log_sigmoid(-(w * x).sum((1, 2, 3)))

    t = jnp.array([2, 7])
    found = jax.jit(lambda x: made.direction(healthy, x, t))(x)
    p = jax.nn.sigmoid((w * x).sum((1, 2, 3)))
    scale = np.sqrt(1 - ABAR[np.asarray(t)]) * np.asarray(p)
    np.testing.assert_allclose(found, -scale[:, None, None, None] * w, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 0.4])
def test_encoding_and_guided_decoding_are_the_published_recursions(scale):
    b = batch()
    w = 0.1

    def eps(params, x, t):
        return 0.3 * x + 0.02 * t.astype(jnp.float32)[:, None, None, None]

    made = method(eps, lambda p, x, t: w * x.sum((1, 2, 3)), scale=scale)
    weights = {"denoiser": {}, "classifier": {}}
    out = jax.jit(made.anomaly_map)(weights, {}, b, jax.random.key(0))
    x = np.asarray(b["image"], np.float64)
    for t in range(6):
        said = 0.3 * x + 0.02 * t
        x0 = np.clip((x - np.sqrt(1 - ABAR[t]) * said) / np.sqrt(ABAR[t]), -1, 1)
        said = (x - np.sqrt(ABAR[t]) * x0) / np.sqrt(1 - ABAR[t])
        x = np.sqrt(ABAR[t + 1]) * x0 + np.sqrt(1 - ABAR[t + 1]) * said
    for t in range(6, -1, -1):
        said = 0.3 * x + 0.02 * t
        x0 = np.clip((x - np.sqrt(1 - ABAR[t]) * said) / np.sqrt(ABAR[t]), -1, 1)
        said = (x - np.sqrt(ABAR[t]) * x0) / np.sqrt(1 - ABAR[t])
        unhealthy = 1 / (1 + np.exp(-w * x.sum((1, 2, 3), keepdims=True)))
        said = said + scale * np.sqrt(1 - ABAR[t]) * unhealthy * w
        x0 = np.clip((x - np.sqrt(1 - ABAR[t]) * said) / np.sqrt(ABAR[t]), -1, 1)
        before = ABAR[t - 1] if t else 1.0
        x = np.sqrt(before) * x0 + np.sqrt(1 - before) * said
    np.testing.assert_allclose(out["reconstruction"], x, atol=1e-3)


def test_without_guidance_a_consistent_network_gives_the_image_back():
    """Where the noise that is predicted does not change on the way, DDIM inverts itself."""
    made = method(lambda p, x, t: 0 * x + 0.2, lambda p, x, t: x.sum((1, 2, 3)), scale=0.0)
    b = batch()
    b["image"] = jnp.clip(b["image"], -0.8, 0.6)
    out = jax.jit(made.anomaly_map)({"denoiser": {}, "classifier": {}}, {}, b, jax.random.key(0))
    x0 = (np.asarray(b["image"]) - np.sqrt(1 - ABAR[0]) * 0.2) / np.sqrt(ABAR[0])
    np.testing.assert_allclose(out["reconstruction"], x0, atol=1e-4)


def test_half_of_a_batch_is_made_unhealthy_and_told_apart():
    """A classifier that sees what was changed is always right."""
    b = batch(32)

    def logit(params, x, t):
        clean = jnp.asarray(b["image"])
        return jnp.where(jnp.abs(x - clean).max((1, 2, 3)) > 1e-3, 20.0, -20.0)

    made = method(lambda p, x, t: 0 * x, logit)
    # No noise at all: the schedule keeps the image.
    still = dataclasses.replace(SCHEDULE, betas=np.full(20, 1e-12))
    made = dataclasses.replace(made, process=dataclasses.replace(made.process, schedule=still))
    weights = {"denoiser": {}, "classifier": {}}
    _, metrics = jax.jit(made.loss)(weights, {}, b, jax.random.key(1))
    assert float(metrics["classifier_accuracy"]) > 0.9
    assert float(metrics["classifier_loss"]) < 2.5


def test_labels_of_the_batch_are_learnt_when_there_are_some():
    """A classifier that always says w is right by the label alone; the image stays as it is."""
    seen = []

    def eps(params, x, t):
        seen.append(x)
        return 0 * x

    made = method(eps, lambda p, x, t: jnp.full(len(x), 3.0), labels="split")
    assert made.name == "wolleb (slices labelled)"
    weights = {"denoiser": {}, "classifier": {}}
    b = batch()
    right = [
        float(made.loss(weights, {}, b | {"unhealthy": jnp.full(2, sick)}, jax.random.key(0))[1][k])
        for sick in (True, False)
        for k in ("classifier_accuracy", "classifier_loss")
    ]
    assert right[0] == 1 and right[2] == 0
    np.testing.assert_allclose(right[1::2], np.logaddexp(0, [-3.0, 3.0]), rtol=1e-5)
