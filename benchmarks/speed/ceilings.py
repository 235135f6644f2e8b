"""What this machine gives at best, measured in the run whose figures are judged by it.

compute   2 n^3 / seconds of one large matrix product, in the type of the programs
memory    read and written bytes / seconds of one pass over an array far larger than any cache
launch    seconds a kernel of a program of many tiny dependent ones takes: what each one costs
          however little it does

A roofline (Williams et al. 2009) with a third roof: a program of F FLOPs, B bytes and K kernels
takes about max(F / compute, B / memory, K x launch), and the largest of the three is what bounds
it. B counts every kernel's operands and results as if nothing stayed in a cache: where B / memory
is more than the measured time, arrays do stay there, and memory is not what bounds the program.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.speed import timing
from madad_jax.devices import hlo_costs

_ROUNDS = 5
_LINKS = 64  # tiny kernels in the chain
_SIDES = {"cpu": (2048, 1 << 26), "gpu": (8192, 1 << 29), "tpu": (8192, 1 << 28)}


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """FLOP/s, bytes/s and seconds a kernel, the fastest of a few runs."""

    compute: float
    memory: float
    launch: float

    def floors(self, program: hlo_costs.Program) -> dict[str, float]:
        """{roof: seconds of one run of `program` under it}."""
        return {
            "compute": program.flops / self.compute,
            "memory": program.bytes / self.memory,
            "launch": program.kernels * self.launch,
        }


def measure(dtype: str, device: jax.Device) -> Ceilings:
    """The ceilings of one device for products of `dtype`."""
    side, length = _SIDES.get(device.platform, _SIDES["cpu"])
    with jax.default_device(device):
        a = jnp.ones((side, side), dtype)
        x = jnp.ones(length, jnp.float32)
        product = _fastest(jax.jit(jnp.matmul), a, a)
        copy = _fastest(jax.jit(lambda v: v + 1), x)
        tiny = jnp.full((8, 8), 0.125, jnp.float32)
        chain = _fastest(jax.jit(_chain), tiny)
    return Ceilings(2 * side**3 / product, 2 * x.nbytes / copy, chain / _LINKS)


def _chain(x: jax.Array) -> jax.Array:
    """Products that wait for each other; the mean over 8 of 8 x 8 keeps the numbers as they are."""
    for _ in range(_LINKS):
        x = x @ x
    return x


def _fastest(call: Callable[..., Any], *arguments: jax.Array) -> float:
    jax.block_until_ready(call(*arguments))
    runs = [timing.timed(lambda: jax.block_until_ready(call(*arguments))) for _ in range(_ROUNDS)]
    return min(run.seconds for run in runs)


def bound(floors: dict[str, float], seconds: float) -> str:
    """The roof that a program which took `seconds` stands under: the highest floor, without those
    of memory that the measured time shows to be too high."""
    possible = {k: v for k, v in floors.items() if k != "memory" or v <= seconds}
    return max(possible, key=possible.get)
