#!/usr/bin/env bash
# XLA's flag --xla_force_host_platform_device_count=8 splits a CPU into eight devices, for tests of sharding. A program
# that runs on one of them alone, without sharding, gives other last digits than with one device: fake devices add
# threads, and long sums of a matrix product are split by threads. Two devices on one core gave what one device gave on
# two cores. Seen with jax and jaxlib 0.10.2 and 0.12.0.1 on one core. So a process with one device need not equal, to the
# bit, a test suite that has eight.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

cat > "$folder/product.py" <<'CODE'
import hashlib

import jax
import numpy as np

x = np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32)
found = jax.jit(lambda a: a.T @ a)(x)
assert found.sharding.num_devices == 1
print(hashlib.sha256(np.asarray(found).tobytes()).hexdigest()[:12])
CODE
export JAX_PLATFORMS=cpu
for version in 0.10.2 0.12.0.1; do
  "${PYTHON:-python3.12}" -m venv "$folder/$version"
  python="$folder/$version/bin/python"
  "$python" -m pip install --quiet --disable-pip-version-check "jax==$version" "jaxlib==$version" numpy==2.4.6 2>"$folder/errors" || {
    cat "$folder/errors" >&2
    exit 1
  }
  one=() eight=()
  for _ in 1 2; do
    # One core, whatever the machine has.
    one+=("$(XLA_FLAGS=--xla_force_host_platform_device_count=1 taskset -c 0 "$python" "$folder/product.py")")
    eight+=("$(XLA_FLAGS=--xla_force_host_platform_device_count=8 taskset -c 0 "$python" "$folder/product.py")")
  done
  echo "jax $version: one device ${one[*]}; eight devices ${eight[*]}"
  [[ "${one[0]}" == "${one[1]}" && "${eight[0]}" == "${eight[1]}" ]] || { echo "two runs differ"; exit 1; }
  [[ "${one[0]}" != "${eight[0]}" ]] || { echo "this has changed: the digits are the same"; exit 1; }
done
