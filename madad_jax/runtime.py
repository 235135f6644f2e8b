"""The process around a run: hosts, compile cache, one line about the machine, signals.

Exit status of a stopped run, after its state was saved: 143 for SIGTERM (preemption) and 130
for SIGINT (ctrl-C), as shells count them (128 + signal). 75 when another process of the job is
gone or nothing moves (`processes`).
"""

import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import signal as signals
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from madad_jax import processes
from madad_jax.core import errors, version

_LOG = logging.getLogger(__name__)

EXIT_SIGTERM = 128 + signals.SIGTERM
EXIT_SIGINT = 128 + signals.SIGINT

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def default_cache_dir() -> str:
    """`$XDG_CACHE_HOME/madad_jax/xla`, or the same under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return os.fspath(pathlib.Path(base) / "madad_jax" / "xla")


def start(
    *,
    distributed: bool = False,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    cache_dir: str | None = None,
    join_timeout: int = 300,
    heartbeat_timeout: int = 100,
    hang_timeout: float = 0.0,
) -> None:
    """Joins the other hosts when asked, and turns the persistent compile cache on.

    Must run before anything asks JAX for its devices.

    Args:
      distributed: call `jax.distributed.initialize`; also when `coordinator_address` or the
        environment's `JAX_COORDINATOR_ADDRESS` is set. On Cloud TPU and Slurm the rest is found
        by JAX itself.
      coordinator_address: `host:port` of process 0.
      num_processes: default `JAX_NUM_PROCESSES`.
      process_id: default `JAX_PROCESS_ID`.
      cache_dir: None for `$JAX_COMPILATION_CACHE_DIR` or `default_cache_dir()`; "" for none.
      join_timeout: seconds to wait for the other processes at the start.
      heartbeat_timeout: seconds after which JAX takes a silent process for gone.
      hang_timeout: seconds without progress after which the job is ended; 0 waits for ever.

    Raises:
      UserError: when nobody says which processes there are.
      processes.Lost: when the others did not come in time.
    """
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if distributed or address:
        count = _integer("JAX_NUM_PROCESSES", num_processes)
        index = _integer("JAX_PROCESS_ID", process_id)
        try:
            jax.distributed.initialize(
                address,
                count,
                index,
                initialization_timeout=join_timeout,
                heartbeat_timeout_seconds=heartbeat_timeout,
            )
        except (RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            kind = errors.UserError if isinstance(error, ValueError) else processes.Lost
            raise kind(
                f"cannot join the other processes at {address or 'an address found by JAX'} "
                f"(process {index} of {count}): {reason}"
            ) from error
        processes.begin(hang_timeout)
    _use_cache(os.environ.get(CACHE_VARIABLE) if cache_dir is None else cache_dir)


def _integer(variable: str, value: int | None) -> int | None:
    """`value`, or the environment's."""
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    try:
        return int(text)
    except ValueError as error:
        raise errors.UserError(f"{variable}: found {text!r}, must be an integer") from error


def _use_cache(folder: str | None) -> None:
    """Keeps compiled programs in `folder` (None: the default, "": nowhere)."""
    if folder == "":
        return
    folder = folder or default_cache_dir()
    if "://" not in folder:
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:  # A convenience: a run must not fail for it.
            _LOG.warning("no compile cache in %s: %s", folder, error.strerror)
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def package_version(name: str) -> str:
    """The installed version of a package, without importing it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def device_line() -> str:
    """One line: devices, processes, and the versions that a bug report needs."""
    device = jax.devices()[0]
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    packages = ", ".join(f"{name} {package_version(name)}" for name in PACKAGES)
    return (
        f"{jax.device_count()} x {device.platform}{kind}, {jax.process_count()} process(es); "
        f"madad_jax {version.VERSION}, {packages}, Python {platform.python_version()}"
    )


def minutes_passed(since: float, minutes: float) -> bool:
    """Whether `minutes` (0 for never) have passed since `time.monotonic()` was `since`.

    With several processes the clock of process 0 decides for all, since what follows is a save
    that all must join; every process must then call it, at the same step.
    """
    if minutes <= 0:
        return False
    passed = time.monotonic() - since >= 60 * minutes
    if jax.process_count() > 1:
        passed = bool(multihost_utils.broadcast_one_to_all(np.asarray(passed)))
    return passed


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` gives on process 0, on every process; every process must call it.

    What process 0 has just written others may not see yet, and then they would go another way
    than it does.

    Args:
      make: gives something that JSON holds; called on process 0 alone.

    Raises:
      UserError: the one that `make` raised, on every process.
    """
    if not processes.several():
        return make()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": make()}
        except errors.UserError as error:
            answer = {"error": str(error)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = text[:size]
    whole = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    answer = json.loads(whole.tobytes().decode())
    if "error" in answer:
        raise errors.UserError(answer["error"])
    return answer["value"]


class Stopped(Exception):
    """A signal asked for the end and the state was saved. `main` exits with `exit_status`."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = int(signal)

    @property
    def exit_status(self) -> int:
        """128 + the signal's number."""
        return 128 + self.signal


class GracefulStop:
    """Context in which SIGTERM and SIGINT ask for a stop between steps.

    A second SIGINT raises `KeyboardInterrupt` at once. In a job of several processes the signal
    may reach one host only, so SIGTERM is left to JAX's preemption service, which makes all
    processes agree on the step after which they stop; SIGINT keeps its default there.

    Args:
      alone: this process shares no step with the others, and stops by itself.
    """

    def __init__(self, alone: bool = False) -> None:
        self._alone = alone
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        ours = self._alone or not processes.several()
        if threading.current_thread() is threading.main_thread() and ours:
            for number in (signals.SIGTERM, signals.SIGINT):
                self._old[number] = signals.signal(number, self._handle)
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._old.items():
            signals.signal(number, handler)
        self._old.clear()

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`. Call once a step, in every process.

        The step number is what several processes agree on; Orbax hands the same numbers to the
        same service when it saves.
        """
        if (
            self.signal is None
            and processes.several()
            and multihost_utils.reached_preemption_sync_point(step)
        ):
            self.signal = signals.SIGTERM
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """Status to leave with: 0 when no signal came."""
        return 0 if self.signal is None else 128 + self.signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signals.SIGINT and self.signal == signals.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
