"""The tested sets of constraints/: a version of everything that the requirements ask for."""

import pathlib
import re
import shutil
import subprocess

import pytest
from packaging import markers, requirements, utils, version

ROOT = pathlib.Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# Installed apart, as its own requirements hold PyTorch: only its weights are used.
WEIGHTS = "deepbet"


def _lines(path):
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def _asked(python):
    """What a venv of this Python is to hold, of requirements.txt and requirements-dev.txt."""
    environment = markers.default_environment()
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in _lines(ROOT / name):
            asked = requirements.Requirement(line)
            if asked.marker is None or asked.marker.evaluate(environment):
                yield asked
    yield requirements.Requirement(WEIGHTS)


def _unmet(asked, lines):
    """Which of the requirements the lines `name==version` do not pin, or pin to another version."""
    pins = {}
    for line in lines:
        name, _, pinned = line.partition("==")
        pins[utils.canonicalize_name(name)] = version.Version(pinned)
    return [
        str(one)
        for one in asked
        if (pinned := pins.get(utils.canonicalize_name(one.name))) is None
        or not one.specifier.contains(pinned, prereleases=True)
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_to_a_version_that_satisfies_it(python):
    lines = _lines(ROOT / "constraints" / f"python{python}.txt")
    assert not _unmet(_asked(python), lines)


def test_what_is_missing_or_too_old_is_found():
    asked = [requirements.Requirement(r) for r in ("jax>=0.10.2", "etils[epath]>=1.15", "PyYAML>6")]
    good = ["jax==0.12.0", "etils==1.15.0", "pyyaml==6.0.4"]
    assert not _unmet(asked, good)
    assert _unmet(asked, good[1:]) == ["jax>=0.10.2"]
    assert _unmet(asked, ["jax==0.10.1", *good[1:]]) == ["jax>=0.10.2"]


@pytest.mark.parametrize("python", PYTHONS)
def test_nothing_but_pins_stands_there(python):
    """No paths and addresses, which `pip freeze` writes for what came from a folder."""
    first, *lines = (ROOT / "constraints" / f"python{python}.txt").read_text().splitlines()
    assert first.startswith(f"# Python {python}:")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", line) for line in lines)
    names = {utils.canonicalize_name(line.split("==")[0]) for line in lines}
    assert len(names) == len(lines)
    assert not names & {"pip", "wheel", "torch", "madad-jax"}


def test_a_set_for_every_python_that_is_named():
    found = {path.stem.removeprefix("python") for path in (ROOT / "constraints").glob("*.txt")}
    assert found == set(PYTHONS)


# Every place that makes a fresh environment for this program, with the Python that it takes.
@pytest.mark.parametrize("name", ["Dockerfile", "skypilot.yaml", "tpu_pod.sh"])
def test_launchers_install_the_tested_set_of_their_python(name):
    text = (ROOT / "launch" / name).read_text()
    (python,) = set(re.findall(r"(?:FROM python:|--python=)(\d\.\d+)", text))
    (line,) = re.findall(r"^.*pip install.*-r requirements\.txt.*$", text, re.MULTILINE)
    assert f"-c constraints/python{python}.txt" in line


def _make_setup(folder, python, *flags):
    """(what `make setup` says, what it gives to pip), by a Python that only writes that down."""
    shutil.copytree(ROOT / "constraints", folder / "constraints")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder)
    venv = next((flag.removeprefix("VENV=") for flag in flags), ".venv")
    stub = folder / venv / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {python} || echo "$@" >> calls\n')
    stub.chmod(0o755)
    said = subprocess.check_output(["make", "setup", *flags], cwd=folder, text=True)
    return said, (folder / "calls").read_text().splitlines()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    "python,flags,pinned",
    [("3.12", [], True), ("3.14", [], False), ("3.12", ["VENV=.venv-newest"], False)],
    ids=["tested", "unknown", "newest"],
)
def test_make_takes_the_set_of_the_python_in_the_venv(tmp_path, python, flags, pinned):
    said, calls = _make_setup(tmp_path, python, *flags)
    assert [line.split()[-2:] for line in calls] == [
        ["-r", "requirements.txt"],
        ["--no-deps", WEIGHTS],
        ["-r", "requirements-dev.txt"],
    ]
    assert [f"-c constraints/python{python}.txt" in line for line in calls] == [pinned] * 3
    assert any(" -c " in line for line in calls) == pinned
    assert (f" (Python {python}): taking the newest versions" in said) == (not pinned)
