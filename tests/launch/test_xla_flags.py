"""Sets of compiler flags: reasons, sources, and where they arrive."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from tests.launch.test_scripts import LAUNCH, LINE, OWN, RUN, SCRIPTS, call

SETS = {"v5e": "LIBTPU_INIT_ARGS", "v6e": "LIBTPU_INIT_ARGS", "h100": "XLA_FLAGS"}
SOURCES = re.findall(r"^- \[(\w+)\]", (LAUNCH / "xla_flags" / "README.md").read_text(), re.M)


def flags_of(machine):
    """The flags of a set, each of whose lines has a reason and a source."""
    first, *lines = (LAUNCH / "xla_flags" / f"{machine}.txt").read_text().splitlines()
    assert first == f"# {SETS[machine]}"
    found = []
    for line in lines:
        flag, reason, sources = re.fullmatch(r"(--\w+=\w+)  # (.+) \[([\w, ]+)\]", line).groups()
        assert len(reason.split()) >= 3 and set(sources.split(", ")) <= set(SOURCES)
        found.append(flag)
    assert len(set(found)) == len(found)
    return found


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("machine", SETS)
def test_a_set_arrives_on_every_host(name, machine):
    done = call(name, "--dry_run", f"--xla_flags={machine}", *OWN[name], *RUN)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1].removeprefix("# ")
    words = [w for w in shlex.split(last) if not w.startswith(("srun", "--kill"))]
    assert words == ["env", f"{SETS[machine]}={' '.join(flags_of(machine))}", *LINE]
    if name == "gke.sh":
        (job,) = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"]
        pod = job["template"]["spec"]["template"]["spec"]
        assert pod["containers"][0]["command"] == words


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_set_is_named(name):
    done = call(name, "--xla_flags=a100", *OWN[name], *RUN)
    assert done.returncode == 2 and "accepted: v5e, v6e, h100" in done.stderr


def test_local_processes_get_it(tmp_path):
    program = tmp_path / "program"
    program.write_text(f'#!/bin/bash\necho "$LIBTPU_INIT_ARGS $*" > {tmp_path}/said\n')
    program.chmod(0o755)
    call("local_processes.sh", "--processes=1", "--xla_flags=v6e", *RUN, PYTHON=str(program))
    assert (tmp_path / "said").read_text().split() == [
        *flags_of("v6e"),
        *" ".join(LINE[1:]).split(),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("more,known", [([], True), (["--xla_gpu_no_such_flag=true"], False)])
def test_the_compiler_knows_the_gpu_flags(more, known):
    """A CPU's process reads them too, and ends at one that is unknown."""
    done = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": " ".join(flags_of("h100") + more), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == known, done.stderr[-500:]
    assert known or "no_such_flag" in done.stderr
