"""Memory and costs per device of a DiT's training step, by compiling for fake devices alone.

    python -m benchmarks.scale --rows=/tmp/scale.jsonl --out=benchmarks/results/scale.md

Two tables: what one device holds of DiT-XL/2 with AdamW and an average, over fsdp 1 to 8; and
FLOPs, bytes and collectives per device over 1 to 256 devices with the same batch on each. Every
row is a process of its own, since the number of fake devices is fixed when JAX starts, and is
kept in `--rows`: the same command again goes on where it stopped. Nothing is run or timed.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

_ROWS = flags.DEFINE_string("rows", "/tmp/scale.jsonl", "Finished rows, one a line.")
_OUT = flags.DEFINE_string("out", "benchmarks/results/scale.md", "The tables.")
_ONE = flags.DEFINE_string("one", "", "Internal: one row, as JSON.")

WEAK = [{"data": n} for n in (1, 2, 4, 8, 64, 256)] + [{"fsdp": 8, "data": n} for n in (1, 32)]
WEAK += [{"tensor": 2, "data": n} for n in (1, 128)]
PER_DEVICE = 4  # slices of a batch for each batch shard
JOBS = [{"size": "XL/2", "depth": 0, "mesh": {"fsdp": n, "data": 1}} for n in (1, 2, 4, 8)]
JOBS += [{"size": "S/2", "depth": 4, "mesh": {"fsdp": 1, "data": 1} | mesh} for mesh in WEAK]


def one(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles the denoiser's step and reads its costs; in a process of its own."""
    devices = math.prod(job["mesh"].values())
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from configs import default
    from madad_jax.assembly import parts
    from madad_jax.core import trees
    from madad_jax.devices import mesh as mesh_lib
    from madad_jax.devices import parameter_rules
    from madad_jax.experiment import compile_report

    # Of the machine code only: programs, buffers and collectives are the same.
    jax.config.update("jax_disable_most_optimizations", True)
    c = default.get_config("paper")
    c.data.latents = "cached"
    c.denoiser.update(name="dit", size=job["size"], depth=job["depth"], dropout=0.0)
    c.optim.name = "adamw"
    c.train.update(ema_decay=0.9999)
    c.mesh.update(job["mesh"])
    mesh = mesh_lib.make_mesh(**c.mesh.to_dict())
    c.train.batch_size = PER_DEVICE * mesh_lib.batch_shards(mesh)
    made = parts.assemble(c)
    costs = compile_report.measure("step", compile_report.denoiser_step(made, mesh)[1])
    detector, spec = made.method, made.train_spec()
    params = jax.eval_shape(lambda key: detector.init(key, spec), jax.random.key(0))
    flat = trees.flatten(parameter_rules.param_shardings(params, mesh))
    sizes = {path: 4 * math.prod(x.shape) for path, x in trees.flatten(params).items()}
    kinds: dict[str, dict[str, float]] = {}
    for found in costs.program.collectives:
        row = kinds.setdefault(found.kind, {"count": 0, "bytes": 0.0, "scattered": 0.0, "sent": 0})
        for key, value in (
            ("count", 1),
            ("bytes", found.bytes),
            ("scattered", found.scattered),
            ("sent", found.sent),
        ):
            row[key] += found.times * value
    return job | {
        "parameters": sum(sizes.values()),
        "split": sum(sizes[path] for path, s in flat.items() if "fsdp" in s.spec),
        "batch": c.train.batch_size,
        "flops": costs.program.flops,
        "bytes": costs.program.bytes,
        "arguments": costs.arguments,
        "temp": costs.temp,
        "memory": costs.memory,
        "collectives": kinds,
        "jax": jax.__version__,
    }


def rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """All rows; those that are not in `path` yet are computed and added to it."""
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for job in JOBS:
        if any(job.items() <= row.items() for row in done):
            continue
        command = [sys.executable, "-m", "benchmarks.scale", f"--one={json.dumps(job)}"]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        with path.open("a") as file:
            file.write(text.splitlines()[-1] + "\n")
        done.append(json.loads(text.splitlines()[-1]))
        print(job, flush=True)
    return [next(row for row in done if job.items() <= row.items()) for job in JOBS]


def memory_table(found: list[dict[str, Any]]) -> str:
    """What a device holds over fsdp."""
    lines = ["| fsdp | state, computed | arguments, compiled | temporaries | together |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: |"]
    for row in found:
        n = row["mesh"]["fsdp"]
        split = row["split"] if n > 1 else 0
        # Parameters, two moments and the average; what is split, over n devices.
        state = 4 * (split / n + row["parameters"] - split)
        numbers = (state, row["arguments"], row["temp"], row["memory"])
        lines.append(f"| {n} | " + " | ".join(f"{x / 2**30:.3f}" for x in numbers) + " |")
    return "\n".join(lines)


def weak_table(found: list[dict[str, Any]]) -> str:
    """Costs per device over the number of devices."""
    lines = ["| mesh | devices | GFLOP | GB moved | collectives (MB) | sent by a device, MB |"]
    lines += ["| --- | ---: | ---: | ---: | --- | ---: |"]
    for row in found:
        mesh = " x ".join(f"{k} {v}" for k, v in row["mesh"].items() if v > 1) or "one device"
        kinds = ", ".join(
            f"{v['count']:.0f} {k} ({v['bytes'] / 1e6:.2f})" for k, v in row["collectives"].items()
        )
        sent = sum(v["sent"] for v in row["collectives"].values()) / 1e6
        devices = math.prod(row["mesh"].values())
        numbers = f"{row['flops'] / 1e9:.3f} | {row['bytes'] / 1e9:.3f}"
        lines.append(f"| {mesh} | {devices} | {numbers} | {kinds or 'none'} | {sent:.2f} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Writes the two tables between the lines of `--out` that mark them, or prints them."""
    del argv
    if _ONE.value:
        print(json.dumps(one(json.loads(_ONE.value))))
        return
    found = rows(pathlib.Path(_ROWS.value))
    large = [row for row in found if row["size"] == "XL/2"]
    tables = {
        "memory": memory_table(large),
        "weak": weak_table([row for row in found if row not in large]),
    }
    path = pathlib.Path(_OUT.value)
    text = path.read_text() if path.exists() else ""
    for name, table in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        if start not in text:
            text += f"\n{start}{end}\n"
        before, rest = text.split(start)
        text = before + start + table + "\n" + end + rest.split(end)[1]
    path.write_text(text)
    print("\n\n".join(tables.values()))


if __name__ == "__main__":
    app.run(main)
