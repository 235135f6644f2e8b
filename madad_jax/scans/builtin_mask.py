"""The built-in brain extraction, in a process of its own that is started once and kept.

The network runs in JAX, which nothing here may load: `predict/brain_command.py` does it, and
takes and gives volumes as `.npy` files in a folder that goes away with this process.
"""

import atexit
import json
import pathlib
import subprocess
import sys
import tempfile
import threading

import numpy as np
from jaxtyping import Bool

from madad_jax.core import errors
from madad_jax.scans import volumes

_COMMAND = (sys.executable, "-m", "madad_jax.predict.brain_command", "--serve")
# One process for all threads: its networks compile for a minute, once.
_LOCK = threading.Lock()
_CHILD: list["_Child"] = []


class _Child:
    """The other process."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="madad_brain_")
        root = pathlib.Path(__file__).parents[2]  # also where the package is not installed
        self.process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )

    def ask(self, data: np.ndarray) -> np.ndarray:
        """The mask of a volume; UserError with the other side's words."""
        paths = [pathlib.Path(self.folder.name) / name for name in ("scan.npy", "mask.npy")]
        np.save(paths[0], data)
        try:
            self.process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
            self.process.stdin.flush()
            # A process that died gives an empty line.
            answer = self.process.stdout.readline().strip()
        except OSError:
            answer = ""
        if answer != "ok":
            raise errors.UserError(
                answer.removeprefix("error: ") or "the process of the brain extraction died"
            )
        return np.load(paths[1], allow_pickle=False)

    def close(self) -> None:
        """Ends it: it reads to the end of its input."""
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.folder.cleanup()


def find(volume: volumes.Volume) -> Bool[np.ndarray, "X Y Z"]:
    """The brain mask of a scan, on its canonical grid.

    Raises:
      UserError: deepbet is not installed, or no brain was found; names the scan.
    """
    with _LOCK:
        # It died at an earlier scan (out of memory?): this one gets a new process.
        if _CHILD and _CHILD[0].process.poll() is not None:
            _CHILD.pop()
        if not _CHILD:
            _CHILD.append(_Child())
            atexit.register(_CHILD[0].close)
        try:
            return _CHILD[0].ask(volume.data)
        except errors.UserError as error:
            raise errors.UserError(f"'{volume.source}': {error}") from error
