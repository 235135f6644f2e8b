"""Commands of the stages: run, timed, stopped with the driver, and skipped when they were done.

`costs.jsonl` gets a line a command: stage, CPU and wall seconds, exit status. `done/STAGE.json`
keeps what a stage was made from; the same stage runs again when that is another.
"""

import hashlib
import json
import pathlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from etils import epath

from madad_jax.core import atomic_files, errors, json_file

ROOT = pathlib.Path(__file__).parents[2]
COSTS = "costs.jsonl"


class Failed(errors.UserError):
    """A command ended with a status that says it is not done; it has told why."""


def call(
    out: pathlib.Path, stage: str, module: str, arguments: Sequence[str], accepted: tuple = (0,)
) -> None:
    """Runs `python -m module arguments` in the project's folder.

    Args:
      out: folder of the costs.
      stage: name in the costs.
      module: what to run.
      arguments: of the command.
      accepted: exit statuses that count as done.

    Raises:
      Failed: another exit status.
    """
    print(f"{stage}: python -m {module} {' '.join(arguments)}", flush=True)
    before, start = _child_seconds(), time.time()
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT)
    try:
        process.wait()
    except BaseException as stop:
        # A terminal sends ctrl-C to both; SIGTERM came to this process alone.
        if not isinstance(stop, KeyboardInterrupt):
            process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        cost = {
            "stage": stage,
            "cpu_s": round(_child_seconds() - before, 2),
            "wall_s": round(time.time() - start, 2),
            "status": process.returncode,
        }
        with (out / COSTS).open("a") as file:
            file.write(json.dumps(cost) + "\n")
    if process.returncode not in accepted:
        raise Failed(f"{stage}: ended with status {process.returncode}; mend that, then run again")


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read_costs(out: pathlib.Path) -> list[dict]:
    """The lines of `costs.jsonl`; none where there is no such file."""
    path = out / COSTS
    if not path.exists():
        return []
    content = atomic_files.read_bytes(epath.Path(path))
    return [json_file.parse_object(line, str(path)) for line in content.splitlines()]


def mark_of(facts: object, files: Sequence[pathlib.Path] = ()) -> str:
    """A digest of what a stage is made from: plain values, and contents of files."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for path in files:
        content = path.read_bytes() if path.exists() else b"none"
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def is_done(out: pathlib.Path, stage: str, mark: str) -> bool:
    """Whether a stage was finished from the same things; says so."""
    path = out / "done" / f"{stage}.json"
    if path.exists() and json_file.read_object(epath.Path(path)).get("mark") == mark:
        print(f"{stage}: done before", flush=True)
        return True
    return False


def finish(out: pathlib.Path, stage: str, mark: str) -> None:
    """Says that a stage is done."""
    atomic_files.write_text(
        epath.Path(out) / "done" / f"{stage}.json", json.dumps({"mark": mark}) + "\n"
    )
