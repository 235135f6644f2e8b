"""launch/slurm.sbatch in a real Slurm of one node and two tasks, set up for the test."""

import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest

from madad_jax.experiment import stages
from madad_jax.runtime import stop as stop_lib
from tests.e2e import jobs
from tests.e2e.conftest import png_root, tiny  # noqa: F401 (fixtures)
from tests.e2e.test_run import assert_same, metrics_of, restored
from tests.launch import slurm_cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multiprocess,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=slurm_cluster.missing()),
]


@pytest.fixture(scope="module")
def cluster():
    # Not below pytest's folder: a socket's path may have 107 characters.
    folder = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    with slurm_cluster.running(folder) as environment:
        yield environment


def _submit(cluster, folder, workdir, *flags):
    """The job's number; its tasks run on one CPU device each."""
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environment = cluster | jobs.environment()
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    said = subprocess.check_output(
        [
            *("sbatch", "--parsable", f"--output={folder}/out.txt", "launch/slurm.sbatch"),
            *(f"--config={jobs.CONFIG}", f"--workdir={workdir}", *flags),
        ],
        env=environment,
        cwd=jobs.ROOT,
        text=True,
    )
    return said.strip()


def _field(cluster, job, name):
    said = subprocess.check_output(["scontrol", "show", "job", job], env=cluster, text=True)
    return dict(word.split("=", 1) for word in said.split() if "=" in word)[name]


def _wait(cluster, job, output, done, seconds=1800):
    deadline = time.monotonic() + seconds
    while not done():
        state = _field(cluster, job, "JobState")
        said = output.read_text() if output.exists() else ""
        assert state not in ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED"), said[-3000:]
        assert time.monotonic() < deadline, f"{state}: {said[-3000:]}"
        time.sleep(0.5)


def _ended(cluster, job):
    return _field(cluster, job, "JobState") == "COMPLETED"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory, png_root):  # noqa: F811
    from tests.e2e import tiny_config

    config = tiny_config.get_config()
    config.data.root = str(png_root)
    workdir = tmp_path_factory.mktemp("autoencoder")
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(workdir), "train_autoencoder", stop, jax.devices()[:1])
    return workdir


def test_runs_to_the_end_and_continues_after_requeue(
    cluster,
    autoencoder,
    png_root,  # noqa: F811
    tiny,  # noqa: F811
    tmp_path,
):
    flags = [
        *("--mode=train", f"--config.data.root={png_root}", "--config.train.steps=60"),
        *(
            f"--config.autoencoder.checkpoint={autoencoder}",
            "--config.autoencoder.scaling_factor=1",
        ),
    ]
    jobs.run(f"--config={jobs.CONFIG}", f"--workdir={tmp_path / 'whole'}", *flags)
    workdir, output = tmp_path / "run", tmp_path / "job" / "out.txt"
    job = _submit(cluster, tmp_path / "job", workdir, *flags)
    first = workdir / "denoiser" / "checkpoints" / "4"
    _wait(cluster, job, output, first.exists)
    subprocess.run(["scontrol", "requeue", job], env=cluster, check=True)
    _wait(cluster, job, output, lambda: _field(cluster, job, "Restarts") == "1")
    deadline = time.monotonic() + 1800
    while not _ended(cluster, job):
        assert time.monotonic() < deadline, output.read_text()[-3000:]
        time.sleep(1)
    text = output.read_text()
    print(text)
    assert "start 1 of job" in text and "start 2 of job" in text, "one file holds both starts"
    assert "2 x cpu, 2 process(es)" in text and "denoiser: continues from step" in text
    assert text.rstrip().endswith("exit status 0")
    ours, theirs = restored(tiny, workdir), restored(tiny, tmp_path / "whole")
    assert ours.step == 60
    assert_same(ours.state, theirs.state)
    assert [r["step"] for r in metrics_of(workdir)] == [
        r["step"] for r in metrics_of(tmp_path / "whole")
    ]


def test_bad_input_is_not_queued_again(cluster, tmp_path):
    job = _submit(cluster, tmp_path / "job", tmp_path / "run", "--config.optim.lrr=1")
    deadline = time.monotonic() + 1800
    while (state := _field(cluster, job, "JobState")) != "FAILED":
        assert state in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert _field(cluster, job, "ExitCode") == "2:0" and _field(cluster, job, "Restarts") == "0"
    assert "lrr" in (tmp_path / "job" / "out.txt").read_text() and not (tmp_path / "run").exists()
    assert os.path.exists(tmp_path / "job" / "python")
