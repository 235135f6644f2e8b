import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax import errors, optim


def _official(lr=4e-5, warmup=10, epochs=200, per_epoch=7):
    _, rate = optim.make_optimizer(
        lr=lr,
        schedule="official_epochs",
        warmup_epochs=warmup,
        epochs=epochs,
        steps_per_epoch=per_epoch,
    )
    return lambda epoch, within=0: float(rate(epoch * per_epoch + within))


def test_official_schedule_has_the_recorded_values():
    rate = _official()
    assert rate(0) == rate(0, 6) == 0.0
    np.testing.assert_allclose(rate(1), 4e-6, rtol=1e-6)
    np.testing.assert_allclose(rate(10), 4e-5, rtol=1e-6)
    np.testing.assert_allclose(rate(100), 2.67e-5, rtol=1e-3)
    np.testing.assert_allclose(rate(199), 3.06e-6, rtol=3e-3)


def test_official_schedule_is_constant_within_an_epoch():
    rate = _official()
    for epoch in (3, 50, 199):
        assert rate(epoch) == rate(epoch, 6) != rate(epoch + 1)


def test_official_schedule_equals_its_formula_in_float64():
    rate = _official()
    for epoch in range(200):
        want = (
            4e-5 * epoch / 10
            if epoch < 10
            else 4e-5 * 0.5 * (1 + math.cos(math.pi * (epoch - 10) / (240 - 10)))
        )
        np.testing.assert_allclose(rate(epoch), want, rtol=1e-5, atol=1e-12)


def test_official_schedule_counts_steps_beyond_float32():
    _, rate = optim.make_optimizer(
        lr=1.0, schedule="official_epochs", epochs=3, steps_per_epoch=2**24
    )
    # 2^25 - 1 rounds up to 2^25 in float32, which would be the next epoch.
    assert float(rate(2**25 - 1)) == float(rate(2**24)) > float(rate(2**25))


def test_warmup_cosine_by_hand():
    _, rate = optim.make_optimizer(
        lr=1e-3, schedule="warmup_cosine", warmup_steps=4, total_steps=12, final_lr_ratio=0.1
    )
    got = [float(rate(step)) for step in (0, 3, 4, 8, 12, 1000)]
    want = [2.5e-4, 1e-3, 1e-3, 1e-3 * (0.1 + 0.9 * 0.5), 1e-4, 1e-4]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_constant_without_warm_up():
    _, rate = optim.make_optimizer(lr=0.25, schedule="constant")
    assert float(rate(0)) == float(rate(10**9)) == 0.25


def _reference_adamw(p, grads, lr, wd, b1, b2, eps):
    """PyTorch's documented algorithm in float64 numpy: decay first, then the Adam step."""
    p = np.array(p, np.float64)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for i, g in enumerate(np.asarray(grads, np.float64), start=1):
        p *= 1 - lr * wd
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p -= lr * (m / (1 - b1**i)) / (np.sqrt(v / (1 - b2**i)) + eps)
    return p


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_adamw_decays_all_parameters_as_pytorch_does(shape):
    rng = np.random.default_rng(0)
    p0 = rng.normal(size=shape).astype(np.float32)
    grads = rng.normal(size=(20, *shape)).astype(np.float32)
    tx, _ = optim.make_optimizer(
        lr=0.05, schedule="constant", weight_decay=0.3, beta1=0.8, beta2=0.95, eps=1e-4
    )
    params = {"w": jnp.asarray(p0)}
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update({"w": jnp.asarray(g)}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    want = _reference_adamw(p0, grads, 0.05, 0.3, 0.8, 0.95, 1e-4)
    np.testing.assert_allclose(params["w"], want, rtol=2e-5, atol=2e-6)
    without = _reference_adamw(p0, grads, 0.05, 0.0, 0.8, 0.95, 1e-4)
    assert np.abs(want - without).max() > 1e-2


def _one_step(**kwargs):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2,))}
    tx, _ = optim.make_optimizer(lr=0.1, schedule="constant", **kwargs)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    return jax.tree.map(lambda u: float(jnp.abs(u).max()), updates)


def test_decay_mask():
    both = _one_step(weight_decay=0.5)
    np.testing.assert_allclose([both["kernel"], both["bias"]], 0.05, rtol=1e-6)
    one = _one_step(weight_decay=0.5, decay_mask="matrices")
    np.testing.assert_allclose([one["kernel"], one["bias"]], [0.05, 0.0], rtol=1e-6)


def test_clipping_scales_by_the_global_norm():
    """Adam forgets scale, so the clip is seen in the first moment."""
    tx, _ = optim.make_optimizer(lr=0.1, schedule="constant", grad_clip_norm=1.0, beta1=0.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = tx.update({"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)}, tx.init(params), params)
    mu = state[1][0].mu
    np.testing.assert_allclose([mu["a"][0], mu["b"][0]], [0.6, 0.8], rtol=1e-6)


def test_global_norm():
    assert float(optim.global_norm({"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)})) == 5.0


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({"name": "sgd"}, "name"),
        ({"schedule": "linear"}, "schedule"),
        ({"decay_mask": "none"}, "decay_mask"),
        ({"lr": -1.0}, "lr"),
        ({"name": "adam", "weight_decay": 0.1}, "weight_decay"),
        ({"warmup_steps": 5, "total_steps": 4}, "warmup_steps"),
        ({"schedule": "official_epochs", "warmup_epochs": 9, "epochs": 3}, "warmup_epochs"),
    ],
)
def test_bad_values_name_their_key(kwargs, key):
    with pytest.raises(errors.UserError, match=rf"^config\.optim\.{key}: found "):
        optim.make_optimizer(**{"lr": 1e-3, **kwargs})
