"""Multi-head attention with a choice of implementation.

softmax(q k^T / sqrt(d)) v, softmax statistics in float32.

- "chunked" (default): written out, normalised late (the division follows the product with v,
  on [n, d] and not on [n, n]). Beyond 256 tokens the queries go through in chunks of 128. The
  probabilities are recomputed in the backward pass and never stored. Fastest on CPU, any device.
- "xla": `jax.nn.dot_product_attention` without a fused kernel.
- "cudnn": the fused flash kernel; NVIDIA GPU, bfloat16 or float16, head sizes up to 128.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax import errors

IMPLEMENTATIONS = ("chunked", "xla", "cudnn")
WHOLE_LIMIT = 256  # tokens up to which all queries go at once
QUERY_CHUNK = 128


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
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def _chunked(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """[b, n, heads, d] each; heads are moved before tokens for plain batched products."""
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    b, heads, n, d = q.shape
    if n <= WHOLE_LIMIT:
        out = _late_softmax(q, k, v)
    else:
        # Only queries are padded, and cut off again: the softmax runs over keys.
        chunks = -(-n // QUERY_CHUNK)
        padded = jnp.pad(q, ((0, 0), (0, 0), (0, chunks * QUERY_CHUNK - n), (0, 0)))
        split = padded.reshape(b, heads, chunks, QUERY_CHUNK, d).transpose(2, 0, 1, 3, 4)
        out = jax.lax.map(lambda part: _late_softmax(part, k, v), split)
        out = out.transpose(1, 2, 0, 3, 4).reshape(b, heads, -1, d)[:, :, :n]
    return out.transpose(0, 2, 1, 3)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _late_softmax(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """One block of queries against all keys: [b, heads, n, d]; recomputed in the backward."""
    q = q * (1 / math.sqrt(q.shape[-1]))
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    mixed = jnp.einsum(
        "bhqk,bhkd->bhqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (mixed / total).astype(v.dtype)
