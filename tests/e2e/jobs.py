"""Real processes that form one job over gloo, each on one CPU device."""

import os
import pathlib
import socket
import subprocess
import sys
import time

from tests import compile_flags

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "tests/e2e/tiny_config.py"


def environment(devices=1):
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": compile_flags.for_process(devices),
        "PYTHONPATH": str(ROOT),
    }


class Job:
    """`count` processes of a command.

    Args:
      flags: of every process.
      count: processes; 1 joins nobody.
      program: module of process k, with arguments before the flags: {k: ["tests.e2e.x", "a"]}.
      last: flags of process k after the others: {k: [...]}.
    """

    def __init__(
        self, *flags, count=2, program=None, last=None, module="madad_jax.main", devices=1
    ):
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = s.getsockname()[1]
        self.processes = []
        for k in range(count):
            words = (program or {}).get(k, [module])
            env = environment(devices)
            more = []
            if count > 1:
                env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}"}
                env |= {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(k)}
                more = ["--distributed"]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *words, *flags, *more, *(last or {}).get(k, [])],
                    cwd=ROOT,
                    env=env,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()

    def until(self, path, seconds=1800):
        """Waits for a file that the job makes."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            ended = [p for p in self.processes if p.poll() is not None]
            assert not ended, ended[0].communicate()[0][-3000:]
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.1)

    def ends(self, seconds=1800):
        """[(exit status, output) of each process]."""
        outputs = [p.communicate(timeout=seconds)[0] for p in self.processes]
        return [(p.returncode, out) for p, out in zip(self.processes, outputs, strict=True)]


def run(*flags, **kwargs):
    """A job that has to succeed; the output of process 0."""
    with Job(*flags, **kwargs) as job:
        ends = job.ends()
    assert [status for status, _ in ends] == [0] * len(ends), ends[0][1][-3000:]
    return ends[0][1]
