"""Networks on this machine: convolutions plain and as `convolution="auto"` has them.

    python -m benchmarks.convolution --repeats=5

kl-f8 encode and decode at 256 pixels, batch 1, and one pass of the U-Net L, batch 2; then the
derivatives by all parameters of both U-Nets (L and XS) and of kl-f8's encoder. Interleaved
repeats, medians of wall time and of CPU time (steadier on a busy machine); differences are the
largest between the two over the largest output.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from madad_jax.models import registry

WAYS = ("plain", "auto")


def compare(what: str, functions: dict[str, Callable], repeats: int, *inputs: jax.Array) -> None:
    """Prints one line; `functions` by way."""
    compiled = {way: jax.jit(f) for way, f in functions.items()}
    outs = {way: jax.block_until_ready(f(*inputs)) for way, f in compiled.items()}
    wall, cpu = ({way: [] for way in WAYS} for _ in range(2))
    for _ in range(repeats):
        for way, f in compiled.items():
            start, busy = time.perf_counter(), time.process_time()
            jax.block_until_ready(f(*inputs))
            wall[way].append(time.perf_counter() - start)
            cpu[way].append(time.process_time() - busy)
    plain, auto = ([np.asarray(leaf) for leaf in jax.tree.leaves(outs[way])] for way in WAYS)
    # Over the largest of all: some derivatives are 0 but for rounding (a bias before a GroupNorm).
    far = max(np.abs(a - b).max() for a, b in zip(plain, auto, strict=True))
    far /= max(np.abs(a).max() for a in plain)
    wall, cpu = ({way: statistics.median(v) for way, v in t.items()} for t in (wall, cpu))
    print(
        f"{what}: plain {wall['plain']:.3f} s, auto {wall['auto']:.3f} s, ratio "
        f"{wall['auto'] / wall['plain']:.2f} (CPU time {cpu['auto'] / cpu['plain']:.2f}), "
        f"largest difference {far:.0e}",
        flush=True,
    )


def drawn(params: dict) -> dict:
    """Heads and second convolutions start from zero: draw what is constant."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x if x.std() else x + 0.02 * rng.standard_normal(x.shape, np.float32), params
    )


def main() -> None:
    """Prints one line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    key = jax.random.key(0)
    nets = {way: registry.autoencoder(convolution=way) for way in WAYS}
    params = drawn(nets["plain"].init(key, (1, 64, 64, 1)))
    image = jax.random.uniform(key, (1, 256, 256, 1), minval=-1.0)
    latent = jax.random.normal(key, (1, 32, 32, 4))
    compare("kl-f8 encode", {w: n.encode for w, n in nets.items()}, repeats, params, image)
    compare("kl-f8 decode", {w: n.decode for w, n in nets.items()}, repeats, params, latent)
    denoisers = {way: registry.denoiser("unet", size="L", convolution=way) for way in WAYS}
    params = drawn(denoisers["plain"].init(key, (1, 32, 32, 4)))
    x, t = jax.random.normal(key, (2, 32, 32, 4)), np.arange(2, dtype=np.int32)
    compare("U-Net L", {w: d.apply for w, d in denoisers.items()}, repeats, params, x, t)
    compare("U-Net L, derivatives", _derivatives(denoisers), repeats, params, x, t)
    denoisers = {way: registry.denoiser("unet", size="XS", convolution=way) for way in WAYS}
    params = drawn(denoisers["plain"].init(key, (1, 32, 32, 4)))
    x, t = jax.random.normal(key, (4, 32, 32, 4)), np.arange(4, dtype=np.int32)
    compare("U-Net XS, batch 4, derivatives", _derivatives(denoisers), repeats, params, x, t)
    params = drawn(nets["plain"].init(key, (1, 64, 64, 1)))
    compare("kl-f8 encode, derivatives", _of_encode(nets), repeats, params, image)


def _derivatives(denoisers: dict[str, Any]) -> dict[str, Callable]:
    """By all parameters, of the summed squares of both heads."""

    def make(denoiser: Any) -> Callable:
        def loss(params: dict, x: jax.Array, t: jax.Array) -> jax.Array:
            return sum(jnp.square(y).sum() for y in denoiser.apply(params, x, t)[:2])

        return jax.grad(loss)

    return {way: make(d) for way, d in denoisers.items()}


def _of_encode(autoencoders: dict[str, Any]) -> dict[str, Callable]:
    """The same of the posterior's mean."""

    def make(network: Any) -> Callable:
        return jax.grad(lambda params, image: jnp.square(network.encode(params, image)[0]).sum())

    return {way: make(n) for way, n in autoencoders.items()}


if __name__ == "__main__":
    main()
