"""The launch scripts: dry runs, one command line, restarts by status, shellcheck, manifests."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = ("local_processes.sh", "slurm.sbatch", "tpu_pod.sh", "gke.sh")
OWN = {
    "local_processes.sh": ["--processes=2"],
    "slurm.sbatch": [],
    "tpu_pod.sh": ["--name=m", "--zone=z", "--type=v5litepod-16", "--runtime=r"],
    "gke.sh": ["--image=r/m", "--accelerator=tpu-v5-lite-podslice", "--topology=4x4", "--hosts=4"],
}
RUN = ["--config=configs/brats.py:FLAIR", "--workdir=gs://bucket/a b", "--config.optim.lr=1e-4"]
LINE = [
    *("python", "-m", "madad_jax.main", "--config=configs/brats.py:FLAIR"),
    *("--workdir=gs://bucket/a b", "--distributed", "--config.optim.lr=1e-4"),
]


def call(name, *flags, **environment):
    return subprocess.run(
        ["bash", str(LAUNCH / name), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", SCRIPTS)
def test_dry_run_prints_the_one_command_line_and_does_nothing(name, tmp_path):
    for program in ("gcloud", "kubectl", "srun", "scontrol", "python3"):
        (tmp_path / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (tmp_path / program).chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = call(name, "--dry_run", *OWN[name], *RUN, PATH=path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "called").exists()
    last = done.stdout.strip().splitlines()[-1].removeprefix("# ")
    assert [w for w in shlex.split(last) if not w.startswith(("srun", "--kill"))] == LINE


def test_skypilot_ends_in_the_same_line():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    line = task["run"].strip().splitlines()[-1].removeprefix("exec ")
    env = {"CONFIG": RUN[0][9:], "WORKDIR": RUN[1][10:], "FLAGS": RUN[2]}
    said = subprocess.check_output(
        ["bash", "-c", f"printf '%s\\n' {line}"], text=True, env=os.environ | env
    )
    assert said.splitlines() == LINE


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("left_out", ["--config", "--workdir"])
def test_what_is_missing_is_named_in_one_line_and_status_2(name, left_out):
    flags = [f for f in RUN if not f.startswith(left_out + "=")]
    done = call(name, *OWN[name], *flags)
    assert done.returncode == 2 and not done.stdout
    assert f"{name}: error: {left_out} is missing" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    files = sorted(str(p) for p in [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
    done = subprocess.run(
        ["shellcheck", *files], cwd=LAUNCH, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


# keep_running: the program is a script that takes its next status from a file.


def _program(folder, *statuses):
    (folder / "statuses").write_text("".join(f"{s}\n" for s in statuses))
    program = folder / "program"
    program.write_text(
        f"""#!/bin/bash
cd {folder}
echo "$JAX_PROCESS_ID $*" >> calls
[[ "$JAX_PROCESS_ID" == 0 ]] || exit "${{OTHER:-0}}"
read -r status < statuses
sed -i 1d statuses
exit "$status"
"""
    )
    program.chmod(0o755)
    return {"PYTHON": str(program), "FIRST_WAIT": "0"}


@pytest.mark.parametrize(
    "statuses,end,starts",
    [
        ([0], 0, 1),
        ([2], 2, 1),
        ([130], 130, 1),
        ([75, 0], 0, 2),
        ([143, 0], 0, 2),
        ([75, 137, 1, 2], 1, 3),  # three failures in a row
        ([1] * 9, 1, 3),
    ],
)
def test_restarts_by_status(tmp_path, statuses, end, starts):
    env = _program(tmp_path, *statuses)
    done = call("local_processes.sh", "--max_restarts=2", "--processes=1", *RUN, **env)
    assert done.returncode == end, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == starts
    assert calls[0] == "0 " + " ".join(LINE[1:])


def test_many_failures_in_a_row_are_waited_out(tmp_path):
    env = _program(tmp_path, *[75] * 9, 0)
    done = call("local_processes.sh", "--max_restarts=10", "--processes=1", *RUN, **env)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "calls").read_text().splitlines()) == 10


def test_preemptions_do_not_count_as_failures(tmp_path):
    env = _program(tmp_path, 75, 143, 75, 143, 75, 0)
    done = call("local_processes.sh", "--max_restarts=1", "--processes=1", *RUN, **env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("first,other,end", [(75, 2, 2), (143, 0, 143), (0, 0, 0), (143, 75, 75)])
def test_the_status_of_several_is_the_one_that_says_most(first, other, end):
    script = f"source {LAUNCH}/common.sh; worst {first} {other}; worst {other} {first}"
    said = subprocess.check_output(["bash", "-c", script], text=True).split()
    assert said == [str(end)] * 2


_GCLOUD = """#!/usr/bin/env bash
# State in files: `state` of the queue, `plan` with one line a start of the program.
cd "$FAKE" || exit 1
echo "$*" >> calls
case "$*" in
  *"queued-resources describe"*)
    [[ -e state ]] || exit 1
    cat state ;;
  *"queued-resources create"*) echo ACTIVE > state ;;
  *"queued-resources delete"*) rm -f state ;;
  *"tpu-vm ssh"*main*)
    read -r next < plan
    sed -i 1d plan
    if [[ "$next" == preempted ]]; then
      echo SUSPENDED > state
      exit 255
    fi
    for status in $next; do echo "madad_jax exit status $status"; done ;;
esac
"""


@pytest.mark.parametrize(
    "plan,end,created",
    [
        (["0 0"], 0, 1),
        (["preempted", "0 0"], 0, 2),
        (["143 143", "75 75", "0 0"], 0, 1),
        (["2 75"], 2, 1),
        (["1 1"] * 9, 1, 1),
    ],
)
def test_tpu_pod_asks_again_for_what_was_taken_away(tmp_path, plan, end, created):
    (tmp_path / "gcloud").write_text(_GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    (tmp_path / "plan").write_text("\n".join(plan) + "\n")
    done = call(
        *("tpu_pod.sh", *OWN["tpu_pod.sh"], "--max_restarts=2", *RUN),
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        FAKE=str(tmp_path),
        FIRST_WAIT="0",
        POLL="0",
    )
    assert done.returncode == end, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert calls.count("queued-resources create") == created
    assert calls.count("tpu-vm scp") == created, "new machines need the code"
    assert not (tmp_path / "state").exists(), "deleted at the end"


# The JobSet's own fields, as its v1alpha2 CustomResourceDefinition has them.
_JOBSET = {
    "network": {"enableDNSHostnames", "publishNotReadyAddresses", "subdomain"},
    "failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "replicatedJobs": {"name", "replicas", "template", "dependsOn"},
}
_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}


@pytest.fixture(scope="module", params=[[], ["--on_demand"]], ids=["spot", "on_demand"])
def manifest(request):
    done = call("gke.sh", "--dry_run", *OWN["gke.sh"], *request.param, *RUN)
    assert "${" not in done.stdout
    return yaml.safe_load(done.stdout), not request.param


def test_jobset_has_the_fields_of_its_definition(manifest):
    jobset, _ = manifest
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = jobset["spec"]
    assert set(spec) <= set(_JOBSET)
    assert set(spec["network"]) <= _JOBSET["network"]
    assert set(spec["failurePolicy"]) <= _JOBSET["failurePolicy"]
    for rule in spec["failurePolicy"]["rules"]:
        assert rule["action"] in _ACTIONS
        assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    assert all(set(job) <= _JOBSET["replicatedJobs"] for job in spec["replicatedJobs"])


def test_jobs_of_the_jobset_are_jobs_of_kubernetes(manifest):
    """Against the published schema of batch/v1, strictly, where its package is there."""
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for entry in manifest[0]["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
        validate.validate(job | entry["template"], "1.31", strict=True)


def test_jobset_restarts_all_but_bad_input(manifest):
    jobset, spot = manifest
    (entry,) = jobset["spec"]["replicatedJobs"]
    job = entry["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 4 and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [2] and rule["action"] == "FailJob"
    (container,) = pod["containers"]
    assert container["name"] == rule["onExitCodes"]["containerName"]
    assert container["command"] == LINE
    assert ("cloud.google.com/gke-spot" in pod["nodeSelector"]) == spot
    assert json.dumps(container["resources"]["limits"]) == '{"google.com/tpu": 4}'
