#!/usr/bin/env bash
# Fills gke_jobset.yaml and submits it; JobSet starts all pods again when one is lost.
#
#   launch/gke.sh --image=REGISTRY/madad_jax --accelerator=tpu-v5-lite-podslice --topology=4x4 \
#     --hosts=4 --chips=4 --config=configs/brats.py:FLAIR --workdir=gs://bucket/runs/flair
#
#   --image         made by launch/Dockerfile
#   --accelerator --topology   as the node pool's labels say
#   --hosts         pods, one a machine of the slice; --chips those of one machine (default 4)
#   --name          of the JobSet (default madad-jax)
#   --on_demand     not spot
#   --max_restarts  of the whole job (default 1000)
# and --config, --workdir, --dry_run and the program's own flags: see common.sh. --dry_run prints
# the manifest: `launch/gke.sh --dry_run ... | kubectl apply --dry-run=server -f -` lets a cluster
# check it. Needs kubectl and a cluster with JobSet installed; the pods' service account must be
# able to write the workdir.
# shellcheck disable=SC2016,SC2034 # what the manifest's ${...} name is read by its name
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

NAME=madad-jax IMAGE="" ACCELERATOR="" TOPOLOGY="" HOSTS="" CHIPS=4 SPOT=true MAX_RESTARTS=1000
for flag in "$@"; do
  take "$flag" && continue
  case "$flag" in
    --name=*) NAME="${flag#*=}" ;;
    --image=*) IMAGE="${flag#*=}" ;;
    --accelerator=*) ACCELERATOR="${flag#*=}" ;;
    --topology=*) TOPOLOGY="${flag#*=}" ;;
    --hosts=*) HOSTS="${flag#*=}" ;;
    --chips=*) CHIPS="${flag#*=}" ;;
    --on_demand) SPOT=false ;;
    --max_restarts=*) MAX_RESTARTS="${flag#*=}" ;;
    *) rest+=("$flag") ;;
  esac
done
need_run
for needed in IMAGE ACCELERATOR TOPOLOGY HOSTS; do
  [[ -n "${!needed}" ]] || fail "--${needed,,} is missing; see the head of this file"
done
for number in HOSTS CHIPS MAX_RESTARTS; do
  [[ "${!number}" =~ ^[1-9][0-9]*$ ]] || fail "--${number,,}: found '${!number}', must be 1 or more"
done

quoted() { # a JSON string, which is YAML too
  local text="${1//\\/\\\\}"
  printf '"%s"' "${text//\"/\\\"}"
}
words=()
eval "words=($(program_line))"
COMMAND="[$(quoted "${words[0]}")"
for word in "${words[@]:1}"; do COMMAND+=", $(quoted "$word")"; done
COMMAND+="]"

manifest="$(<"$here/gke_jobset.yaml")"
for key in NAME IMAGE ACCELERATOR TOPOLOGY HOSTS CHIPS MAX_RESTARTS COMMAND; do
  manifest="${manifest//"\${$key}"/"${!key}"}"
done
if [[ "$SPOT" == true ]]; then
  manifest="${manifest//'${SPOT}'/true}"
else # machines that are not spot do not carry the label at all
  manifest="$(grep -v 'gke-spot: "${SPOT}"' <<<"$manifest")"
fi
if ((dry_run)); then
  echo "$manifest"
  echo "# on every host:"
  echo "# $(program_line)"
  exit
fi
kubectl apply -f - <<<"$manifest"
echo "kubectl get jobset $NAME; kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$NAME"
