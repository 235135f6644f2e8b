"""Another process that writes a folder, for tests of locks."""

import contextlib
import subprocess
import sys

from madad_jax.core import folder_lock

_CODE = """
import sys, time
from madad_jax.core import folder_lock
with folder_lock.hold(sys.argv[1], "--out", name=sys.argv[2]):
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start(folder, name=folder_lock.NAME, seconds=120):
    """Starts it; it says `held` when it holds the lock."""
    words = [sys.executable, "-c", _CODE, str(folder), name, str(seconds)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **pipes)


@contextlib.contextmanager
def held(folder, name=folder_lock.NAME):
    """The process that holds the lock of `folder` meanwhile."""
    with start(folder, name) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()
