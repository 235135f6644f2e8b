"""LPIPS against a direct computation with numpy on random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models.networks import lpips


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    arrays, channels = {}, 3
    for block, (indices, width) in enumerate(zip(lpips.BLOCKS, lpips.WIDTHS, strict=True)):
        for n in indices:
            shape = (width, channels, 3, 3)
            kernel = rng.standard_normal(shape) * np.sqrt(2 / (9 * channels))
            arrays[f"features.{n}.weight"] = kernel.astype(np.float32)
            arrays[f"features.{n}.bias"] = (0.1 * rng.standard_normal(width)).astype(np.float32)
            channels = width
        arrays[f"lin{block}.model.1.weight"] = rng.random((1, width, 1, 1)).astype(np.float32)
    return arrays


def direct(state, a, b):
    """[H, W, 3] float64 images -> distance, by nine shifted products, NCHW."""
    total, pair = 0.0, []
    for image in (a, b):
        x = (image - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        x, features = x.transpose(2, 0, 1), []
        for n in range(30):  # torchvision's vgg16.features: conv, relu, ..., pool at 4 9 16 23
            if n in (4, 9, 16, 23):
                c, h, w = x.shape
                x = x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))
            elif f"features.{n}.weight" in state:
                k, bias = state[f"features.{n}.weight"], state[f"features.{n}.bias"]
                _, h, w = x.shape
                padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
                x = bias[:, None, None] + sum(
                    np.tensordot(k[:, :, i, j], padded[:, i : i + h, j : j + w], axes=1)
                    for i in range(3)
                    for j in range(3)
                )
            else:
                x = np.maximum(x, 0)
                if n in (3, 8, 15, 22, 29):
                    features.append(x / (np.sqrt((x**2).sum(0, keepdims=True)) + 1e-10))
        pair.append(features)
    for block, (fa, fb) in enumerate(zip(*pair, strict=True)):
        line = state[f"lin{block}.model.1.weight"].reshape(-1, 1, 1)
        total += ((fa - fb) ** 2 * line).sum(0).mean()
    return total


def test_agrees_with_a_direct_computation(state):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(-1, 1, (2, 1, 16, 16, 1)).astype(np.float32)
    ours = jax.jit(lpips.distance)(lpips.prepare(state), jnp.asarray(a), jnp.asarray(b))
    assert ours.shape == (1, 1, 1, 1)
    wanted = direct(state, *(np.repeat(x[0], 3, -1).astype(np.float64) for x in (a, b)))
    np.testing.assert_allclose(ours.item(), wanted, rtol=2e-5)


def test_gradient_is_finite_where_features_vanish(state):
    dead = {k: np.where(k.endswith("bias"), -10.0, 0.0) * np.ones_like(v) for k, v in state.items()}
    weights = lpips.prepare(dead)
    image = jnp.ones((1, 16, 16, 1))
    gradient = jax.jit(jax.grad(lambda x, w: lpips.distance(w, x, image).sum()))(
        0.5 * image, weights
    )
    assert np.isfinite(gradient).all()


def test_own_names_of_lpips_are_read(state):
    renamed = {}
    for key, value in state.items():
        n = key.split(".")[1]
        slices = enumerate(lpips.BLOCKS, 1)
        inside = [k for k, block in slices if key.startswith("f") and int(n) in block]
        renamed[key.replace("features", f"net.slice{inside[0]}") if inside else key] = value
    assert set(renamed) != set(state)
    for ours, wanted in zip(
        jax.tree.leaves(lpips.prepare(renamed)), jax.tree.leaves(lpips.prepare(state)), strict=True
    ):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_names_what_does_not_fit(state, damage):
    broken = dict(state)
    broken["lin2.model.1.weight"] = np.zeros((1, 5, 1, 1), np.float32)
    if damage == "missing":
        del broken["lin2.model.1.weight"]
    with pytest.raises(errors.UserError, match=r"lin2\.model\.1\.weight"):
        lpips.prepare(broken)
