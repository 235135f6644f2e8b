"""Training steps from cached latents: samples/s, share of the measured ceiling, memory.

Beside ours, in the same rounds: PyTorch as the official code works (float32 with TF32, written-out
attention, no compiler), and PyTorch in bfloat16 through its compiler.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu import part as part_lib
from benchmarks.gpu import settings
from benchmarks.speed import results
from benchmarks.speed.suites import train
from madad_jax.core import units
from madad_jax.models.layers import convolution

# (network, batch, attention, ways of the rival, seconds that it needs), in order of worth.
ROWS = (
    ("dit L/2", 64, "cudnn", ("official", "compiled"), 60),
    ("unet L", 48, "xla", ("official", "compiled"), 60),
    ("dit XL/2", 32, "cudnn", ("official",), 45),
    ("dit L/2", 64, "xla", (), 20),
    ("dit L/2", 64, "chunked", (), 20),
    ("unet L", 48, "cudnn", (), 30),
    ("dit XL/2", 128, "cudnn", (), 30),
)
_ON_CPU = {"cudnn": "xla"}


def measure(record: part_lib.Recorder) -> None:
    """All rows of the part."""
    device = jax.devices()[0]
    record.add("device", {}, f"{device.device_kind}, jax {jax.__version__}")
    record.attempt("convolution", 5, functools.partial(prove_plain, record))
    for dtype in ("bfloat16", "float32"):
        record.attempt(f"ceiling {dtype}", 5, functools.partial(_ceiling, record, dtype))
    other = settings.start_rival()
    try:
        for network, batch, attention, ways, needs in ROWS[:2] if record.dry else ROWS:
            if device.platform == "cpu":
                attention = _ON_CPU.get(attention, attention)
            name = f"{network}, batch {batch}, {attention}"
            step = functools.partial(
                pair, record, name, network, batch, attention, ways if other else (), other
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
    attention: str,
    ways: tuple[str, ...],
    other: Any,
) -> None:
    """One network in bfloat16, beside the ways of the rival."""
    found = settings.config(network, "bfloat16", attention, record.dry, batch=batch)
    context = settings.context(found, record.out, ways, other)
    rows = train.rows(context)
    row = next(measure for key, measure in rows.items() if ", cached, " in key)()
    figures, note = figures_of(row)
    record.add(name, figures, note, row=results.dataclasses.asdict(row))


def figures_of(row: results.Row) -> tuple[dict[str, str], str]:
    """(cells of the table, its note) of a row of benchmarks.speed."""
    program = row.program
    figures = {
        "samples/s": f"{program['samples_per_second']:.4g}",
        "of the matmul ceiling": f"{program['share_of_matmul']:.1%}",
        "bound by": program["bound"],
        "memory": units.human(program["program_bytes"]),
        "compiled in": f"{program['compile_seconds']:.0f} s",
    }
    for way, found in row.rivals.items():
        figures[f"ours over {way}"] = f"{found['ratio']['median']:.3f}"
    return figures, "; ".join(row.notes).replace("|", "/")


def _ceiling(record: part_lib.Recorder, dtype: str) -> None:
    found = settings.ceilings_of(dtype)
    record.add(
        f"ceiling {dtype}",
        {"samples/s": "", "of the matmul ceiling": "100 %"},
        f"{found.compute / 1e12:.1f} TFLOP/s, {found.memory / 1e9:.0f} GB/s, "
        f"{found.launch * 1e6:.2f} us a kernel",
        compute=found.compute,
        memory=found.memory,
        launch=found.launch,
    )


def prove_plain(record: part_lib.Recorder) -> None:
    """Whether "auto" convolutions are plain here: the compiled program is that of "plain".

    On a CPU it must not be: there the same layer takes Winograd's form.
    """
    x, kernel = jnp.ones((8, 32, 32, 128)), jnp.ones((3, 3, 128, 128))

    def products(implementation: str) -> dict[str, int]:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(convolution.convolve(x, kernel, implementation) ** 2)

        text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile().as_text()
        return {
            "convolutions": text.count("convolution(") + text.count("__cudnn$conv"),
            "products": text.count(" dot(") + text.count("__cublas"),
        }

    auto, plain = products("auto"), products("plain")
    forced = products("winograd")
    where = jax.devices()[0].platform
    same = auto == plain
    said = "plain" if same else "not plain"
    record.add(
        "convolution", {}, f'"auto" is {said} on {where}', auto=auto, plain=plain, winograd=forced
    )
    if same == (where == "cpu") or forced == plain:
        raise AssertionError(f"convolution=auto on {where}: {auto}, plain {plain}, {forced}")
