import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.methods.wrappers import ensemble


@dataclasses.dataclass(frozen=True)
class Method:
    """Maps that show the key and the side: columns count up, noise is added."""

    name: str = "stand-in"

    def init(self, key, batch_spec):
        return {"w": jnp.ones(())}

    def loss(self, params, frozen, batch, key, *, train=True):
        return params["w"] * (1.0 if train else 2.0), {}

    def anomaly_map(self, params, frozen, batch, key):
        image = batch["image"][..., 0]
        noise = 0.1 * jax.random.uniform(key, image.shape)
        left = jnp.arange(image.shape[2]) / image.shape[2] * jnp.ones_like(image)
        return {
            "map": 0.5 * left + noise,
            "mask_map": image * 0.5 + 0.25,
            "reconstruction": batch["image"] + noise[..., None],
            "rewritten": jnp.zeros((1, 2, 2)),
        }


def _batch():
    image = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    return {"image": image, "brain_mask": jnp.ones((2, 8, 8), bool)}


def _maps(**options):
    method = ensemble.Ensemble(Method(), **options)
    return jax.jit(method.anomaly_map)({}, {}, _batch(), jax.random.key(1))


def test_one_look_is_the_method_itself():
    got = _maps()
    alone = Method().anomaly_map({}, {}, _batch(), jax.random.key(1))
    for name in ("map", "mask_map", "reconstruction"):
        np.testing.assert_allclose(got[name], alone[name], rtol=1e-6)


def test_flips_are_mirrored_back_and_averaged():
    got = _maps(flips=True)
    ramp = np.arange(8) / 8 * 0.5
    expected = (ramp + ramp[::-1]) / 2
    noise = got["map"] - expected
    assert (noise >= -1e-6).all() and (noise <= 0.1 + 1e-6).all()
    image = _batch()["image"][..., 0]
    np.testing.assert_allclose(got["mask_map"], image * 0.5 + 0.25, rtol=1e-6)


def test_draws_are_averaged_over_keys():
    keys = jax.random.split(jax.random.key(1), 3)
    each = [Method().anomaly_map({}, {}, _batch(), k)["map"] for k in keys]
    np.testing.assert_allclose(_maps(draws=3)["map"], np.mean(each, 0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "geometric", "max"])
def test_signals_combined(kind):
    got = _maps(combine=kind)
    pair = np.stack([got["map"], got["mask_map"]]).astype(np.float64)
    direct = {"mean": pair.mean(0), "max": pair.max(0), "geometric": np.sqrt(pair.prod(0))}[kind]
    np.testing.assert_allclose(got["combined_map"], direct, rtol=1e-4)


def test_geometric_mean_of_nothing_is_nothing():
    signals = jnp.array([[[[0.0, 0.5]]], [[[1.0, 0.5]]]])
    got = ensemble.combine_maps(signals, "geometric")
    np.testing.assert_allclose(got, [[[0.0, 0.5]]], atol=1e-6)


def test_distance_over_looks():
    got = _maps(draws=6, combine="mahalanobis")
    keys = jax.random.split(jax.random.key(1), 6)
    batch = _batch()
    looks = np.stack([Method().anomaly_map({}, {}, batch, k)["reconstruction"] for k in keys])
    far = np.abs(batch["image"] - looks.mean(0)) / (looks.std(0) + 0.05)
    np.testing.assert_allclose(got["combined_map"], far[..., 0] / 4.0, rtol=1e-3)


def test_training_is_the_methods_own():
    method = ensemble.Ensemble(Method(), flips=True)
    assert method.name == "stand-in"
    key = jax.random.key(0)
    assert float(method.loss(method.init(key, {}), {}, {}, key)[0]) == 1.0
    assert float(method.loss({"w": jnp.ones(())}, {}, {}, key, train=False)[0]) == 2.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"draws": 0}, "ensemble.draws: found 0"),
        ({"combine": "sum"}, "ensemble.combine: found 'sum', accepted: none, mean"),
        ({"combine": "mahalanobis"}, "mahalanobis needs a spread"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(errors.UserError, match=words):
        ensemble.Ensemble(Method(), **options)
