"""The image files: the same steps in both, all that an installation needs, nobody's root."""

import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"


def instructions():
    """[(word, rest)] of the Dockerfile, continued lines joined."""
    text = (CONTAINERS / "predict.Dockerfile").read_text().replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(None, 1)) for line in lines]


def stages():
    """{name: its instructions, those of the stages below it first}."""
    found, name = {}, ""
    for word, rest in instructions():
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()
            found[name] = list(found.get(base, []))
        found[name].append((word, rest))
    return found


def sections():
    """{name: lines} of the Apptainer definition."""
    parts = re.split(r"^%", (CONTAINERS / "predict.def").read_text(), flags=re.M)[1:]
    lines = ([line.strip() for line in part.splitlines()] for part in parts)
    return {first: [line for line in rest if line] for first, *rest in lines}


def copied_by_docker():
    pairs = [rest.split() for word, rest in stages()["cpu"] if word == "COPY"]
    return {source for *sources, _ in pairs for source in sources}


def test_both_images_copy_the_same_and_all_that_an_installation_reads():
    copied = copied_by_docker()
    assert copied == {line.split()[0] for line in sections()["files"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], "pyproject.toml", "requirements.txt", "constraints"}
    needed |= {name.split("/")[0] for name in project["project"]["license-files"]}
    needed |= set(project["tool"]["setuptools"]["package-dir"].values()) | {"madad_jax"}
    assert needed <= copied
    assert all((ROOT / name).exists() for name in copied)


def test_both_images_take_the_same_steps_on_the_same_system():
    steps = [re.findall(r'"([^"]+)"', rest) for word, rest in stages()["cpu"] if word == "RUN"]
    steps = [[*step[:-1], "{{ extras }}"] if "program" in step else step for step in steps]
    assert ["bash " + " ".join(step) for step in steps] == sections()["post"][:2]
    assert sections()["arguments"] == ["extras=dicom"]
    text = (CONTAINERS / "predict.def").read_text()
    base = re.search(r"^From: (\S+)$", text, re.M).group(1)
    assert {rest.split()[0] for word, rest in stages()["cpu"] if word == "FROM"} >= {base}


@pytest.mark.parametrize("name", ["cpu", "cuda", "bids"])
def test_an_image_runs_as_nobody_special(name):
    words = [word for word, _ in stages()[name]]
    last = len(words) - words[::-1].index("USER") - 1
    assert dict(stages()[name])["USER"] == "1000:1000"
    assert "RUN" not in words[last:]


def test_images_take_extras_that_exist_and_the_last_stage_is_for_cpus():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name in ("cpu", "cuda"):
        (taken,) = (rest for word, rest in stages()[name] if word == "RUN" and "program" in rest)
        assert set(re.findall(r'"([^"]+)"', taken)[-1].split(",")) <= set(extras)
    assert list(stages())[-1] == "cpu"


def test_the_tested_versions_are_those_of_the_system_s_python():
    # Debian 13 has Python 3.13.
    assert (ROOT / "constraints" / "python3.13.txt").is_file()


@pytest.mark.parametrize("words", [[], ["nothing"], ["program"]])
def test_install_refuses_other_words_and_does_nothing(words):
    command = [shutil.which("bash"), str(CONTAINERS / "install.sh"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert done.returncode != 0
    assert "accepted" in done.stderr or "missing" in done.stderr


@pytest.mark.parametrize(
    ("program", "file"), [("shellcheck", "install.sh"), ("hadolint", "predict.Dockerfile")]
)
def test_lint(program, file):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run([program, str(CONTAINERS / file)], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()
