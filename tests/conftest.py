"""Set up before anything imports JAX: eight CPU devices, shape checks, quick compilation, a cache.

Most programs here are compiled once and run once on tiny arrays, so that their optimisation was
most of the cost. Tests therefore compile without the expensive passes, in this process and in
those that they start. With JAX_DISABLE_MOST_OPTIMIZATIONS=0, as `make test-slow` has it, they
compile as users do.
"""
# ruff: noqa: E402

import gc
import os
import pathlib

from tests import compile_flags

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
_FLAGS = [os.environ.get("XLA_FLAGS", ""), compile_flags.quick() if _QUICK else ""]
if compile_flags.DEVICES not in _FLAGS[0]:
    _FLAGS.append(f"{compile_flags.DEVICES}=8")
os.environ["XLA_FLAGS"] = " ".join(" ".join(_FLAGS).split())
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "madad_jax" / "xla_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import hypothesis
import jaxtyping
from absl import flags

# Annotated shapes are checked at every call of every public function during tests.
jaxtyping.install_import_hook("madad_jax", "beartype.beartype")

# Grain's worker processes read absl flags, which only `absl.app.run` parses.
flags.FLAGS.mark_as_parsed()

# The same examples every time and no time limit: what passed here passes on a slower machine.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repository")


# They take longest, so they start first: the end then waits for no single long file.
_LONG = ("tests/e2e/", "tests/predict/", "tests/models/", "tests/methods/")


def pytest_collection_modifyitems(items):
    """Long files first; the order inside of a file stays, and with it the shared fixtures."""
    rank = {room: place for place, room in enumerate(_LONG)}
    rooms = ("/".join(item.nodeid.split("/")[:2]) + "/" for item in items)
    order = [rank.get(room, len(_LONG)) for room in rooms]
    items[:] = [item for _, item in sorted(zip(order, items, strict=True), key=lambda one: one[0])]


def pytest_collection_finish(session):
    """Modules are never garbage: without this every collection looks through all of them again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
