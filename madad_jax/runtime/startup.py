"""The start of a process: other hosts, the compile cache, one line about the machine."""

import importlib.metadata
import logging
import os
import pathlib
import platform

import jax

from madad_jax.core import errors, version
from madad_jax.runtime import executables, watchdog

_LOG = logging.getLogger(__name__)


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
      UserError: when neither flags nor environment say which processes there are.
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
            kind = errors.UserError if isinstance(error, ValueError) else watchdog.Lost
            raise kind(
                f"cannot join the other processes at {address or 'an address found by JAX'} "
                f"(process {index} of {count}): {reason}"
            ) from error
        watchdog.begin(hang_timeout)
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
    executables.use(None)
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
    # Beside the cache, in a folder that no other user may read or write: they are code.
    executables.use(None if "://" in folder else pathlib.Path(folder) / executables.NAME)


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
