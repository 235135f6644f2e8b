"""Models that come with the package, and what `--checkpoint` means.

`--checkpoint=ixi-t1` names one, `--checkpoint=runs/x` a folder. A plain word is a shipped model's
name before it is a folder's: the same command means the same model wherever it is typed. A folder
of that name is written as a path, `./ixi-t1`.
"""

import difflib
import logging
import os
import pathlib

from madad_jax.core import errors, messages

_LOG = logging.getLogger(__name__)

DEFAULT = "ixi-t1"
ABOUT = "model.json"  # What makes a folder a packaged model.
DTYPES = ("float32", "float16")  # of its stored matrices
FOLDER = pathlib.Path(__file__).parent / "shipped"


def shipped() -> dict[str, pathlib.Path]:
    """{name: folder} of the models that come with the package, sorted by name."""
    if not FOLDER.is_dir():
        return {}
    return {path.name: path for path in sorted(FOLDER.iterdir()) if (path / ABOUT).is_file()}


def locate(checkpoint: str | os.PathLike) -> str:
    """The folder that `--checkpoint` stands for.

    Args:
      checkpoint: "" the default model; a shipped model's name; or a path. Path objects are never
        names.

    Raises:
      UserError: nothing is named so; says what is.
    """
    known = shipped()
    if not isinstance(checkpoint, str):
        return os.fspath(checkpoint)
    if not checkpoint:
        if DEFAULT in known:
            return str(known[DEFAULT])
        have = f"one of {', '.join(known)}, " if known else ""
        raise errors.UserError(
            f"--checkpoint is missing, and no model {DEFAULT} comes with this version; give {have}"
            "the workdir of a run, or a folder made by madad-jax package"
        )
    if _is_path(checkpoint):
        return checkpoint
    there = os.path.isdir(checkpoint)
    if checkpoint in known:
        if there:
            _LOG.warning(
                "--checkpoint=%s: the model of the package; the folder here is ./%s",
                *(checkpoint, checkpoint),
            )
        return str(known[checkpoint])
    if there:
        return checkpoint
    near = difflib.get_close_matches(checkpoint, known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    have = f"a model of the package ({', '.join(known)}), " if known else ""
    raise errors.UserError(
        f"--checkpoint={messages.shorten(checkpoint)}: no such folder; {hint}accepted: {have}the "
        "workdir of a run, or a folder made by madad-jax package"
    )


def _is_path(text: str) -> bool:
    """Whether a text can only be a path: it has a separator, or starts with a dot or `~`."""
    return os.sep in text or "/" in text or text.startswith((".", "~"))
