import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from madad_jax.core import errors
from madad_jax.training import optimizer


def _official(lr=4e-5, warmup=10, epochs=200, per_epoch=7):
    _, rate = optimizer.make_optimizer(
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
    _, rate = optimizer.make_optimizer(
        lr=1.0, schedule="official_epochs", epochs=3, steps_per_epoch=2**24
    )
    # 2^25 - 1 rounds up to 2^25 in float32, which would be the next epoch.
    assert float(rate(2**25 - 1)) == float(rate(2**24)) > float(rate(2**25))


def test_warmup_cosine_by_hand():
    _, rate = optimizer.make_optimizer(
        lr=1e-3, schedule="warmup_cosine", warmup_steps=4, total_steps=12, final_lr_ratio=0.1
    )
    got = [float(rate(step)) for step in (0, 3, 4, 8, 12, 1000)]
    want = [2.5e-4, 1e-3, 1e-3, 1e-3 * (0.1 + 0.9 * 0.5), 1e-4, 1e-4]
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_constant_without_warm_up():
    _, rate = optimizer.make_optimizer(lr=0.25, schedule="constant")
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
    tx, _ = optimizer.make_optimizer(
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
    tx, _ = optimizer.make_optimizer(lr=0.1, schedule="constant", **kwargs)
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
    tx, _ = optimizer.make_optimizer(lr=0.1, schedule="constant", grad_clip_norm=1.0, beta1=0.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = tx.update({"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)}, tx.init(params), params)
    mu = state[1][0].mu
    np.testing.assert_allclose([mu["a"][0], mu["b"][0]], [0.6, 0.8], rtol=1e-6)


def _muon(steps, **options):
    """Updates of the last of some steps, and the gradients; the matrices are far from even."""
    rng = np.random.default_rng(3)
    tall, wide = (np.linalg.qr(rng.normal(size=(n, 6)))[0] for n in (9, 6))
    uneven = tall * np.geomspace(5.0, 0.25, 6) @ wide.T
    gradients = {
        "tall": np.tile(uneven, (steps, 1, 1)),
        "wide": np.tile(uneven.T, (steps, 1, 1)),
        "bias": rng.normal(size=(steps, 5)),
        "convolution": rng.normal(size=(steps, 3, 3, 2, 2)),
    }
    gradients = {k: jnp.asarray(v, jnp.float32) for k, v in gradients.items()}
    tx, _ = optimizer.make_optimizer(name="muon", lr=0.02, schedule="constant", **options)
    params = jax.tree.map(lambda g: jnp.ones(g.shape[1:]), gradients)
    return _last(tx, params, gradients), params, gradients


def _last(tx, params, gradients):
    state = tx.init(params)
    for i in range(len(next(iter(gradients.values())))):
        updates, state = tx.update(jax.tree.map(lambda g, i=i: g[i], gradients), state, params)
    return updates


def test_muon_orthogonalises_the_update_of_matrices():
    updates, _, gradients = _muon(steps=2, muon_lr_ratio=5.0)
    for name, width in (("tall", 1.0), ("wide", math.sqrt(9 / 6))):
        before = np.linalg.svd(np.asarray(gradients[name][0]), compute_uv=False)
        after = np.linalg.svd(np.asarray(updates[name]), compute_uv=False)
        assert before[0] / before[-1] > 19
        # The polynomial brings all singular values near 1, not to it: 0.7 to 1.2 or so.
        even = after / (0.02 * 5.0 * width)
        assert even.min() > 0.6 and even.max() < 1.3, (name, even)
        assert np.sum(np.asarray(updates[name] * gradients[name][0])) < 0


def test_muon_reads_a_convolution_as_a_matrix_of_inputs_by_outputs():
    updates, _, _ = _muon(steps=2)
    after = np.asarray(updates["convolution"]).reshape(18, 2)
    even = np.linalg.svd(after, compute_uv=False) / (0.02 * 10.0)
    assert even.min() > 0.6 and even.max() < 1.3, even


def test_parallel_maps_are_one_kernel_and_their_bias_is_none():
    """(in, parts, out) beside (parts, out): decay and muon treat them as the map to parts * out."""
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.standard_normal((6, 3, 4)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal((3, 4)), jnp.float32)
    parallel = {"qkv": {"kernel": kernel, "bias": bias}}
    plain = {"qkv": {"kernel": kernel.reshape(6, 12), "bias": bias.ravel()}}
    assert optimizer.decay_matrices(parallel) == {"qkv": {"kernel": True, "bias": False}}
    tx, _ = optimizer.make_optimizer(name="muon", lr=0.02, schedule="constant")
    ours, theirs = (tx.update(p, tx.init(p), p)[0]["qkv"] for p in (parallel, plain))
    for leaf in ("kernel", "bias"):
        np.testing.assert_allclose(ours[leaf].ravel(), theirs[leaf].ravel(), rtol=1e-5)


def test_muon_gives_all_else_adam_at_the_same_rate():
    options = {"beta1": 0.8, "beta2": 0.95, "eps": 1e-4}
    updates, params, gradients = _muon(steps=4, **options)
    adam = optax.adam(0.02, b1=0.8, b2=0.95, eps=1e-4, nesterov=True)
    expected = _last(adam, {"bias": params["bias"]}, {"bias": gradients["bias"]})
    np.testing.assert_allclose(updates["bias"], expected["bias"], rtol=1e-5)
    doubled, _, _ = _muon(steps=4, muon_lr_ratio=20.0, **options)
    np.testing.assert_allclose(doubled["tall"], 2 * updates["tall"], rtol=1e-5)
    np.testing.assert_array_equal(doubled["bias"], updates["bias"])


def test_muon_decays_all_parameters_at_their_own_rates():
    got = _one_step(name="muon", weight_decay=0.5, muon_lr_ratio=4.0)
    np.testing.assert_allclose([got["kernel"], got["bias"]], [0.2, 0.05], rtol=1e-6)


def test_unknown_optimizers_are_told_the_names():
    with pytest.raises(errors.UserError, match=r"found 'moun', accepted are adamw, adam, muon"):
        optimizer.make_optimizer(name="moun", lr=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "key"),
    [
        ({"name": "sgd"}, "name"),
        ({"schedule": "linear"}, "schedule"),
        ({"decay_mask": "none"}, "decay_mask"),
        ({"lr": -1.0}, "lr"),
        ({"name": "adam", "weight_decay": 0.1}, "weight_decay"),
        ({"name": "muon", "weight_decay": 0.1, "decay_mask": "matrices"}, "decay_mask"),
        ({"warmup_steps": 5, "total_steps": 4}, "warmup_steps"),
        ({"schedule": "official_epochs", "warmup_epochs": 9, "epochs": 3}, "warmup_epochs"),
    ],
)
def test_bad_values_name_their_key(kwargs, key):
    with pytest.raises(errors.UserError, match=rf"^config\.optim\.{key}: found "):
        optimizer.make_optimizer(**{"lr": 1e-3, **kwargs})
