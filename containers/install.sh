#!/usr/bin/env bash
# What both images install, as root in a bare Debian 13.
#
#   containers/install.sh system             Python, and dcm2niix for `predict --dcm2niix`
#   containers/install.sh program EXTRAS     the program of this folder, into /opt/madad_jax
#
# EXTRAS are those of pyproject.toml, with commas. Versions are the tested ones of constraints/.
set -euo pipefail
here="$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)"
place=/opt/madad_jax

system() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  apt-get install --yes --no-install-recommends ca-certificates dcm2niix python3 python3-venv
  rm -rf /var/lib/apt/lists/*
  # Compiled programs lie here, each user's in a folder of its own; a volume keeps them.
  mkdir --mode=1777 /cache
}

program() {
  local extras="$1" version pip
  python3 -m venv "$place"
  pip=("$place/bin/python" -m pip --no-cache-dir --disable-pip-version-check install)
  version="$("$place/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
  "${pip[@]}" --constraint "$here/constraints/python$version.txt" "${here}[$extras]"
  # Its weights are all that is needed of it, and it would ask for PyTorch.
  "${pip[@]}" --no-deps deepbet
  "$place/bin/madad-jax" --version
}

case "${1:-}" in
  system) system ;;
  program) program "${2:?EXTRAS are missing, such as dicom or dicom,cuda13}" ;;
  *) echo "install.sh: found '${1:-}'; accepted: system, program EXTRAS" >&2; exit 2 ;;
esac
