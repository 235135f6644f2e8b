"""Suite `growth`: how time, memory and FLOPs of the three hottest programs grow, and what bounds
each.

Exponents are fitted by least squares of log(value) over log(size): 1 over the batch is linear, 2
over the side is linear in the number of pixels and tokens, 4 quadratic in tokens. The roofline
statement is of the largest size (ceilings.py). CPU time is steadier than time where other programs
run beside; on an accelerator it is the host's.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.speed import ceilings, ours, results, timing
from benchmarks.speed import context as context_lib
from madad_jax.assembly import methods
from madad_jax.core import units


def programs(
    context: context_lib.Context,
) -> tuple[str, dict[str, Callable[[Any, int], ours.Job]]]:
    """(network, {program: job by config and batch}) of the three hottest programs."""
    latents = methods.stands_on_latents(context.config)
    network = context.options.networks[0] if latents else "own"
    label = context_lib.label(context.config, network)
    found: dict[str, Callable[[Any, int], ours.Job]] = {
        f"training step ({label})": _step,
        f"image to anomaly map ({label})": ours.anomaly_map,
    }
    if latents:
        found["encoding"] = functools.partial(_part, "encode")
    return network, found


def rows(context: context_lib.Context) -> context_lib.Rows:
    """Each program over the batch and over the image's side."""
    o, found = context.options, {}
    network, hottest = programs(context)
    axes = {"batch": tuple(o.growth_batch_sizes), "side": tuple(o.growth_sides)}
    for what, make in hottest.items():
        for axis, sizes in axes.items():
            name = f"{what} over {axis} {', '.join(map(str, sizes))}"
            found[name] = functools.partial(_measure, context, name, network, make, axis, sizes)
    return found


def _step(config: Any, batch: int) -> ours.Job:
    config.train.accum_steps = 1
    if methods.stands_on_latents(config):
        config.data.latents = "cached"
        config.synthesis.share = 0.0
    return ours.train_step(config, batch)


def _part(part: str, config: Any, batch: int) -> ours.Job:
    return ours.autoencoder(config, part, batch)


def _measure(
    context: context_lib.Context,
    name: str,
    network: str,
    make: Callable[[Any, int], ours.Job],
    axis: str,
    sizes: tuple[int, ...],
) -> results.Row:
    row, roofs = results.Row(name), context.ceilings
    points: dict[str, list[float]] = {
        name: [] for name in ("time", "CPU time", "temporaries", "FLOPs", "bytes")
    }
    for size in sizes:
        config = context_lib.with_network(context.config, network)
        if axis == "side":
            config.data.image_size = size
        job = make(config, size if axis == "batch" else 1)
        taken = timing.interleave({"ours": job.timed}, repeats=3)["ours"]
        points["time"].append(statistics.median(s.seconds for s in taken))
        points["CPU time"].append(statistics.median(s.cpu_seconds for s in taken))
        points["temporaries"].append(job.costs.temp)
        points["FLOPs"].append(job.flops)
        points["bytes"].append(job.costs.program.bytes)
    shown = {
        "time": results.one,
        "CPU time": results.one,
        "temporaries": units.human,
        "FLOPs": lambda v: f"{v / 1e9:.1f} G",
        "bytes": lambda v: f"{v / 1e9:.2f} GB",
    }
    for what, values in points.items():
        steps = ", ".join(shown[what](v) for v in values)
        row.figures[what] = f"{axis}^{timing.exponent(sizes, values):.2f} ({steps})"
    row.figures["bound by"] = statement(job, points["time"][-1], roofs)
    row.program = results.costs(job, points["time"][-1], roofs)
    return row


def statement(job: ours.Job, seconds: float, roofs: ceilings.Ceilings) -> str:
    """The roofline statement of one program."""
    floors = results.job_floors(job, roofs)
    name = ceilings.bound(floors, seconds)
    parts = ", ".join(f"{k} {results.one(v)}" for k, v in floors.items())
    said = (
        f"{name}: a run takes {results.one(seconds)}, under the roofs {parts}; "
        f"{100 * floors[name] / seconds:.0f} % of the {name} ceiling is reached"
    )
    cached = floors["memory"] > seconds
    return said + "; memory's is too high, so arrays stay in the caches" * cached
