"""Suite `profile`: where the time of the three hottest programs goes, by kind of kernel.

One run of each under JAX's profiler. Every event that names an operation of the compiled program
is added to its kind, which the program's text tells: a fusion with a product in it is a product.
Loops and calls are left out, because what they run has events of its own. On several cores the
shares are of the kernels' time on all threads.
"""

import collections
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from benchmarks.speed import context as context_lib
from benchmarks.speed import ours, results, timing
from benchmarks.speed.suites import growth
from madad_jax.devices import hlo_costs

# In this order: a fusion of several counts as the first. What the text calls a custom call is one
# of a library; on an accelerator most products and convolutions are.
KINDS = (
    ("convolutions", ("convolution",)),
    ("matrix products", ("dot",)),
    ("library calls", ("custom-call",)),
    ("with exponentials (softmax, SiLU)", ("exponential", "tanh", "logistic")),
    ("random numbers", ("rng", "rng-bit-generator", "shift-right-logical")),
    ("reductions", ("reduce", "reduce-window")),
    ("other elementwise", ("add", "multiply", "subtract", "divide", "maximum", "select")),
    ("copies", ("copy", "transpose", "concatenate", "pad", "slice", "broadcast", "convert")),
)
_CONTAINERS = {"while", "call", "conditional"}


def rows(context: context_lib.Context) -> context_lib.Rows:
    """One row a program."""
    o = context.options
    batches = (o.batch_size, o.sample_batch_size, o.encode_batch_sizes[0])
    found: context_lib.Rows = {}
    network, programs = growth.programs(context)
    for (what, make), batch in zip(programs.items(), batches, strict=False):
        name = f"{what}, batch {batch}"
        found[name] = functools.partial(_measure, context, name, network, make, batch)
    return found


def _measure(
    context: context_lib.Context,
    name: str,
    network: str,
    make: Callable[[Any, int], ours.Job],
    batch: int,
) -> results.Row:
    row, roofs = results.Row(name), context.ceilings
    job = make(context_lib.with_network(context.config, network), batch)
    job.run()
    sample = timing.timed(job.run)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            job.run()
        spent = by_kind(_events(pathlib.Path(folder)), hlo_costs.contents(job.text))
    total = sum(spent.values())
    for what, seconds in spent.items():
        if seconds >= 0.005 * total:
            row.figures[what] = f"{100 * seconds / total:.0f} %"
    row.figures["kernels' time on all threads"] = results.one(total)
    row.figures["bound by"] = growth.statement(job, sample.seconds, roofs)
    row.program = results.costs(job, sample.seconds, roofs)
    return row


def _events(folder: pathlib.Path) -> Iterable[tuple[str, float]]:
    """(operation, seconds) of every kernel in the trace under `folder`."""
    for path in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    operation = _operation(event.stats)
                    if operation:
                        yield operation, event.duration_ns * 1e-9


def _operation(stats: Iterable[tuple[str, Any]] | Mapping[str, Any]) -> str:
    return str(dict(stats).get("hlo_op", ""))


def by_kind(
    events: Iterable[tuple[str, float]], contents: Mapping[str, frozenset[str]]
) -> dict[str, float]:
    """{kind: seconds}, largest first, of (operation, seconds), by what operations hold
    (`hlo_costs.contents`)."""
    spent: dict[str, float] = collections.defaultdict(float)
    for operation, seconds in events:
        held = contents.get(operation, frozenset())
        if not held & _CONTAINERS:
            spent[kind(held)] += seconds
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def kind(held: frozenset[str]) -> str:
    """The first kind that one of the operations is of; "other" when none is known."""
    return next((name for name, words in KINDS if held & set(words)), "other")
