"""A DiT's training step with its blocks in a row and in a loop (`denoiser.scan`): two times each.

    python -m benchmarks.block_loop --size=S/2 --batch=8 --repeats=5

Compile time of the step from cached latents, and seconds a step: medians of interleaved repeats.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from configs import default
from madad_jax.assembly import parts
from madad_jax.devices import mesh
from madad_jax.experiment import compile_report


def main() -> None:
    """Prints one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="S/2")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    programs, compiling, states = {}, {}, {}
    for way, scan in (("row", False), ("loop", True)):
        c = default.get_config("paper")
        c.data.latents = "cached"
        c.denoiser.update(name="dit", size=args.size, dropout=0.0, scan=scan)
        c.train.batch_size = args.batch
        lowered = compile_report.denoiser_step(parts.assemble(c), mesh.make_mesh())[1]
        start = time.perf_counter()
        programs[way] = lowered.compile()
        compiling[way] = time.perf_counter() - start
        rng = np.random.default_rng(0)
        inputs = jax.tree.map(
            lambda s, rng=rng: (
                jax.random.key(0)
                if jax.dtypes.issubdtype(s.dtype, jax.dtypes.prng_key)
                else (0.02 * rng.standard_normal(s.shape)).astype(s.dtype)
            ),
            lowered.args_info[0],
        )
        state, *rest = jax.device_put(inputs)
        states[way] = [state, rest]
    seconds = {way: [] for way in programs}
    for _ in range(args.repeats + 1):
        for way, program in programs.items():
            state, rest = states[way]
            start = time.perf_counter()
            states[way][0], metrics = program(state, *rest)
            jax.block_until_ready(metrics)
            seconds[way].append(time.perf_counter() - start)
    for way, values in seconds.items():
        print(
            f"{args.size}, blocks in a {way}: compiled in {compiling[way]:.1f} s, a step of "
            f"{args.batch} takes {statistics.median(values[1:]):.3f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
