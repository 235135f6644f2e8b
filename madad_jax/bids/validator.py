"""The validator of BIDS, where it is installed: a data set is held against the rules beforehand.

It is a program of its own (`pip install bids-validator-deno`) and no requirement.
"""

import logging
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

from madad_jax.core import errors, json_file, messages

_LOG = logging.getLogger(__name__)
PROGRAM = "bids-validator-deno"
SKIP = "--skip-bids-validation"
# Of single damaged files: a row of the table each, and no reason to refuse all others.
_OF_A_FILE = ("EMPTY_FILE", "NIFTI_HEADER_UNREADABLE", "SYMLINK_BROKEN")


def find() -> str:
    """The program's path; "" where it is not installed."""
    # Beside Python's too: a virtual environment need not be on the path.
    beside = str(pathlib.Path(sys.executable).parent)
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=beside) or ""


def list_issues(root: str, program: str) -> list[dict[str, Any]]:
    """What the validator says of a data set: `severity`, `code`, `location` and more, each.

    Raises:
      UserError: the program does not run, or its answer cannot be read.
    """
    # Deno asks the network for newer versions of itself otherwise.
    environment = os.environ | {"DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    # It starts a program of its own installation, deno, which the path need not name.
    environment["PATH"] = os.pathsep.join([str(pathlib.Path(program).parent), os.environ["PATH"]])
    try:
        done = subprocess.run(
            [program, "--format", "json", os.path.abspath(root)],
            env=environment,
            capture_output=True,
            check=False,
        )
        answer = json_file.parse_object(done.stdout, PROGRAM)
        found = answer["issues"]["issues"]
        return [issue for issue in found if isinstance(issue["code"], str)]
    except (OSError, errors.UserError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{PROGRAM} gave no answer that can be read ({messages.shorten(error)}); {SKIP} goes "
            "on without it"
        ) from error


def check(root: str) -> None:
    """Refuses a data set with errors; says so where nobody can tell.

    Files that are damaged inside are told and no error: their scans fail one by one.

    Raises:
      UserError: errors of the data set, each code with a place.
    """
    program = find()
    if not program:
        _LOG.warning("%s is not installed: the data set is not validated", PROGRAM)
        return
    wrong: dict[str, list[str]] = {}
    for issue in list_issues(root, program):
        if issue.get("severity") == "error":
            place = str(issue.get("location", "")).lstrip("/")
            wrong.setdefault(issue["code"], []).append(place)
    damaged = sorted({place for code in _OF_A_FILE for place in wrong.pop(code, [])})
    if damaged:
        shown = messages.shorten(", ".join(damaged), 200)
        _LOG.warning("%s: %d damaged files: %s", PROGRAM, len(damaged), shown)
    if wrong:
        codes = [f"{code} ({len(at)}, as '{at[0]}')" for code, at in sorted(wrong.items())]
        raise errors.UserError(
            f"bids_dir={root}: {PROGRAM} found errors: {messages.shorten('; '.join(codes), 600)}; "
            f"mend them, or go on with {SKIP}"
        )
    _LOG.info("%s: no errors", PROGRAM)
