"""A run whose programs were kept whole by an earlier one, in processes as users start them."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from madad_jax.runtime import executables
from tests.e2e.test_run import assert_same, metrics_of, restored


@pytest.fixture
def train(command, tmp_path, monkeypatch):
    """train(folder) -> the command's log, of a run whose compile cache is this test's own."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))

    def run(folder, mode="train"):
        process = command(f"--mode={mode}", f"--workdir={folder}")
        _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        return err

    return run


def loaded(log):
    return set(re.findall(r"(\w+ \w+): program loaded", log))


def test_the_second_start_loads_every_program_and_trains_the_same(train, tiny, tmp_path):
    kept = tmp_path / "cache" / executables.NAME
    assert not loaded(train(tmp_path / "first"))
    log = train(tmp_path / "second")
    programs = ("step", "validation", "initial_state", "rate")
    assert loaded(log) == {f"{s} {p}" for s in ("autoencoder", "denoiser") for p in programs}
    assert metrics_of(tmp_path / "first") == metrics_of(tmp_path / "second")
    for stage in ("autoencoder", "denoiser"):
        ours, theirs = (restored(tiny, tmp_path / name, stage) for name in ("first", "second"))
        assert_same(ours.state, theirs.state)
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    log = train(tmp_path / "damaged", "train_autoencoder")  # One stage is enough.
    assert not loaded(log) and "compiled anew" in log
    rows = [row for row in metrics_of(tmp_path / "first") if row["stage"] == "autoencoder"]
    assert rows == metrics_of(tmp_path / "damaged")


ROOT = pathlib.Path(__file__).parents[2]
_FINGERPRINTS = """
import importlib, sys
from madad_jax.assembly import parts
from madad_jax.runtime import fingerprints
for name in sys.argv[1:]:
    made = parts.assemble(importlib.import_module(name).get_config())
    tx = made.plan.optimizer(made.plan.budget(100))[0]
    print(name, fingerprints.fingerprint(made.method, tx))
"""


def test_every_method_has_a_fingerprint_that_two_processes_agree_on():
    """In processes without the checks of tests, which wrap functions in what nobody knows."""
    found = [p.stem for p in sorted((ROOT / "configs" / "baselines").glob("[!_]*.py"))]
    names = ["configs.demo", "configs.brats", *(f"configs.baselines.{name}" for name in found)]
    command = [sys.executable, "-c", _FINGERPRINTS, *names]
    outputs = [
        subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and outputs[0].count("\n") == len(names)
