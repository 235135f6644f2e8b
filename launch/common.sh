# shellcheck shell=bash
# Sourced by the scripts beside it: their common flags, and when to start again.
#
#   --config=FILE   experiment, as configs/brats.py:FLAIR
#   --workdir=DIR   folder of the run: a disk that all hosts share, or gs://...
#   --xla_flags=M   a set of compiler flags: v5e, v6e or h100 (launch/xla_flags)
#   --dry_run       print what would be done, and do nothing
# Everything that a script does not know is handed to the program (--config.optim.lr=1e-4).

# shellcheck disable=SC2034 # the scripts read them
config="" workdir="" dry_run=0 rest=() flag_set=""

# take FLAG: the flags that all scripts have; false for others.
# shellcheck disable=SC2034
take() {
  case "$1" in
    --config=*) config="${1#*=}" ;;
    --workdir=*) workdir="${1#*=}" ;;
    --xla_flags=*) flag_set="${1#*=}" ;;
    --dry_run) dry_run=1 ;;
    *) return 1 ;;
  esac
}

fail() {
  echo "$(basename "$0"): error: $*" >&2
  exit 2
}

# need_run: ends with status 2 unless config and workdir were given.
need_run() {
  [[ -n "$config" ]] || fail "--config is missing; for example --config=configs/demo.py"
  [[ -n "$workdir" ]] || fail "--workdir is missing; give a folder that all hosts share"
  case "$flag_set" in
    "" | v5e | v6e | h100) ;;
    *) fail "--xla_flags: found '$flag_set', accepted: v5e, v6e, h100" ;;
  esac
}

# flags_of MACHINE: its set as NAME=VALUE, the first line of the file being the name.
flags_of() {
  local file
  file="$(dirname "${BASH_SOURCE[0]}")/xla_flags/$1.txt"
  printf '%s=%s' "$(sed -n '1s/^# //p' "$file")" "$(sed -n 's/ *#.*//; /^--/p' "$file" | paste -sd' ')"
}

# program_line: what every host runs, quoted for a shell. The same in every script.
program_line() {
  # `env` and no assignment: srun and Kubernetes start programs without a shell.
  [[ -z "$flag_set" ]] || printf 'env %q ' "$(flags_of "$flag_set")"
  printf 'python -m madad_jax.main --config=%q --workdir=%q --distributed' "$config" "$workdir"
  ((${#rest[@]} == 0)) || printf ' %q' "${rest[@]}"
  echo
}

# keep_running ATTEMPT: calls the function ATTEMPT until it is done; returns the last status.
#   0 done · 2 bad input and 130 ctrl-C: never again · 143 preempted: again, as often as it takes
#   others (75 a process lost or hung, 134 and 137 killed, ...): again, waiting longer each time,
#   at most $max_restarts times in a row. An attempt of ten minutes starts the count anew.
keep_running() {
  local failures=0 status began wait
  while true; do
    began=$SECONDS
    status=0
    "$1" || status=$?
    case "$status" in
      0 | 2 | 130) return "$status" ;;
      143) failures=0 wait=1 ;;
      *)
        ((SECONDS - began < 600)) || failures=0
        failures=$((failures + 1))
        if ((failures > ${max_restarts:=10})); then
          echo "exit status $status, and $max_restarts restarts did not help: giving up" >&2
          return "$status"
        fi
        wait=$((first_wait * 2 ** (failures < 7 ? failures - 1 : 6)))
        ;;
    esac
    [[ -z "${stopping:-}" ]] || return "$status"
    echo "exit status $status: starting again in $wait s" >&2
    sleep "$wait"
  done
}
first_wait="${FIRST_WAIT:-5}" # seconds before the first restart after a failure; doubles

# worst STATUS...: the one status of several processes that says most: bad input (2) over being
# lost, that over preemption (143), that over done.
worst() {
  local found=0 status
  for status in "$@"; do
    case "$status" in
      2) found=2 && break ;;
      0) ;;
      143) ((found != 0)) || found=143 ;;
      *) found="$status" ;;
    esac
  done
  echo "$found"
}
