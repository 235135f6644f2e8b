"""kl-f8 encode and decode on this machine: convolutions plain and as `convolution="auto"` has them.

    python -m benchmarks.convolution --size=256 --repeats=7

Interleaved repeats, medians; differences are the largest between the two over the outputs' spread.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from madad_jax.models import registry


def main() -> None:
    """Prints one line for encode and one for decode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    nets = {c: registry.autoencoder(convolution=c) for c in ("plain", "auto")}
    key = jax.random.key(0)
    params = nets["plain"].init(key, (1, 64, 64, 1))
    image = jax.random.uniform(key, (args.batch, args.size, args.size, 1), minval=-1.0)
    latent = jax.random.normal(key, (args.batch, args.size // 8, args.size // 8, 4))
    for what, x in (("encode", image), ("decode", latent)):
        functions = {
            name: jax.jit(lambda p, x, n=n, what=what: getattr(n, what)(p, x))
            for name, n in nets.items()
        }
        outs = {name: jax.block_until_ready(f(params, x)) for name, f in functions.items()}
        wall = {name: [] for name in functions}
        cpu = {name: [] for name in functions}
        for _ in range(args.repeats):
            for name, f in functions.items():
                start, busy = time.perf_counter(), time.process_time()
                jax.block_until_ready(f(params, x))
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - busy)
        middle = {name: statistics.median(v) for name, v in wall.items()}
        busy = {name: statistics.median(v) for name, v in cpu.items()}
        plain, auto = ([np.asarray(leaf) for leaf in jax.tree.leaves(o)] for o in outs.values())
        far = max(np.abs(a - b).max() / a.std() for a, b in zip(plain, auto, strict=True))
        print(
            f"{what}: plain {middle['plain']:.3f} s, auto {middle['auto']:.3f} s, ratio "
            f"{middle['auto'] / middle['plain']:.2f} (CPU time {busy['auto'] / busy['plain']:.2f}),"
            f" largest difference {far:.0e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
