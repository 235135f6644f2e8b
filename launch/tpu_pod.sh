#!/usr/bin/env bash
# A Cloud TPU slice of any size, spot by default: asks for it, installs the code on every host,
# runs, and when the slice is taken away deletes the rest, asks again and continues.
#
#   launch/tpu_pod.sh --name=madad --zone=us-west4-a --type=v5litepod-16 \
#     --runtime=v2-alpha-tpuv5-lite --config=configs/brats.py:FLAIR --workdir=gs://bucket/runs/flair
#
#   --name --zone --type --runtime   of the queued resource and its node
#   --project=P        of gcloud; else gcloud's own
#   --on_demand        not spot
#   --keep             leave the slice when the run is done; else it is deleted
#   --max_restarts=N   after failures in a row (default 10)
# and --config, --workdir, --dry_run and the program's own flags: see common.sh. The workdir must
# be gs:// or a disk mounted on all hosts. Needs gcloud, logged in, and the code committed: what
# HEAD holds is what runs.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

name="" zone="" type="" runtime="" project="" spot=(--spot) keep=0 max_restarts=10
for flag in "$@"; do
  take "$flag" && continue
  case "$flag" in
    --name=*) name="${flag#*=}" ;;
    --zone=*) zone="${flag#*=}" ;;
    --type=*) type="${flag#*=}" ;;
    --runtime=*) runtime="${flag#*=}" ;;
    --project=*) project="${flag#*=}" ;;
    --on_demand) spot=() ;;
    --keep) keep=1 ;;
    --max_restarts=*) max_restarts="${flag#*=}" ;;
    *) rest+=("$flag") ;;
  esac
done
need_run
for needed in name zone type runtime; do
  [[ -n "${!needed}" ]] || fail "--$needed is missing; see the head of this file"
done

where=(--zone="$zone" --quiet)
[[ -z "$project" ]] || where+=(--project="$project")
poll="${POLL:-30}" # seconds between two looks at the queue

do_it() { # runs a command, or prints it
  if ((dry_run)); then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}
queue() { do_it gcloud compute tpus queued-resources "$@" "${where[@]}"; }
on_all_hosts() {
  do_it gcloud compute tpus tpu-vm ssh "$name" --worker=all --command="$1" "${where[@]}"
}
state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2>/dev/null || echo ABSENT
}

create() {
  queue create "$name" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$runtime" "${spot[@]}"
}
delete() { queue delete "$name" --force; }

acquire() { # until the slice is ours; 75 when the queue refused it
  local now
  while true; do
    now="$(state)"
    case "$now" in
      ACTIVE) return 0 ;;
      ABSENT) create || return 75 ;;
      SUSPENDING | DELETING) ;;
      SUSPENDED | FAILED) delete || return 75 ;;
    esac
    [[ "$now" != FAILED ]] || return 75
    echo "$name: $now" >&2
    sleep "$poll"
  done
}

setup='rm -rf madad_jax_run && mkdir madad_jax_run && tar -xzf madad_jax.tgz -C madad_jax_run'
setup+=' && cd madad_jax_run && python3 -m pip install --quiet --user uv'
setup+=' && python3 -m uv venv --quiet --python=3.12 .venv && . .venv/bin/activate'
setup+=' && python3 -m uv pip install --quiet -c constraints/python3.12.txt -r requirements.txt "jax[tpu]"'
install_code() {
  local archive=/tmp/madad_jax.tgz
  do_it git -C "$here/.." archive --format=tar.gz --output="$archive" HEAD &&
    do_it gcloud compute tpus tpu-vm scp "$archive" "$name": --worker=all "${where[@]}" &&
    on_all_hosts "$setup"
}

# gcloud reports one status for all hosts: each says its own in a line of the output.
# A process of an earlier start that still holds the chips is ended first.
remote="pkill -KILL -f '^([^ ]*/)?python[0-9.]* -m madad_jax'; cd madad_jax_run && . .venv/bin/activate || exit 75
$(program_line)
echo \"madad_jax exit status \$?\""

attempt() {
  local log status found=()
  acquire || return $?
  if [[ "$installed" != 1 ]]; then
    install_code || return 75
    installed=1
  fi
  log="$(mktemp)"
  on_all_hosts "$remote" 2>&1 | tee "$log" || true
  mapfile -t found < <(sed -n 's/.*madad_jax exit status \([0-9]*\).*/\1/p' "$log")
  rm -f "$log"
  [[ "$(state)" == ACTIVE ]] || installed=0 # another slice comes, without our code
  ((${#found[@]} > 0)) || return 75
  status="$(worst "${found[@]}")"
  # All hosts must have said so: one that was taken away says nothing.
  [[ "$status" != 0 || "$installed" == 1 ]] || status=75
  # A preempted slice is not a fault of ours: it does not count.
  [[ "$status" == 0 || "$status" == 2 || "$installed" == 1 ]] || status=143
  return "$status"
}

if ((dry_run)); then
  create
  install_code
  on_all_hosts "$remote"
  ((keep)) || delete
  echo "# on every host:"
  program_line
  exit
fi
installed=0 status=0
keep_running attempt || status=$?
((keep)) || delete
exit "$status"
