"""Brain extraction programs that a hospital may have installed, run by name.

A tool gets a NIfTI file in a folder of its own and leaves a mask there. Nothing is downloaded
here; HD-BET fetches its weights itself at its first run, SynthStrip has them inside.
"""

import dataclasses
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
from jaxtyping import Bool

from madad_jax.core import errors
from madad_jax.scans import volumes

# HD-BET takes minutes on a CPU; what takes longer than this hangs.
_MINUTES = 30.0


@dataclasses.dataclass(frozen=True)
class Tool:
    """How a program is called.

    Attributes:
      programs: names it may have on the path, in the order tried.
      arguments: `scan.nii.gz` in, `mask` out; run inside the folder of both.
      mask: file that holds the mask afterwards.
      where: how to get it.
    """

    programs: tuple[str, ...]
    arguments: tuple[str, ...]
    mask: str
    where: str


# HD-BET 2 names the mask after the output, with _bet before the suffix.
TOOLS = {
    "hd-bet": Tool(
        ("hd-bet",),
        ("-i", "scan.nii.gz", "-o", "out.nii.gz", "--save_bet_mask", "--no_bet_image"),
        "out_bet.nii.gz",
        "pip install hd-bet",
    ),
    "synthstrip": Tool(
        ("mri_synthstrip", "synthstrip-docker", "synthstrip-singularity"),
        ("-i", "scan.nii.gz", "-o", "out.nii.gz", "-m", "mask.nii.gz"),
        "mask.nii.gz",
        "FreeSurfer 7.3 or newer, or its container",
    ),
}


def run(name: str, volume: volumes.Volume) -> Bool[np.ndarray, "X Y Z"]:
    """The mask that the tool `name` finds.

    Raises:
      UserError: it is not installed, fails, takes longer than half an hour, or leaves no mask.
    """
    tool = TOOLS[name]
    program = next((found for p in tool.programs if (found := shutil.which(p))), None)
    if program is None:
        raise errors.UserError(
            f"brain_mask={name}: no program '{' or '.join(tool.programs)}' on the path "
            f"({tool.where})"
        )
    with tempfile.TemporaryDirectory(prefix="brain-") as folder:
        scan = pathlib.Path(folder) / "scan.nii.gz"
        volumes.write_nifti(scan, volume.data, like=volumes.forget_header(volume))
        try:
            done = subprocess.run(
                [program, *tool.arguments],
                # Bare file names in this folder: a tool in a container sees no other path.
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_MINUTES * 60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise errors.UserError(f"'{volume.source}': {name} did not finish: {error}") from error
        mask = pathlib.Path(folder) / tool.mask
        if done.returncode or not mask.exists():
            lines = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
            raise errors.UserError(
                f"'{volume.source}': {name} ended with status {done.returncode} and "
                f"{'a' if mask.exists() else 'no'} mask: {lines[-1][:300]}"
            )
        return volumes.read_labels(mask, volume) > 0
