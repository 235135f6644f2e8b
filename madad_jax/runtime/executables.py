"""Compiled programs kept whole: a later process loads them without tracing, lowering or compiling.

JAX checks nothing about an executable that it loads. Its key here holds all that made it: a
fingerprint of the traced function, our sources, versions, the machine, flags, shapes and layouts.
The folder lies in the cache of the user, for whom alone it is open: executables are code. Whatever
does not fit or cannot be read is compiled. A job of several processes keeps nothing.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
import pickle
import platform
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import serialize_executable

from madad_jax.runtime import fingerprints, private_folder

_LOG = logging.getLogger(__name__)

NAME = "executables"
MOST_BYTES = 2 << 30
# What changes nothing in a program: where files lie, and what is said of it.
_SILENT = ("cache", "dump", "log_compiles", "logging", "traceback", "address", "timeout")
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "TF_ENABLE_ONEDNN_OPTS")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "ml_dtypes")

_SETTINGS = jax.config  # of JAX; no experiment's

# What happened in this process: "loaded", "compiled", "kept", "refused", "not kept".
counts: collections.Counter[str] = collections.Counter()
_folder: list[pathlib.Path] = []
_HIT = "/jax/compilation_cache/cache_hits"
_THREAD = threading.local()


def use(folder: pathlib.Path | None) -> None:
    """Keeps programs in `folder`, which is made for the user alone; None: nowhere."""
    _folder.clear()
    if folder is None:
        return
    try:
        private_folder.make(folder)
    except private_folder.Refused as error:
        _LOG.warning("programs are not kept whole: %s", error)
        return
    _folder.append(folder)


def compiled(
    name: str,
    program: Any,
    arguments: Sequence[Any],
    reads: Any,
    devices: Sequence[jax.Device],
) -> jax.stages.Compiled:
    """The compiled `program(*arguments)`, loaded where it was kept before.

    Args:
      name: for the log and the file.
      program: what `jax.jit` gave.
      arguments: arrays, or their abstract values with shardings.
      reads: everything that the trace depends on: functions, options, shardings.
      devices: it runs on.
    """
    about = _describe(name, (reads, _layouts(arguments)), devices)
    file = _file_name(name, about)
    loaded = _load(name, file, about, devices)
    if loaded is not None:
        return loaded
    lowered = program.lower(*arguments)
    same, place = "", ""
    # What was refused just now would be found again.
    if about and not (_folder[0] / file).exists():
        # Other sources may say the same; JAX's cache would give what cannot be kept (see below).
        same = _describe_lowered(name, lowered, arguments, devices)
        place = _file_name(f"{name} by text", same)
        loaded = _load(name, place, same, devices)
        if loaded is not None:
            _point(file, about, _read(place, same))
            return loaded
    _THREAD.hits = 0
    made = lowered.compile()
    counts["compiled"] += 1
    # Out of JAX's own cache an executable lacks what it was made from: written down once more, it
    # loads, and fails where it is called.
    if about and _THREAD.hits:
        counts["not kept"] += 1
        _LOG.info("%s: out of the compile cache, and not kept whole", name)
    elif _keep(file, about, lambda: serialize_executable.serialize(made)):
        _point(place, same, _Elsewhere(file, about))
    return made


@dataclasses.dataclass(frozen=True)
class _Elsewhere:
    """In place of a program: the file that holds it, and all that this one depends on."""

    file: str
    about: str


def _load(
    name: str, file: str, about: str, devices: Sequence[jax.Device]
) -> jax.stages.Compiled | None:
    """The program that was kept in `file`; None: there is none, or none to be trusted."""
    started = time.monotonic()
    found = _read(file, about)
    if isinstance(found, _Elsewhere):
        file, about = found.file, found.about
        found = _read(file, about)
    if found is None:
        return None
    try:
        loaded = serialize_executable.deserialize_and_load(
            *found, backend=devices[0].client, execution_devices=list(devices)
        )
    # The parser of a damaged executable raises whatever it comes upon.
    except Exception as error:
        return _refuse(f"{file}: {' '.join(str(error).split())[:200]}")
    counts["loaded"] += 1
    _LOG.info("%s: program loaded in %.2f s", name, time.monotonic() - started)
    return loaded


def _count_hit(event: str, **unused: Any) -> None:
    # Called in the thread that compiles.
    if event == _HIT:
        _THREAD.hits = getattr(_THREAD, "hits", 0) + 1


jax.monitoring.register_event_listener(_count_hit)


def shapes(name: str, make: Callable[[], Any], reads: Any) -> Any:
    """`jax.eval_shape(make)`, read where it was kept before.

    Args:
      name: for the file.
      make: gives the arrays.
      reads: everything that the trace depends on.
    """
    about = _describe(name, reads, ())
    file = _file_name(name, about)
    found = _read(file, about)
    if found is not None:
        tree, leaves = found
        make_leaf = jax.ShapeDtypeStruct
        return jax.tree.unflatten(tree, [make_leaf(s, d, weak_type=w) for s, d, w in leaves])
    abstract = jax.eval_shape(make)
    leaves, tree = jax.tree.flatten(abstract)
    kept = [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]
    _keep(file, about, lambda: (tree, kept))
    return abstract


def _read(file: str, about: str) -> Any:
    """What was kept in `file`; None: nothing, or nothing that is to be trusted."""
    if not about:
        return None
    try:
        content = private_folder.read(_folder[0], file, about)
        # In this folder alone: it is the user's own, and a pickle is code as the program is.
        found = None if content is None else pickle.loads(content)
    except private_folder.Refused as error:
        return _refuse(str(error))
    # Unpickling a package that changed raises whatever its classes raise.
    except Exception as error:
        return _refuse(f"{file}: {' '.join(str(error).split())[:200]}")
    if found is not None:
        private_folder.touch(_folder[0], file)
    return found


def _refuse(reason: str) -> None:
    counts["refused"] += 1
    _LOG.warning("a program is compiled anew: %s", reason)


def _point(file: str, about: str, target: _Elsewhere) -> None:
    """Lets `file` lead to a program that is kept; without it that is compiled once more."""
    if about:
        with contextlib.suppress(private_folder.Refused, OSError):
            private_folder.write(_folder[0], file, about, pickle.dumps(target), MOST_BYTES)


def _keep(file: str, about: str, make: Callable[[], Any]) -> bool:
    """Writes what `make` gives; False: it is not there."""
    if not about:
        return False
    try:
        content = pickle.dumps(make())
        private_folder.write(_folder[0], file, about, content, MOST_BYTES)
    # Not every program can be written down (host callbacks): it is compiled again next time.
    except Exception as error:
        counts["not kept"] += 1
        _LOG.info("%s is not kept: %s", file, " ".join(str(error).split())[:200])
        return False
    counts["kept"] += 1
    return True


def _describe(name: str, reads: Any, devices: Sequence[jax.Device]) -> str:
    """One line that holds all that a program depends on; "": it is not to be kept."""
    if not _folder or jax.process_count() > 1 or not _SETTINGS.jax_enable_compilation_cache:
        return ""
    if jax.default_backend() not in ("cpu", "gpu"):
        return ""
    try:
        read = fingerprints.fingerprint(reads)
    except fingerprints.Unknown as error:
        counts["not kept"] += 1
        _LOG.info("%s is not kept: it reads %s", name, error)
        return ""
    parts = {"name": name, "reads": read, **_surroundings()}
    parts["devices"] = [[d.id, d.platform, d.device_kind] for d in devices]
    return json.dumps(parts, sort_keys=True)


def _describe_lowered(
    name: str, lowered: Any, arguments: Sequence[Any], devices: Sequence[jax.Device]
) -> str:
    """As `_describe` of what was lowered, whatever sources it came from."""
    text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    trees = [str(lowered.in_tree), str(lowered.out_tree)]
    parts = {"name": name, "text": text, "trees": trees, "layouts": _layouts(arguments)}
    parts |= {k: v for k, v in _surroundings().items() if k != "sources"}
    parts["devices"] = [[d.id, d.platform, d.device_kind] for d in devices]
    return json.dumps(parts, sort_keys=True)


def _file_name(name: str, about: str) -> str:
    digest = hashlib.sha256(about.encode()).hexdigest()[:32]
    return f"{name.replace('/', '_').replace(' ', '_')}-{digest}"


def _layouts(arguments: Sequence[Any]) -> list[Any]:
    """Structure, shapes, types and shardings of a program's arguments."""
    leaves, tree = jax.tree.flatten(tuple(arguments))
    found: list[Any] = [str(tree)]
    for leaf in leaves:
        aval = jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        where = getattr(leaf, "sharding", None)
        ids = sorted(d.id for d in where.device_set) if where is not None else None
        weak = bool(getattr(aval, "weak_type", False))
        found.append([str(aval.dtype), list(np.shape(leaf)), weak, str(where), ids])
    return found


def _surroundings() -> dict[str, Any]:
    """Sources, versions, machine and flags."""
    values = jax.config.values
    flags = {k: repr(v) for k, v in values.items() if not any(word in k for word in _SILENT)}
    return {
        "sources": _source_digest(),
        "packages": _versions(),
        "python": platform.python_version(),
        "machine": _machine(),
        "flags": flags,
        "variables": {name: os.environ.get(name, "") for name in _VARIABLES},
        # A context may differ from the setting of the process.
        "precision": str(_SETTINGS.jax_default_matmul_precision),
        "backend": [d.client.platform_version for d in jax.devices()[:1]],
        "count": jax.device_count(),
    }


@functools.cache
def _source_digest() -> str:
    """Of our own sources: a version does not tell two states of one checkout apart."""
    root = pathlib.Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@functools.cache
def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    if jax.default_backend() == "gpu":
        # The libraries beside the plugin (cuDNN) decide which kernels there are.
        for one in importlib.metadata.distributions():
            if one.name and one.name.lower().startswith(("jax", "nvidia")):
                found[one.name] = one.version
    return found


@functools.cache
def _machine() -> dict[str, Any]:
    """Kind of processor, its instructions and how many there are."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    lines = text.partition("\n\n")[0].splitlines()
    pairs = [[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]
    wanted = ("model name", "flags", "Features", "CPU part")
    facts = {key: value for key, value in pairs if key in wanted}
    return {**facts, "arch": platform.machine(), "count": os.cpu_count()}
