#!/usr/bin/env bash
# One call on one GPU, of at most eight minutes: prints its table last and leaves JSON in $OUT.
#
#   OUT=/some/folder benchmarks/gpu/run.sh           # PYTHON names the interpreter
#   DRY=1 OUT=/some/folder benchmarks/gpu/run.sh     # tiny sizes, any device: a rehearsal
#
# Packages that are missing there come from benchmarks/gpu/wheels, which wheels.sh fills on a
# machine with a registry. SLICES names a folder of slices for the training at the end.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python="${PYTHON:-python3}"
: "${OUT:?names the folder that takes the results}"
mkdir -p "$OUT"
site="$(mktemp -d)"
trap 'rm -rf "$site"' EXIT
if compgen -G 'benchmarks/gpu/wheels/*.whl' >/dev/null; then
  # Beside what is installed and behind it: no package of the machine is exchanged.
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" benchmarks/gpu/wheels/*.whl
fi
# Both sides of a comparison share the device, so neither may take it whole.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
export GPU_BENCH_SITE="$site" PYTHONPATH="$PWD"
export JAX_COMPILATION_CACHE_DIR="$site/xla" TF_CPP_MIN_LOG_LEVEL=2
exec_args=(--out="$OUT" --seconds="${SECONDS_LIMIT:-450}")
[[ -z "${PARTS:-}" ]] || exec_args+=(--parts="$PARTS") # steps,maps,agreement,sibling
if [[ -n "${DRY:-}" ]]; then
  exec_args+=(--dry)
  export JAX_DISABLE_MOST_OPTIMIZATIONS=1 # a rehearsal compiles more than it computes
fi
"$python" -m benchmarks.gpu "${exec_args[@]}"
