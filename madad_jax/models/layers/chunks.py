"""A function of a batch, a part of the batch at a time: memory is that of one part."""

from collections.abc import Callable
from typing import Any

import jax


def in_chunks(function: Callable[..., Any], chunk: int, *arrays: jax.Array) -> Any:
    """`function(*arrays)`, of arrays [b, ...] to arrays [b, ...], by parts of at most `chunk` rows.

    The parts are of equal size, the largest divisor of b up to `chunk`; 0 takes all at once, as
    does a batch whose size is free (in an export). Each part is every k-th row, so that a batch
    that is split over devices stays where it is. In a backward pass the parts are recomputed.
    """
    b = arrays[0].shape[0]
    if not chunk or not isinstance(b, int) or b <= chunk:
        return function(*arrays)
    # A divisor, because a last part of another size would be a second program.
    rows = next(n for n in range(chunk, 0, -1) if b % n == 0)
    # Row-major reshape and swap: part i holds rows i, i + k, ... of the batch.
    parts = [a.reshape(rows, b // rows, *a.shape[1:]).swapaxes(0, 1) for a in arrays]
    out = jax.lax.map(jax.checkpoint(lambda part: function(*part)), tuple(parts))
    return jax.tree.map(lambda y: y.swapaxes(0, 1).reshape(b, *y.shape[2:]), out)
