#!/usr/bin/env bash
# jax.experimental.serialize_executable writes a compiled program that another process loads and calls without compiling.
# A program that came from JAX's persistent compilation cache is written too, without a word, but at half the bytes. It
# loads, and fails when it is first called: JaxRuntimeError "NOT_FOUND: Function ... not found". Seen with jax and jaxlib
# 0.12.0.1 on a CPU. So whether the file is any good depends on how warm the cache was when the program was compiled.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
python="$folder/venv/bin/python"
"$python" -m pip install --quiet --disable-pip-version-check jax==0.12.0.1 jaxlib==0.12.0.1 numpy==2.4.6 2>"$folder/errors" || {
  cat "$folder/errors" >&2
  exit 1
}

cat > "$folder/make.py" <<'CODE'
import pickle
import sys

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
program = jax.jit(lambda x: jnp.sin(x @ x.T).sum(0) * jnp.cumsum(x[:, 0]))
compiled = program.lower(jax.ShapeDtypeStruct((32, 8), jnp.float32)).compile()
parts = serialize_executable.serialize(compiled)
with open(sys.argv[2], "wb") as file:
    pickle.dump(parts, file)
hit = "/jax/compilation_cache/cache_hits" in events
print(f"from the cache: {hit!s:5}  {len(parts[0]):6} bytes")
CODE
cat > "$folder/call.py" <<'CODE'
import pickle
import sys

import jax
import numpy as np
from jax.experimental import serialize_executable


def call(path):
    with open(path, "rb") as file:
        loaded = serialize_executable.deserialize_and_load(*pickle.load(file))
    try:
        return f"{float(np.asarray(loaded(np.ones((32, 8), np.float32)))[0]):.3f}"
    except jax.errors.JaxRuntimeError as error:
        return str(error).split(":")[0]


found = [call(path) for path in sys.argv[1:]]
print("called:", *found)
sys.exit(0 if found == ["31.659", "NOT_FOUND"] else "this has changed: see runtime/executables.py")
CODE
"$python" -c "import jax, sys; print('Python', sys.version.split()[0], 'jax', jax.__version__)"
export JAX_PLATFORMS=cpu
"$python" "$folder/make.py" "$folder/cache" "$folder/compiled"
"$python" "$folder/make.py" "$folder/cache" "$folder/cached"
"$python" "$folder/call.py" "$folder/compiled" "$folder/cached"
