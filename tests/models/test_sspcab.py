"""The block against a direct computation, and what must not reach what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.models import registry
from madad_jax.models.layers import sspcab


def draw(block, x, seed=0):
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x))["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) / 2, shapes)


def predicted(block, params, x):
    """Sum of the corners and ReLU, pixel by pixel; no squeeze-excite."""
    height, width = x.shape[1:3]
    near, far = block.dilation + 1, block.dilation + block.side
    out = np.zeros((*x.shape[:3], x.shape[-1]))
    for name in sspcab.CORNERS:
        rows = range(-far, -near + 1) if "top" in name else range(near, far + 1)
        columns = range(-far, -near + 1) if "left" in name else range(near, far + 1)
        kernel = params[name]["kernel"]
        out += params[name]["bias"]
        for i, dr in enumerate(rows):
            for j, dc in enumerate(columns):
                for r in range(max(0, -dr), min(height, height - dr)):
                    for c in range(max(0, -dc), min(width, width - dc)):
                        out[:, r, c] += x[:, r + dr, c + dc] @ kernel[i, j]
    return np.maximum(out, 0)


@pytest.mark.parametrize(("side", "dilation"), [(1, 1), (2, 0)])
def test_block_is_the_direct_computation(side, dilation):
    block = sspcab.SSPCAB(side=side, dilation=dilation, reduction=2)
    x = np.random.default_rng(1).standard_normal((2, 6, 7, 4)).astype(np.float32)
    params = draw(block, jnp.asarray(x))
    out, penalty = block.apply({"params": params}, jnp.asarray(x))
    z = predicted(block, params, x)
    squeezed = z.mean((1, 2))
    h = np.maximum(squeezed @ params["excite_0"]["kernel"] + params["excite_0"]["bias"], 0)
    gate = 1 / (1 + np.exp(-(h @ params["excite_2"]["kernel"] + params["excite_2"]["bias"])))
    expected = z * gate[:, None, None]
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(penalty, np.square(expected - x).mean(), rtol=1e-5)


def test_a_pixel_and_its_row_and_column_do_not_reach_its_own_prediction():
    """Before squeeze-excite, whose mean over all pixels is made constant here."""
    block = sspcab.SSPCAB()
    x = jnp.asarray(np.random.default_rng(2).standard_normal((1, 7, 7, 3)), jnp.float32)
    params = draw(block, x)
    params["excite_0"] = jax.tree.map(jnp.zeros_like, params["excite_0"])

    def centre(x):
        return block.apply({"params": params}, x)[0][0, 3, 3].sum()

    reached = np.asarray(jnp.abs(jax.jit(jax.grad(centre))(x)).sum((0, 3))) > 0
    expected = np.zeros((7, 7), bool)
    expected[np.ix_([1, 5], [1, 5])] = True  # k' = d = 1: cells two away on both axes
    np.testing.assert_array_equal(reached & expected, reached)
    assert reached.any() and not reached[3].any() and not reached[:, 3].any()


TINY = {
    "size": None,
    "model_channels": 8,
    "num_heads": 1,
    "channel_mult": (1,),
    "num_res_blocks": 1,
    "attention_rates": (8,),
    "num_groups": 4,
    "dropout": 0.0,
}


def test_the_networks_penalty_is_returned_from_a_loop_too_and_off_by_default():
    x, t = jnp.ones((1, 8, 8, 2)), jnp.zeros(1, jnp.int32)
    plain = registry.denoiser("unet", **TINY)
    params = plain.init(jax.random.key(0), x.shape)
    assert not plain.has_penalty and "sspcab" not in params
    assert jax.eval_shape(plain.apply, params, x, t).penalty is None
    block = registry.denoiser("unet", **TINY, sspcab=True)
    params = block.init(jax.random.key(0), x.shape)
    assert "sspcab" in params

    @jax.jit
    def looped(params):
        def step(_, scale):
            return None, block.apply(params, scale * x, t)

        return jax.lax.scan(step, None, jnp.array([1.0, 2.0]))[1]

    found = looped(params)
    for i, scale in enumerate((1.0, 2.0)):
        alone = jax.jit(block.apply)(params, scale * x, t)
        np.testing.assert_allclose(found.penalty[i], alone.penalty, rtol=1e-5)
        np.testing.assert_allclose(found.x0[i], alone.x0, rtol=1e-5)
    assert 0 < float(found.penalty[0]) < float(found.penalty[1])
