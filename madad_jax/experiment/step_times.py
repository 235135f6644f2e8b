"""How long each program of a run takes on this machine: compiled as a run does, and run."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from madad_jax.assembly import parts as parts_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import compile_report


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds to compile a program, and of its fastest run."""

    compile: float
    run: float


def measure(parts: parts_lib.Parts, repeats: int = 3) -> dict[str, Timing]:
    """{program: times}, of every training step and of a batch of images to maps.

    The arguments are made up: what a program takes does not depend on their values.

    Args:
      parts: of the run.
      repeats: runs of each, after one that does not count.

    Raises:
      UserError: a program cannot be built.
    """
    mesh = mesh_lib.make_mesh(**parts.mesh)
    found = {}
    for name, lowered in compile_report.programs(parts, mesh):
        started = time.monotonic()
        compiled = lowered.compile()
        spent = time.monotonic() - started
        runs = [_run(compiled) for _ in range(repeats + 1)]
        found[name] = Timing(spent, min(runs[1:]))
    return found


def _run(compiled: Any) -> float:
    # Made anew each time: a training step takes its state's memory for its own.
    infos, shape = jax.tree.flatten(compiled.args_info)
    # By the arguments' own shape: what the program does not read has None for its place.
    places = shape.flatten_up_to(compiled.input_shardings)
    made = [
        _made_up(info) if place is None else jax.device_put(_made_up(info), place)
        for info, place in zip(infos, places, strict=True)
    ]
    arguments, keywords = jax.tree.unflatten(shape, made)
    jax.block_until_ready(arguments)
    started = time.monotonic()
    jax.block_until_ready(compiled(*arguments, **keywords))
    return time.monotonic() - started


def _made_up(info: Any) -> jax.Array:
    """Ones, so that masks are full and nothing is divided by 0; a key for a key."""
    if jax.dtypes.issubdtype(info.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.ones(info.shape, info.dtype)
