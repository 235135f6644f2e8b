"""Set up before anything imports JAX: eight CPU devices, shape checks, a compile cache."""
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
