"""Set up before anything imports JAX: eight CPU devices, shape checks, quick compilation, a cache.

Most programs here are compiled once and run once on tiny arrays, so optimising them is most of
the cost. They are compiled without the expensive passes, in this process and in those that it
starts. What measures a program or compares it with stored numbers is marked `optimised`.
JAX_DISABLE_MOST_OPTIMIZATIONS=0 optimises every program.
"""
# ruff: noqa: E402

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "madad_jax" / "xla_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
_UNOPTIMISED = "JAX_DISABLE_MOST_OPTIMIZATIONS"
_QUICK = os.environ.setdefault(_UNOPTIMISED, "1").lower() not in ("0", "false", "")

import hypothesis
import jax
import jaxtyping
import pytest
from absl import flags

# Annotated shapes are checked at every call of every public function during tests.
jaxtyping.install_import_hook("madad_jax", "beartype.beartype")

# Grain's worker processes read absl flags, which only `absl.app.run` parses.
flags.FLAGS.mark_as_parsed()

# The same examples every time and no time limit: what passed here passes on a slower machine.
hypothesis.settings.register_profile("repository", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repository")


@pytest.hookimpl(tryfirst=True)  # before any fixture of the test compiles
def pytest_runtest_setup(item):
    quick = _QUICK and item.get_closest_marker("optimised") is None
    os.environ[_UNOPTIMISED] = str(int(quick))  # for the processes that the test starts
    jax.config.update("jax_disable_most_optimizations", quick)
