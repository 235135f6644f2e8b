"""Exit statuses that all commands share."""

import os
import signal
import subprocess
import sys

import pytest

from madad_jax.core import command_line, errors


def _refuse(argv):
    raise errors.UserError("x is 3; accepted: 4")


def _signal(number):
    def run(argv):
        os.kill(os.getpid(), number)
        return 0

    return run


@pytest.mark.parametrize(
    "run,status,said",
    [
        (lambda argv: 0, 0, ""),
        (lambda argv: 1, 1, ""),
        (_refuse, 2, "madad_jax x: error: x is 3; accepted: 4\n"),
        (_signal(signal.SIGTERM), 143, "\nmadad_jax x: stopped; the same command continues\n"),
        (_signal(signal.SIGINT), 130, "\nmadad_jax x: stopped; the same command continues\n"),
    ],
)
def test_status_and_line(run, status, said, capsys):
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts what it sends to the background with ctrl-C ignored.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command_line.status("madad_jax x", run, ["x"]) == status
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert capsys.readouterr().err == said
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("status", [1, 2, 143])
def test_a_thread_that_never_ends_keeps_no_failed_process(status):
    code = (
        "import threading, sys\n"
        "from madad_jax.core import command_line\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        f"print('said'); command_line.leave({status})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (status, "said\n")
