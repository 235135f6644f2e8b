"""Time of a linear map's gradients: one product of rows against a batched product.

    python -m benchmarks.linear_gradient [--rounds=15]

`layers.Linear` flattens everything before the last axis. Both forms have the same FLOPs, 6 m n k;
what differs is the kernel's gradient, a sum over one axis or over two. Interleaved rounds, medians
and the ratio of each pair, in milliseconds; shapes are those of the demo's DiT and of a DiT-S/2.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = ((16, 144, 128, 512), (16, 144, 512, 128), (8, 256, 384, 1536))


def batched(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[b, n, c] @ [c, d] as it stands."""
    return x @ kernel


def rows(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as one product of [b n, c]."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def gradients(form: Callable) -> Callable:
    """Compiled gradients of a sum of squares to both arguments."""
    return jax.jit(jax.grad(lambda x, w: jnp.square(form(x, w)).sum(), argnums=(0, 1)))


def seconds(f: Callable, *arguments: jax.Array) -> float:
    """One call, to the end of its work."""
    start = time.perf_counter()
    jax.block_until_ready(f(*arguments))
    return time.perf_counter() - start


def main() -> None:
    """Prints one line a shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    count = parser.parse_args().rounds
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {count} rounds")
    for b, n, c, d in SHAPES:
        key_x, key_w = jax.random.split(jax.random.key(0))
        x, w = jax.random.normal(key_x, (b, n, c)), jax.random.normal(key_w, (c, d))
        forms = [gradients(batched), gradients(rows)]
        for f in forms:
            jax.block_until_ready(f(x, w))
        times = np.array([[seconds(f, x, w) for f in forms] for _ in range(count)]) * 1e3
        ratio = np.median(times[:, 1] / times[:, 0])
        print(
            f"[{b},{n},{c}] @ [{c},{d}]: batched {np.median(times[:, 0]):.1f} ms, rows "
            f"{np.median(times[:, 1]):.1f} ms, rows / batched {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
