"""Goodput of a run that is killed and goes on, and a trace of its steps."""

import gzip
import json
import signal
import subprocess
import sys

import pytest

from madad_jax.core import errors
from madad_jax.experiment import time_shares
from madad_jax.runtime import wall_time
from tests.e2e import jobs
from tests.e2e.test_run import assert_same, restored

LOST = 3.0  # seconds of the killed start after its last checkpoint, at least

# Works on for LOST seconds after step 6, whose checkpoint is that of step 4, and is killed.
DYING = f"""
import os, runpy, signal, sys, time
from madad_jax.runtime import wall_time, watchdog

wall_time._NOTE_SECONDS = 0.05
progress = watchdog.progress

def die(what):
    if what == "denoiser: step 7":
        time.sleep({LOST} + 0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    progress(what)

watchdog.progress = die
sys.argv = ["madad_jax.main", *sys.argv[1:]]
runpy.run_module("madad_jax.main", run_name="__main__")
"""


def _goodput(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == time_shares.SPLIT]


@pytest.mark.slow
def test_a_killed_run_counts_what_was_lost_and_a_trace_changes_nothing(
    trained, tiny, png_root, tmp_path
):
    flags = [
        *(f"--config={jobs.CONFIG}", f"--config.data.root={png_root}", "--mode=train"),
        *(f"--config.autoencoder.checkpoint={trained}", "--config.autoencoder.scaling_factor=1"),
    ]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    dying = subprocess.run(
        [sys.executable, "-c", DYING, *flags, f"--workdir={killed}"],
        cwd=jobs.ROOT,
        env=jobs.environment(),
        capture_output=True,
        check=False,
    )
    assert dying.returncode == -signal.SIGKILL, dying.stderr[-2000:]
    assert not _goodput(killed), "no end, no line"
    # The second start is traced, and is the same run all the same.
    said = jobs.run(*flags, f"--workdir={killed}", "--config.profile=9:10", count=1)
    (row,) = _goodput(killed)
    assert (
        row["step"] == 2 and f"wall time {row['wall_seconds']:.0f} s in 2 starts, CPU time " in said
    )
    shares = {part: row[part] for part in wall_time.PARTS}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-6)
    assert row["restarts"] * row["wall_seconds"] > LOST
    assert all(shares[part] > 0 for part in ("steps", "compiling", "checkpoints", "evaluation"))

    jobs.run(*flags, f"--workdir={whole}", count=1)
    (undisturbed,) = _goodput(whole)
    assert undisturbed["step"] == 1 and undisturbed["restarts"] == 0
    ours, theirs = restored(tiny, killed), restored(tiny, whole)
    assert ours.step == theirs.step == 12 and ours.config == theirs.config
    assert_same(ours.state, theirs.state)
    (trace,) = (killed / "profile" / "denoiser").rglob("perfetto_trace.json.gz")
    assert json.loads(gzip.decompress(trace.read_bytes()))
    assert list(trace.parent.glob("*.xplane.pb")) and not (whole / "profile").exists()


@pytest.mark.parametrize("found", ["10", "0:3", "5:4", "a:b", "1:101", "-1:2", "1:2:3"])
def test_a_trace_of_no_steps_is_refused(tiny, execute, tmp_path, found):
    tiny.profile = found
    with pytest.raises(errors.UserError, match=r"profile: found .*accepted: first and last"):
        execute(tiny, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()
