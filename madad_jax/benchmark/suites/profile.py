"""Suite `profile`: where the time of the three hottest programs goes, by kind of kernel.

One run of each under JAX's profiler. Every event that names an operation of the compiled program
is added to its kind, read off the operation's name (the compiler names a fusion by what is in it);
loops and calls are left out, because what they run has events of its own. On several cores the
shares are of the kernels' time on all threads.
"""

import collections
import functools
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from madad_jax.benchmark import context as context_lib
from madad_jax.benchmark import ours, results, timing
from madad_jax.benchmark.suites import growth

# In this order: a fusion named after several counts as the first.
KINDS = (
    ("convolutions", r"conv(?!ert)"),
    ("matrix products", r"dot|gemm|matmul"),
    ("exponentials (softmax, SiLU)", r"exponential|tanh|logistic"),
    ("reductions", r"reduce"),
    ("copies and transposes", r"copy|transpose|concatenate|pad|slice|gather|scatter"),
    ("random numbers", r"rng|random|threefry"),
    ("other elementwise", r"fusion|add|multiply|convert|broadcast|select"),
)
_CONTAINERS = re.compile(r"^(while|call|conditional|async)[.\d]*$")


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
        spent = by_kind(_events(pathlib.Path(folder)))
    total = sum(spent.values())
    for kind, seconds in spent.most_common():
        row.figures[kind] = f"{100 * seconds / total:.0f} %"
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


def by_kind(events: Iterable[tuple[str, float]]) -> collections.Counter[str]:
    """{kind: seconds} of (operation, seconds)."""
    spent: collections.Counter[str] = collections.Counter()
    for operation, seconds in events:
        if not _CONTAINERS.match(operation):
            spent[kind(operation)] += seconds
    return spent


def kind(operation: str) -> str:
    """The kind of an operation by its name; "other" when nothing in it is known."""
    return next((name for name, words in KINDS if re.search(words, operation)), "other")
