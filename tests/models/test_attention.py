import jax
import jax.numpy as jnp
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.models.layers import attention

chunked = jax.jit(attention.attend)


def qkv(n, m=None, heads=2, d=8, scale=1.0):
    keys = jax.random.split(jax.random.key(n), 3)
    sizes = (n, m or n, m or n)
    return [
        scale * jax.random.normal(k, (2, s, heads, d)) for k, s in zip(keys, sizes, strict=True)
    ]


def direct(q, k, v):
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


# Below the limit of one piece, above it, and above it with a remainder of the chunk.
@pytest.mark.parametrize("n", [5, 257, 384])
@pytest.mark.parametrize("implementation", ["chunked", "xla"])
def test_values(n, implementation):
    q, k, v = qkv(n)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(attention.attend, static_argnums=3)(q, k, v, implementation)
    np.testing.assert_allclose(ours, direct(q, k, v), atol=2e-6)


@pytest.mark.parametrize("n", [16, 300])
def test_gradients_of_chunked_equal_those_of_xla(n):
    q, k, v = qkv(n)
    target = jax.random.normal(jax.random.key(9), q.shape)

    def gradients(implementation):
        def loss(q, k, v):
            return (attention.attend(q, k, v, implementation) * target).sum()

        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for ours, wanted in zip(gradients("chunked"), gradients("xla"), strict=True):
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(ours, wanted, atol=5e-6)


# Heads of 128 are those whose keys are not turned.
@pytest.mark.parametrize("sizes", [(3, 7, 2, 8), (270, 300, 2, 8), (257, 257, 1, 128)])
def test_more_keys_than_queries_and_large_heads(sizes):
    q, k, v = qkv(*sizes)
    np.testing.assert_allclose(chunked(q, k, v), direct(q, k, v), atol=3e-6)
    ours, wanted = (
        jax.jit(jax.grad(lambda *a, i=i: jnp.square(attention.attend(*a, i)).sum(), (0, 1, 2)))(
            q, k, v
        )
        for i in ("chunked", "xla")
    )
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_gradients_in_bfloat16():
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv(300))

    def loss(*inputs):
        return jnp.square(attention.attend(*inputs).astype(jnp.float32)).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))
    ours = gradients(q, k, v)
    wanted = gradients(*(x.astype(jnp.float32) for x in (q, k, v)))
    for a, b in zip(ours, wanted, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(np.float32), b, atol=0.03 * np.abs(b).max())


def test_large_logits_do_not_overflow():
    q, k, v = qkv(8, scale=60.0)
    np.testing.assert_allclose(chunked(q, k, v), direct(q, k, v), atol=1e-2)


def test_bfloat16_in_and_out():
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv(300))
    ours = chunked(q, k, v)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(np.float32), direct(q, k, v), atol=0.02)


def test_unknown_implementation():
    with pytest.raises(errors.UserError, match=r"'flash'.*chunked, xla, cudnn"):
        attention.attend(*qkv(4), "flash")


def test_cudnn_where_there_is_none_is_one_line():
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv(4))
    if jax.default_backend() == "gpu":
        pytest.skip("there is cuDNN here")
    with pytest.raises(errors.UserError, match=r'"cudnn" cannot run here: .*"chunked" or "xla"'):
        attention.attend(q, k, v, "cudnn")


def test_cudnn_refuses_float32_by_name():
    with pytest.raises(errors.UserError, match=r"cudnn.*float32"):
        attention.attend(*qkv(4), "cudnn")
