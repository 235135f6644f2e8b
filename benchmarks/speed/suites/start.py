"""Suite `start`: `--help`, and how long a run takes to its first training step.

The same command twice in one folder with a compile cache of its own: the first start compiles, the
second finds the programs. Each is killed at its first line of metrics; the slices are drawn.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks.speed import context as context_lib
from benchmarks.speed import drawn, results, timing
from madad_jax.core import errors
from madad_jax.runtime import startup

_POLL = 0.02


def rows(context: context_lib.Context) -> context_lib.Rows:
    """Both."""
    return {
        "--help": functools.partial(_help, context, "--help"),
        "to the first step": functools.partial(_first_step, context, "to the first step"),
    }


def _help(context: context_lib.Context, name: str) -> results.Row:
    row = results.Row(name)
    command = [sys.executable, "-m", "madad_jax.main", "--help"]

    def ask() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)

    taken = timing.interleave(
        {"ours": lambda: timing.timed(ask)}, repeats=max(context.options.repeats, 5)
    )["ours"]
    row.ours = timing.summary(taken)
    return row


def _first_step(context: context_lib.Context, name: str) -> results.Row:
    row, c = results.Row(name), context.config.data
    if not context.config_flags:
        raise errors.UserError("--suite=start needs --config=FILE, which it starts again")
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        counts = {"train": 64, "val": 4, "test": 4}
        drawn.write(folder / "slices", c.modality, c.image_size, counts)
        command = [
            *(sys.executable, "-m", "madad_jax.main", *context.config_flags, "--mode=train"),
            *(f"--workdir={folder / 'run'}", "--config.log.every_steps=1"),
            *("--config.data.source=png_folder", f"--config.data.root={folder / 'slices'}"),
        ]
        environment = os.environ | {startup.CACHE_VARIABLE: str(folder / "cache")}
        limit = context.options.start_seconds
        first, second = (
            _seconds_to_metrics(command, environment, folder / "run", limit) for _ in range(2)
        )
    if first is None or second is None:
        row.notes.append(f"no first step within {limit} s (benchmark.start_seconds)")
        return row
    row.figures["first start"] = f"{first[0]:.1f} s, to step 1 of stage {first[1]}"
    row.figures["second start"] = f"{second[0]:.1f} s"
    row.figures["second over first"] = f"{second[0] / first[0]:.2f}"
    return row


def _seconds_to_metrics(
    command: list[str], environment: dict[str, str], workdir: pathlib.Path, limit: float
) -> tuple[float, str] | None:
    """(seconds to the first training metrics, stage), or None after `limit` seconds.

    Raises RuntimeError when the command ends before.
    """
    metrics = workdir / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while time.perf_counter() - start < limit:
            if metrics.exists() and (text := metrics.read_text()).endswith("\n"):
                return time.perf_counter() - start, json.loads(text.splitlines()[0])["stage"]
            if process.poll() is not None:
                last = (process.stderr.read().strip().splitlines() or ["no message"])[-1]
                raise RuntimeError(f"the run ended with status {process.returncode}: {last}")
            time.sleep(_POLL)
        return None
    finally:
        process.kill()
        process.communicate()
