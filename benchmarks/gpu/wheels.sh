#!/usr/bin/env bash
# Wheels of what a machine with jax, torch, flax, optax and orbax lacks, for Python 3.12 on Linux.
#
#   benchmarks/gpu/wheels.sh              # into benchmarks/gpu/wheels; prints their size
#   benchmarks/gpu/wheels.sh --sibling    # for PARTS=sibling, which reads pictures, without the rivals
#   benchmarks/gpu/wheels.sh --list       # the names alone
#
# OpenCV is larger than all others together, which is why it does not travel with them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ours=(ml-collections jaxtyping wadler-lindig tqdm safetensors flatbuffers nibabel pydicom pyyaml
  grain array-record cloudpickle portpicker pillow tensorboardX)
rivals=(monai diffusers huggingface-hub regex importlib-metadata requests certifi idna urllib3
  charset-normalizer httpx httpcore h11 anyio)
if [[ "${1:-}" == --sibling ]]; then
  ours+=(opencv-python-headless)
  rivals=()
fi
if [[ "${1:-}" == --list ]]; then
  printf '%s\n' "${ours[@]}" "${rivals[@]}"
  exit
fi
constraints="$here/../../constraints/python3.12.txt"
pinned=() free=()
for name in "${ours[@]}" "${rivals[@]}"; do
  # The tested version where there is one.
  line="$(grep -i "^${name//-/[-_]}==" "$constraints" || true)"
  if [[ -n "$line" ]]; then pinned+=("$line"); else free+=("$name"); fi
done
mkdir -p "$here/wheels"
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --dest "$here/wheels" \
  --python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
  --platform any "${pinned[@]}" "${free[@]}"
du -csh "$here"/wheels/*.whl
