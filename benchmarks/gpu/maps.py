"""Image to anomaly map: slices/s beside the official way, at the same options and networks.

float32 against float32 with TF32 is the equal map; bfloat16 on both sides stands beside it.
"""

import functools
from typing import Any

from benchmarks.gpu import part as part_lib
from benchmarks.gpu import settings
from benchmarks.gpu.steps import figures_of
from benchmarks.speed import results
from benchmarks.speed.suites import sample

# (network, batch, dtype, ways of the rival, seconds that it needs)
ROWS = (
    ("unet L", 16, "float32", ("official",), 45),
    ("unet L", 16, "bfloat16", ("compiled",), 45),
    ("dit XL/2", 16, "float32", ("official",), 40),
)


def measure(record: part_lib.Recorder) -> None:
    """All rows of the part."""
    other = settings.start_rival()
    try:
        for network, batch, dtype, ways, needs in ROWS[:1] if record.dry else ROWS:
            name = f"{network}, {dtype}, batch {batch}"
            step = functools.partial(
                pair, record, name, network, batch, dtype, ways if other else (), other
            )
            record.attempt(name, needs, step)
    finally:
        if other:
            other.close()


def pair(
    record: part_lib.Recorder,
    name: str,
    network: str,
    batch: int,
    dtype: str,
    ways: tuple[str, ...],
    other: Any,
) -> None:
    """One network at the official options."""
    found = settings.config(network, dtype, "xla", record.dry, batch=batch)
    context = settings.context(found, record.out, ways, other)
    rows = sample.rows(context)
    row = next(measure for key, measure in rows.items() if ", equal, " in key)()
    figures, note = figures_of(row)
    figures["slices/s"] = figures.pop("samples/s")
    record.add(name, figures, note, row=results.dataclasses.asdict(row))
