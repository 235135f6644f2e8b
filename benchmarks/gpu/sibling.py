"""What time is left: the shipped model's larger sibling, on slices that were carried along.

`SLICES` names the folder of slices (configs/models/ixi_t1_large.py says how they are cut). The
run is stopped by SIGTERM, saves, and leaves its metrics; its weights stay on the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.gpu import part as part_lib

CONFIG = "configs/models/ixi_t1_large.py"
_ENDING = 25.0  # seconds that a save takes
_TINY = (
    *("--config.autoencoder.train.steps=2", "--config.autoencoder.train.batch_size=2"),
    *("--config.train.steps=2", "--config.train.batch_size=2", "--config.autoencoder.channels=8"),
    *("--config.denoiser.hidden_size=32", "--config.denoiser.depth=1"),
    *("--config.denoiser.num_heads=2", "--config.log.every_steps=1"),
)


def measure(record: part_lib.Recorder) -> None:
    """One row: steps, slices/s and the newest validation of each stage."""
    slices = os.environ.get("SLICES", "")
    if not slices:
        record.add("ixi_t1_large", {}, "left out: SLICES names no folder of slices")
        return
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(sys.executable, "-m", "madad_jax.main", f"--config={CONFIG}", "--mode=train"),
            *(f"--workdir={folder}/run", f"--config.data.root={slices}"),
            *(_TINY if record.dry else ()),
        ]
        site = os.environ.get("GPU_BENCH_SITE", "")
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH", ""), site) if p)
        process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path})
        try:
            status = process.wait(max(5.0, record.left() - _ENDING))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(_ENDING - 5)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        metrics = os.path.join(folder, "run", "metrics.jsonl")
        rows = []
        if os.path.exists(metrics):
            shutil.copy(metrics, record.out / "sibling-metrics.jsonl")
            with open(metrics) as file:
                rows = [json.loads(line) for line in file]
    for stage in dict.fromkeys(row["stage"] for row in rows if row["split"] == "train"):
        record.add(f"ixi_t1_large, {stage}", _summary(rows, stage), f"exit status {status}")
    if not rows:
        record.add("ixi_t1_large", {}, f"exit status {status} before its first step")


def _summary(rows: list[dict[str, Any]], stage: str) -> dict[str, str]:
    train = [row for row in rows if (row["stage"], row["split"]) == (stage, "train")]
    val = [row for row in rows if (row["stage"], row["split"]) == (stage, "val")]
    rates = sorted(row["samples_per_second"] for row in train)
    return {
        "steps": str(train[-1]["step"]),
        "samples/s": f"{rates[len(rates) // 2]:.4g}",
        "loss": f"{train[-1]['loss']:.4g}",
        "validation loss": f"{val[-1]['loss']:.4g}" if val else "",
    }
