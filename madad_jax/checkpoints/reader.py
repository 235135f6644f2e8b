"""Reads single checkpoint steps and verifies every byte that matters by its digest.

Items are read through Orbax's handlers and not through a manager: a manager ends each restore
at a barrier, where healthy processes would wait for one that found damage. Here every process
tries, then all agree on the outcome.
"""

import contextlib
import errno
import functools
import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from madad_jax.checkpoints import digests
from madad_jax.core import errors, json_digest, json_file, trees

_LOG = logging.getLogger(__name__)

FORMAT = 1
_JSON_FILE = "metadata"  # The name that Orbax's JSON handler gives.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
_DISK_WORDS = ("No space left", "Disk quota", "File too large", "Permission denied", "Read-only")


class DamagedError(Exception):
    """A step that cannot be used as it is; the message says why, in one line."""


def make_record(
    step: int,
    arrays: Mapping[str, str],
    data_state: Any,
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None,
    best: Mapping[str, str] | None,
) -> dict[str, Any]:
    """The digests item of a step: what it holds, how it scored, and its own sha256."""
    record = {
        "format": FORMAT,
        "step": step,
        "arrays": dict(arrays),
        "json": {
            "data": json_digest.json_digest(data_state),
            "config": json_digest.json_digest(config),
        },
        # JSON has no nan; a metric that is none can never be the best.
        "metrics": {
            name: float(value)
            for name, value in (metrics or {}).items()
            if math.isfinite(float(value))
        },
        "best": dict(best) if best else None,
    }
    return record | {"sha256": json_digest.json_digest(record)}


def read_record(directory: epath.PathLike, step: int) -> dict[str, Any]:
    """The digests item of a step, verified.

    Raises:
      DamagedError: when it is missing, unreadable or not what was written.
    """
    record = _read_json(epath.Path(directory) / str(step) / "digests")
    if not isinstance(record, dict):
        raise DamagedError("digests: not a record")
    sha256 = record.pop("sha256", None)
    if sha256 != json_digest.json_digest(record):
        raise DamagedError("digests: content does not match its sha256")
    if record["format"] != FORMAT:
        raise errors.UserError(
            f"{directory}/{step}: checkpoint format {record['format']}, this version reads {FORMAT}"
        )
    if record["step"] != step:
        raise DamagedError(f"digests: of step {record['step']}, not {step}")
    return record


def best(records: Mapping[int, Mapping[str, Any]]) -> int | None:
    """The step with the best metric among `records` by step; the latest of equals.

    By the newest step's rule: a run that a later version continues may have steps of two, whose
    figures do not compare. The rule of steps that are there is not exchanged, since what was
    trained on the best of them would then meet other weights.
    """
    for rule in (records[step]["best"] for step in sorted(records, reverse=True)):
        if not rule:
            continue
        name, sign = rule["metric"], 1 if rule["mode"] == "max" else -1
        known = {s: r["metrics"][name] for s, r in records.items() if name in r["metrics"]}
        if known:
            return max(known, key=lambda step: (sign * known[step], step))
    return None


def steps_of(directory: epath.PathLike) -> list[int]:
    """Committed steps in a folder, oldest first.

    Raises:
      UserError: when the folder is missing or holds none.
    """
    folder = epath.Path(directory)
    if not folder.is_dir():
        raise errors.UserError(f"{directory}: no such folder; expected one with checkpoints")
    from orbax.checkpoint import utils as orbax_steps

    steps = sorted(orbax_steps.checkpoint_steps(folder))
    if not steps:
        raise errors.UserError(f"{directory}: holds no checkpoint; train first")
    return steps


def candidates(directory: epath.PathLike, step: str | int, *, quiet: bool = False) -> list[int]:
    """Steps to try, in this order, for "best", "latest" or a number; `quiet` logs nothing.

    Raises:
      UserError: no checkpoint, or none of that number.
    """
    steps = steps_of(directory)
    if isinstance(step, int):
        if step not in steps:
            found = ", ".join(map(str, steps))
            raise errors.UserError(f"{directory}: no checkpoint of step {step}; found {found}")
        return [step]
    newest_first = steps[::-1]
    if step == "latest":
        return newest_first
    if step != "best":
        raise errors.UserError(f"checkpoint step: found {step!r}; 'best', 'latest' or a number")
    records = {}
    for number in steps:
        try:
            records[number] = read_record(directory, number)
        except DamagedError as error:
            if not quiet:
                _LOG.warning("checkpoint %s/%d is damaged: %s", directory, number, error)
    order = []
    while (number := best(records)) is not None:
        order.append(number)
        del records[number]
    if not order and not quiet:
        _LOG.info("%s: no checkpoint has a metric, taking the newest", directory)
    return order + [number for number in newest_first if number not in order]


def weights_digests(directory: epath.PathLike, part: str = "") -> dict[int, str]:
    """{step: digest of its averaged weights}, in the order in which "best" tries them.

    Read from the records alone. Equal to `digests.weights_digest` of what `saver.restore_ema`
    gives; `part` is a name at the top of that tree. Damage of the arrays shows only when they
    are read.

    Raises:
      UserError: no checkpoint, or none with a whole record.
    """
    prefix, found = "ema_params/" + (f"{part}/" if part else ""), {}
    for number in candidates(directory, "best", quiet=True):
        with contextlib.suppress(DamagedError):
            arrays = read_record(directory, number)["arrays"]
            mine = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
            found[number] = json_digest.json_digest(mine)
    if not found:
        raise errors.UserError(f"{directory}: no checkpoint has a whole record; train it again")
    return found


def read_step(
    directory: epath.PathLike, step: int, targets: Mapping[str, Any], json_items: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Items of one step, verified; every process must call it.

    Args:
      directory: the folder of all steps.
      step: which one.
      targets: array items to read, as trees of arrays or `ShapeDtypeStruct`s.
      json_items: JSON items to read.

    Returns:
      ({item: tree or JSON value}, the digests record).

    Raises:
      UserError: when the arrays are whole but of another model than `targets`.
      DamagedError: when anything that was read is not what was written, on any process.
    """
    quiet_orbax()
    folder = epath.Path(directory) / str(step)
    result, problem = None, None
    try:
        result = _read_and_verify(folder, step, targets, json_items)
    except DamagedError as error:
        problem = error
    if jax.process_count() > 1:
        whole = multihost_utils.process_allgather(np.asarray(problem is None))
        if not np.all(whole) and problem is None:
            problem = DamagedError(f"found so by process {int(np.argmin(whole))}")
    if problem is not None:
        raise problem
    return result


def _read_and_verify(
    folder: epath.Path, step: int, targets: Mapping[str, Any], json_items: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    record = read_record(folder.parent, step)
    items: dict[str, Any] = {}
    for name in json_items:
        items[name] = _read_json(folder / name)
        if json_digest.json_digest(items[name]) != record["json"][name]:
            raise DamagedError(f"{name}: content does not match its sha256")
    _check_model(folder, targets, record["arrays"])
    for name, target in targets.items():
        items[name] = _read_arrays(folder / name, target)
    found = digests.tree_digests({name: items[name] for name in targets})
    wrong = sorted(path for path in found if found[path] != record["arrays"][path])
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise DamagedError(f"{wrong[0]}{more}: content does not match its digest")
    return items, record


def _check_model(folder: epath.Path, targets: Mapping[str, Any], arrays: Mapping[str, str]) -> None:
    """Raises a `UserError` unless the saved arrays are exactly those of `targets`."""
    wanted = trees.tree_signatures(dict(targets))
    saved = {
        path: digest.rpartition(":")[0]
        for path, digest in arrays.items()
        if path.split("/")[0] in targets
    }
    differences = [
        f"{path} is {saved.get(path, 'missing')} in the checkpoint and "
        f"{wanted.get(path, 'missing')} in the model"
        for path in sorted(wanted.keys() | saved.keys())
        if wanted.get(path) != saved.get(path)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise errors.UserError(
            f"{folder}: checkpoint of another model: {'; '.join(differences[:3])}{more}"
        )


def _read_json(folder: epath.Path) -> Any:
    path = folder / _JSON_FILE
    try:
        return json_file.parse(path.read_bytes(), f"{folder.name}/{path.name}")
    except FileNotFoundError as error:
        raise DamagedError(f"{folder.name}: file {path.name} is missing") from error
    except errors.UserError as error:
        raise DamagedError(f"{folder.name}: not JSON: {error}") from error


def _read_arrays(folder: epath.Path, target: Any) -> Any:
    """One array item onto the shardings of `target` (the first local device without any)."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            np.shape(x), x.dtype, sharding=getattr(x, "sharding", None) or default
        ),
        target,
    )
    # A second to import, and a packaged model has no checkpoints.
    import orbax.checkpoint as ocp

    handler = ocp.StandardCheckpointHandler()
    args = ocp.args.StandardRestore(abstract)
    try:
        return handler.restore(folder, args=args)
    except MemoryError:
        raise
    except Exception as error:
        # Damage shows as nearly any exception (JSON, codec, tensorstore, missing keys). Two
        # that are none must not condemn a step: memory that ran out, and files not ours to read.
        text = str(error)
        if "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
            raise
        if isinstance(error, PermissionError) or "Permission denied" in text:
            raise errors.UserError(f"{folder}: not permitted to read") from error
        reason = text.splitlines()[0][:200] if text else ""
        raise DamagedError(f"{folder.name}: {type(error).__name__}: {reason}") from error
    finally:
        handler.close()


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return record.levelno != logging.ERROR or "/orbax/" not in record.pathname


def _unraisable(hook: Callable[[Any], Any], report: Any) -> None:
    if str(report.exc_value) != "Event loop is closed":
        hook(report)


@functools.cache
def quiet_orbax() -> None:
    """Drops tracebacks of Orbax's threads: whatever goes wrong there is raised here as well.

    Errors that its threads log before they hand them on, and reads or writes of tensorstore
    that come back to a closed event loop, or were not begun, after another one has failed.
    """
    logging.getLogger("absl").addFilter(_not_from_orbax)
    sys.unraisablehook = functools.partial(_unraisable, sys.unraisablehook)
    warnings.filterwarnings("ignore", "coroutine 'Store", RuntimeWarning)


@contextlib.contextmanager
def explain(directory: epath.PathLike) -> Iterator[None]:
    """Turns errors of the disk inside into a `UserError` that names the folder.

    Tensorstore reports a full disk as a `ValueError` with the system's words in it.
    """
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:
        text = str(error)
        words = next((w for w in _DISK_WORDS if w.lower() in text.lower()), None)
        if isinstance(error, OSError) and error.strerror:
            words = error.strerror
        elif not words and not (isinstance(error, OSError) and error.errno in _DISK_ERRORS):
            raise
        raise errors.UserError(f"{directory}: cannot write checkpoints here: {words}") from error
