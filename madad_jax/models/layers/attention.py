"""Multi-head attention with a choice of implementation.

softmax(q k^T / sqrt(d)) v, softmax statistics in float32.

- "chunked" (default): written out, normalised late (the division follows the product with v,
  on [n, d] and not on [n, n]). Beyond 256 tokens the queries go through in chunks of 128. The
  probabilities are recomputed in the backward pass and never stored. Fastest on CPU, any device.
  Derivatives in reverse mode alone beyond 256 tokens.
- "xla": `jax.nn.dot_product_attention` without a fused kernel.
- "cudnn": the fused flash kernel; NVIDIA GPU, bfloat16 or float16, head sizes up to 128.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.core import errors, messages

IMPLEMENTATIONS = ("chunked", "xla", "cudnn")
WHOLE_LIMIT = 256  # tokens up to which all queries go at once
QUERY_CHUNK = 128
_TURN_BELOW = 128  # head sizes


def check_implementation(key: str, implementation: str) -> None:
    """Raises `UserError` when `implementation` is unknown."""
    if implementation not in IMPLEMENTATIONS:
        accepted = ", ".join(IMPLEMENTATIONS)
        raise errors.UserError(f"{key}: found {implementation!r}, accepted are {accepted}")


def attend(
    q: Float[jax.Array, "b n heads d"],
    k: Float[jax.Array, "b m heads d"],
    v: Float[jax.Array, "b m heads d"],
    implementation: str = "chunked",
) -> Float[jax.Array, "b n heads d"]:
    """Attention of every head by itself; scale 1/sqrt(d), no mask.

    Raises:
        UserError: the implementation is unknown, or the device cannot run it on these arrays.
    """
    check_implementation("attention", implementation)
    if implementation == "chunked":
        return _chunked(q, k, v)
    if implementation == "cudnn" and q.dtype == jnp.float32:
        raise errors.UserError(
            'attention: "cudnn" does not compute in float32; set dtype="bfloat16", or use '
            '"chunked" or "xla"'
        )
    try:
        return jax.nn.dot_product_attention(q, k, v, implementation=implementation)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if implementation != "cudnn":
            raise
        # Found while tracing: no cuDNN, another kind of device, a head size without a kernel.
        reason = messages.shorten(str(error).strip() or type(error).__name__)
        raise errors.UserError(
            f'attention: "cudnn" cannot run here: {reason}; use "chunked" or "xla", with which '
            "the weights are the same"
        ) from error


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """[b, n, heads, d] each; heads are moved before tokens for plain batched products."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    # The length is static: each program holds one of the two forms.
    attend_all = _late_softmax if q.shape[2] <= WHOLE_LIMIT else _in_chunks
    return attend_all(q, k, v).transpose(0, 2, 1, 3)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _late_softmax(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """All queries against all keys: [b, heads, n, d]; recomputed in the backward."""
    return _mix_values(q, k, v)[0]


def _mix_values(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(softmax of the scores times v, log of the sum of their exponentials [b, heads, n, 1])."""
    logits = _scores(q * (1 / math.sqrt(q.shape[-1])), k)
    # The maximum cancels in the result: its gradient is 0 and not worth computing.
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    # In v's type, with float32 sums; for float32 the cast is nothing.
    mixed = _product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)
    return (mixed / total).astype(v.dtype), top + jnp.log(total)


@jax.custom_vjp
def _in_chunks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """`_late_softmax` for some queries after the other."""
    return _in_chunks_forward(q, k, v)[0]


def _in_chunks_forward(q, k, v):
    out, log_total = (
        _join_parts(x, q.shape[2])
        for x in jax.lax.map(lambda part: _mix_values(part, k, v), _split_queries(q))
    )
    return out, (q, k, v, out, log_total)


def _in_chunks_backward(saved, g):
    """The probabilities come from what the forward pass left of them, `log_total`; with
    w = p (g v^T - sum(g out)), dq = w k, dk = w^T q and dv = p^T g (Dao et al., arXiv 2205.14135).
    """
    q, k, v, out, log_total = saved
    scale = 1 / math.sqrt(q.shape[-1])
    inner = jnp.sum(g.astype(jnp.float32) * out, axis=-1, keepdims=True)

    def add(totals, part):
        q, g, log_total, inner = part
        q = q * scale
        weights = jnp.exp(_scores(q, k) - log_total)
        of_logits = (weights * (_scores(g, v) - inner)).astype(q.dtype)
        dq = _product("bhqk,bhkd->bhqd", of_logits, k) * scale
        # Small operand first and the sum over queries turned, [d, k]: the other way round XLA's
        # CPU code transposes the large operand, at a tenth of the speed.
        dk = _product("bhqd,bhqk->bhdk", q, of_logits)
        dv = _product("bhqd,bhqk->bhdk", g, weights.astype(g.dtype))
        return (totals[0] + dk, totals[1] + dv), dq.astype(q.dtype)

    # Totals in float32 whatever the inputs are: they add up over all chunks.
    zeros = tuple(jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (k, v))
    parts = tuple(_split_queries(x) for x in (q, g, log_total, inner))
    (dk, dv), dq = jax.lax.scan(add, zeros, parts)
    dk, dv = dk.swapaxes(2, 3).astype(k.dtype), dv.swapaxes(2, 3).astype(v.dtype)
    return _join_parts(dq, q.shape[2]), dk, dv


_in_chunks.defvjp(_in_chunks_forward, _in_chunks_backward)


def _product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """q k^T, float32. Short rows of k (many heads) are turned first, once for all chunks."""
    if k.shape[-1] < _TURN_BELOW and k.shape[2] > WHOLE_LIMIT:
        return _product("bhqd,bhdk->bhqk", q, k.swapaxes(2, 3))
    return _product("bhqd,bhkd->bhqk", q, k)


def _split_queries(x: jax.Array) -> jax.Array:
    """[b, heads, n, d] -> [chunks, b, heads, QUERY_CHUNK, d], filled up with zeros: the softmax
    runs over keys, and what comes of these queries is cut off or 0."""
    b, heads, n, d = x.shape
    # Chunks come first: `lax.map` and `lax.scan` run over the leading axis.
    chunks = -(-n // QUERY_CHUNK)
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, chunks * QUERY_CHUNK - n), (0, 0)))
    return padded.reshape(b, heads, chunks, QUERY_CHUNK, d).transpose(2, 0, 1, 3, 4)


def _join_parts(parts: jax.Array, n: int) -> jax.Array:
    """Turns `_split_queries` round."""
    chunks, b, heads, queries, d = parts.shape
    return parts.transpose(1, 2, 0, 3, 4).reshape(b, heads, chunks * queries, d)[:, :, :n]
