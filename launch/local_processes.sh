#!/usr/bin/env bash
# Several processes on this machine, as one job; starts them again when one is lost.
#
#   launch/local_processes.sh --processes=2 --config=configs/demo.py --workdir=runs/demo2
#
#   --processes=N      how many (default 2)
#   --devices=N        fake CPU devices a process (default 1); 0 leaves the devices to JAX
#   --max_restarts=N   after failures in a row (default 10)
# and --config, --workdir, --dry_run and the program's own flags: see common.sh. PYTHON names the
# interpreter. On a machine with accelerators one process drives them all: this script is for
# CPUs, tests and rehearsals. ctrl-C and SIGTERM are handed on: the run saves and ends with 143.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

processes=2 devices=1 max_restarts=10
for flag in "$@"; do
  take "$flag" && continue
  case "$flag" in
    --processes=*) processes="${flag#*=}" ;;
    --devices=*) devices="${flag#*=}" ;;
    --max_restarts=*) max_restarts="${flag#*=}" ;;
    *) rest+=("$flag") ;;
  esac
done
need_run
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes: found '$processes', must be 1 or more"
[[ "$devices" =~ ^[0-9]+$ ]] || fail "--devices: found '$devices', must be 0 or more"
[[ "$max_restarts" =~ ^[0-9]+$ ]] || fail "--max_restarts: found '$max_restarts', must be 0 or more"

export JAX_NUM_PROCESSES="$processes"
if ((devices > 0)); then
  export JAX_PLATFORMS=cpu
  XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
  export XLA_FLAGS
fi
program() { # the line that all scripts end in, with the interpreter of PYTHON
  python() { exec "${PYTHON:-$(type -P python3)}" "$@"; }
  env() { export "${1?}" && "${@:2}"; } # the real one would not find the function above
  eval "$(program_line)"
}
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break # nobody answers: free
  done
  echo "$port"
}

if ((dry_run)); then
  for ((k = 0; k < processes; k++)); do
    echo "JAX_COORDINATOR_ADDRESS=localhost:PORT JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$k \\"
    program_line
  done
  exit
fi

pids=() stopping=""
hand_on() {
  stopping=1
  ((${#pids[@]} == 0)) || kill -TERM "${pids[@]}" 2>/dev/null || true
}
trap hand_on INT TERM

attempt() {
  local k pid status statuses=()
  JAX_COORDINATOR_ADDRESS="localhost:$(free_port)"
  export JAX_COORDINATOR_ADDRESS
  pids=()
  for ((k = 0; k < processes; k++)); do
    JAX_PROCESS_ID="$k" program &
    pids+=("$!")
  done
  for pid in "${pids[@]}"; do
    status=0
    wait "$pid" || status=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal to this script interrupts `wait`
      status=0
      wait "$pid" || status=$?
    done
    statuses+=("$status")
  done
  pids=()
  return "$(worst "${statuses[@]}")"
}
keep_running attempt
