"""FLOPs, bytes and memory of the compiled programs, recorded and compared. Nothing is run.

    python -m benchmarks.costs --record                # writes benchmarks/results/costs.json
    python -m benchmarks.costs --check                 # compares, exit status 1 with a line each
    python -m benchmarks.costs --check --only=demo     # programs whose name holds the word

Compiled for one device of this machine's kind (recorded: a CPU); a record of another device or
another JAX is refused. Tolerances, upwards: FLOPs 0.1 %, bytes moved by kernels 2 %, memory
(arguments, outputs and temporaries) 2 %. The compiler is deterministic; the room is for changes
that are meant and small. What became cheaper by more than that is told too, so that the record
follows, and is no failure.
"""

import json
import pathlib
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import app, flags

from configs import default, demo
from madad_jax.assembly import networks, parts
from madad_jax.devices import mesh
from madad_jax.experiment import compile_report
from madad_jax.training import batch_specs

RECORD = pathlib.Path(__file__).parent / "results" / "costs.json"
TOLERANCES = {"flops": 0.001, "bytes": 0.02, "memory": 0.02}

_RECORD = flags.DEFINE_bool("record", False, "Write the record of the programs that are named.")
_CHECK = flags.DEFINE_bool("check", False, "Compare with the record.")
_ONLY = flags.DEFINE_string("only", "", "Programs whose name holds this.")


def _config(preset: str = "paper", **sections: dict[str, Any]) -> Any:
    c = default.get_config(preset)
    c.data.latents = "cached"
    c.eval.batch_size = 1
    for section, values in sections.items():
        c[section].update(values)
    return c


def _dit(size: str) -> dict[str, Any]:
    return {"name": "dit", "size": size, "dropout": 0.0}


def _step(config: Any) -> Any:
    return compile_report.denoiser_step(parts.assemble(config), mesh.make_mesh())[1]


def _maps(config: Any) -> Any:
    return compile_report.image_to_map(parts.assemble(config), mesh.make_mesh())[1]


def _encode(config: Any) -> Any:
    network = networks.autoencoder(config)
    image = batch_specs.image_spec(1, config.data.image_size)["image"]
    params = jax.eval_shape(lambda: network.init(jax.random.key(0), image.shape))
    return jax.jit(network.encode).lower(params, image)


PROGRAMS: dict[str, Callable[[], Any]] = {
    "demo, training step, batch 16": lambda: _step(demo.get_config()),
    "demo, image to map, batch 24": lambda: _maps(demo.get_config()),
    "kl-f8, encode, batch 1": lambda: _encode(_config()),
    "U-Net XS, training step, batch 8": lambda: _step(
        _config(denoiser={"size": "XS"}, train={"batch_size": 8})
    ),
    "U-Net L, training step, batch 8": lambda: _step(_config(train={"batch_size": 8})),
    "DiT-S/2, training step, batch 8": lambda: _step(
        _config(denoiser=_dit("S/2"), train={"batch_size": 8})
    ),
    "DiT-L/2, training step, batch 8": lambda: _step(
        _config(denoiser=_dit("L/2"), train={"batch_size": 8})
    ),
    "paper, image to map, batch 1": lambda: _maps(_config()),
    "official, image to map, batch 1": lambda: _maps(_config("official")),
    "light, image to map, batch 1": lambda: _maps(_config("light")),
}


def measured(only: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """(program, {"flops", "bytes", "memory"}) of every program whose name holds `only`."""
    for name, lower in PROGRAMS.items():
        if only in name:
            costs = compile_report.measure(name, lower())
            yield (
                name,
                {
                    "flops": costs.program.flops,
                    "bytes": costs.program.bytes,
                    "memory": costs.memory,
                },
            )


def environment() -> dict[str, str]:
    """What a record holds for."""
    device = f"{jax.devices()[0].platform}, {platform.machine()}"
    return {"jax": jax.__version__, "device": device}


def compare(
    name: str, recorded: dict[str, float], found: dict[str, float]
) -> tuple[list[str], list[str]]:
    """(lines on what costs more than recorded, lines on what costs less), beyond tolerances."""
    dearer, cheaper = [], []
    for what, tolerance in TOLERANCES.items():
        was, now = recorded[what], found[what]
        change = now / was - 1
        line = f"{name}: {what} recorded {was:.6g}, found {now:.6g} ({100 * change:+.2f} %)"
        if change > tolerance:
            dearer.append(f"{line}, allowed +{100 * tolerance:g} %")
        elif change < -tolerance:
            cheaper.append(f"{line}; --record keeps it")
    return dearer, cheaper


def _main(_: list[str]) -> None:
    if _RECORD.value == _CHECK.value:
        raise app.UsageError("give one of --record and --check")
    stored = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    same = stored.get("environment") == environment()
    if _CHECK.value and not same:
        print(f"{RECORD}: recorded with {stored.get('environment')}, here is {environment()}")
        sys.exit(1)
    programs = stored["programs"] if same else {}
    failed = False
    for name, found in measured(_ONLY.value):
        print(
            f"{name}: {found['flops'] / 1e9:.2f} GFLOP, {found['bytes'] / 1e9:.2f} GB moved, "
            f"{found['memory'] / 2**20:.0f} MiB",
            flush=True,
        )
        if _RECORD.value:
            programs[name] = found
        elif name not in programs:
            print(f"{name}: not recorded")
            failed = True
        else:
            dearer, cheaper = compare(name, programs[name], found)
            print("\n".join([*dearer, *cheaper]), end="\n" if dearer or cheaper else "")
            failed |= bool(dearer)
    if _RECORD.value:
        text = json.dumps({"environment": environment(), "programs": programs}, indent=1)
        RECORD.write_text(text + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    app.run(_main)
