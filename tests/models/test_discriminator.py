import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models import registry


def test_parameter_count_and_output_of_the_published_network():
    discriminator = registry.discriminator()
    shape = (1, 256, 256, 1)
    params = jax.eval_shape(lambda k: discriminator.init(k, shape), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 2_763_585
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert jax.eval_shape(discriminator.apply, params, image).shape == (1, 30, 30, 1)


def direct(params, x):
    """float64 NHWC with explicit loops."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    last = len([k for k in p if k.startswith("conv")]) - 1
    for n in range(last + 1):
        kernel, stride = p[f"conv_{n}"]["kernel"], 2 if n < last - 1 else 1
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows = range(0, x.shape[1] - 3, stride)
        out = [
            [np.einsum("bijc,ijcd->bd", x[:, r : r + 4, s : s + 4], kernel) for s in rows]
            for r in rows
        ]
        x = np.array(out).transpose(2, 0, 1, 3) + p[f"conv_{n}"].get("bias", 0.0)
        if 0 < n < last:
            norm = p[f"norm_{n}"]
            x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
            x = x * norm["scale"] + norm["bias"]
        if n < last:
            x = np.where(x > 0, x, 0.2 * x)
    return x


def test_forward_agrees_with_a_direct_computation():
    discriminator = registry.discriminator(channels=4, num_layers=2)
    rng = np.random.default_rng(0)
    template = discriminator.init(jax.random.key(0), (2, 16, 16, 1))
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), template)
    image = rng.standard_normal((2, 16, 16, 1)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(discriminator.apply)(params, jnp.asarray(image))
    assert ours.shape == (2, 2, 2, 1)
    np.testing.assert_allclose(ours, direct(params, image.astype(np.float64)), rtol=1e-4, atol=1e-4)


def test_published_initialisation():
    params = registry.discriminator(channels=16).init(jax.random.key(0), (1, 64, 64, 1))
    np.testing.assert_allclose(np.std(params["conv_2"]["kernel"]), 0.02, rtol=0.05)
    scale = np.asarray(params["norm_3"]["scale"])
    assert abs(scale.mean() - 1) < 0.01
    np.testing.assert_allclose(scale.std(), 0.02, rtol=0.25)


def test_image_too_small():
    with pytest.raises(errors.UserError, match=r"num_layers: .*16x64.*at least 24"):
        registry.discriminator().init(jax.random.key(0), (1, 16, 64, 1))
