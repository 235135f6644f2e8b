"""launch/local_processes.sh under fire: seeded SIGKILLs of one process after another.

MADAD_JAX_KILLS=50 python -m pytest -s tests/e2e/test_kills.py
"""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e import jobs
from tests.e2e.test_run import assert_same, metrics_of, restored

KILLS = int(os.environ.get("MADAD_JAX_KILLS", "50"))


@pytest.fixture(scope="module")
def flags(trained, png_root):
    """A denoiser on a finished autoencoder, saved every other step."""
    return [
        *(f"--config={jobs.CONFIG}", f"--config.data.root={png_root}", "--mode=train"),
        *(f"--config.autoencoder.checkpoint={trained}", "--config.checkpoint.every_steps=2"),
        *("--config.autoencoder.scaling_factor=1", "--config.train.steps=40"),
        *("--config.log.validate_every_steps=20",),
    ]


def _children(pid):
    """The Python processes that a script has started."""
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in listed.read_text().split()] if listed.exists() else []
    return [child for child in found if _is_program(child)]


def _is_program(pid):
    try:
        return b"madad_jax.main" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _starts(workdir):
    """How often both processes have met so far."""
    logs = [workdir / "logs" / f"process_{k}.log" for k in range(2)]
    return min(p.read_text().count("2 process(es)") if p.exists() else 0 for p in logs)


def _start(flags, workdir, output):
    return subprocess.Popen(
        [
            *("launch/local_processes.sh", "--processes=2", "--max_restarts=1000"),
            *(f"--workdir={workdir}", *flags, "--hang_timeout=120"),
        ],
        cwd=jobs.ROOT,
        env=jobs.environment() | {"PYTHON": sys.executable, "FIRST_WAIT": "0", "XLA_FLAGS": ""},
        stdout=output,
        stderr=output,
    )


def _until_done(flags, workdir, kills, draw):
    """Runs to the end, killing up to `kills` times; returns how often and where it was killed."""
    died = []
    with (workdir.parent / f"{workdir.name}.txt").open("w") as output:
        script = _start(flags, workdir, output)
        try:
            seen = 0
            while script.poll() is None:
                time.sleep(0.2)
                if len(died) == kills or _starts(workdir) <= seen:
                    continue
                time.sleep(draw.uniform(0.0, 20.0))
                seen = _starts(workdir)
                victims = _children(script.pid)
                if len(victims) == 2:
                    os.kill(victims[draw.randrange(2)], signal.SIGKILL)
                    folder = workdir / "denoiser" / "checkpoints"
                    names = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
                    died.append(names)
                    print(f"{time.strftime('%X')} kill {len(died)}: {names}", flush=True)
        finally:
            script.send_signal(signal.SIGTERM)
            script.wait()
    text = (workdir.parent / f"{workdir.name}.txt").read_text()
    assert script.returncode == 0, text[-3000:]
    return died


@pytest.mark.slow
@pytest.mark.multiprocess
def test_nothing_is_lost_whoever_is_killed_whenever(flags, tiny, tmp_path):
    started = time.monotonic()
    jobs.run(*flags, f"--workdir={tmp_path / 'whole'}")
    died, rounds, draw = 0, 0, random.Random(0)
    while died < KILLS:
        workdir = tmp_path / f"killed-{rounds}"
        died += len(_until_done(flags, workdir, KILLS - died, draw))
        ours, theirs = restored(tiny, workdir), restored(tiny, tmp_path / "whole")
        assert ours.step == theirs.step == 40
        assert_same(ours.state, theirs.state)
        assert ours.data_state == theirs.data_state
        assert metrics_of(workdir) == metrics_of(tmp_path / "whole")
        rounds += 1
        minutes = (time.monotonic() - started) / 60
        print(f"{died} kills in {rounds} runs, {minutes:.1f} minutes: equal to the bit", flush=True)
