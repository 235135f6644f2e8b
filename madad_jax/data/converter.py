"""dcm2niix, a program of others, for DICOM that is not read here; called where somebody asks."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from etils import epath

from madad_jax.core import errors

PROGRAM = "dcm2niix"
_MOST_SECONDS = 600


@contextlib.contextmanager
def converted(paths: Sequence[epath.Path], source: str) -> Iterator[epath.Path]:
    """The one NIfTI file that dcm2niix makes of the files of a series, while it is read.

    It works in a private folder, on copies with neutral names: nothing of a header is in a name,
    and no file is left.

    Args:
      paths: files of one series.
      source: of the scan, for messages.

    Raises:
      UserError: it is not installed, fails, takes longer than ten minutes, or makes no file or
        several.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise errors.UserError(
            f"--dcm2niix: the program '{PROGRAM}' is not on the PATH; install it, or convert "
            f"'{source}' elsewhere"
        )
    with tempfile.TemporaryDirectory(prefix="madad_jax-") as place:
        folder, out = epath.Path(place) / "in", epath.Path(place) / "out"
        folder.mkdir()
        out.mkdir()
        for number, path in enumerate(paths):
            path.copy(folder / f"{number:06d}.dcm")
        # No side-car, no gzip, a name of ours, and every series as it is.
        command = [program, "-b", "n", "-z", "n", "-f", "scan", "-o", str(out), str(folder)]
        status = _run(command, source)
        made = sorted(path for path in out.iterdir() if path.name.endswith(".nii"))
        # 0 done; others mean that something was left out.
        if status or len(made) != 1:
            raise errors.UserError(
                f"'{source}': dcm2niix made {len(made)} images and ended with status {status}; "
                "accepted: one image, status 0"
            )
        yield made[0]


def _run(command: list[str], source: str) -> int:
    # What it prints names the person: it is thrown away.
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, **quiet)
    try:
        return process.wait(_MOST_SECONDS)
    except BaseException as error:
        # Its own children too, after a signal to us as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise errors.UserError(
                f"'{source}': dcm2niix took longer than {_MOST_SECONDS} s"
            ) from error
        raise
