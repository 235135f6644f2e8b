"""Jobs of two and four real processes: the same numbers, one end for all, nothing lost."""

import json
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from madad_jax.evaluation import report
from madad_jax.experiment import stages
from madad_jax.runtime import stop as stop_lib
from tests.e2e import jobs, tiny_config
from tests.e2e.test_run import assert_same, metrics_of, restored

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.fixture(scope="module")
def one(tmp_path_factory, png_root):
    """A whole run of one process on one device."""
    config = tiny_config.get_config()
    config.data.root = str(png_root)
    workdir = tmp_path_factory.mktemp("one")
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(workdir), "run", stop, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def flags(one, png_root):
    """flags(workdir): train a denoiser on the same autoencoder.

    Adam divides a gradient by its size: with the usual epsilon it turns rounding in gradients
    near zero into whole steps, and no two sums of floats are rounded alike.
    """

    def make(workdir, *more):
        return [
            *(f"--config={jobs.CONFIG}", f"--workdir={workdir}", "--mode=train"),
            *(f"--config.data.root={png_root}", f"--config.autoencoder.checkpoint={one}"),
            *("--config.autoencoder.scaling_factor=0.9", "--config.optim.eps=1e-3", *more),
        ]

    return make


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """{processes: workdir} of trainings that nobody disturbed, made when first asked for."""

    class Made(dict):
        def __missing__(self, count):
            self[count] = tmp_path_factory.mktemp("undisturbed") / "run"
            jobs.run(*flags(self[count]), count=count)
            return self[count]

    return Made()


def curve(workdir):
    return [r for r in metrics_of(workdir) if r["stage"] == "denoiser"]


def assert_same_curve(a, b, tolerance=1e-5):
    ours, theirs = curve(a), curve(b)
    assert [(r["split"], r["step"]) for r in ours] == [(r["split"], r["step"]) for r in theirs]
    assert len(ours) == 9  # 6 of training, 3 of validation
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x["loss"], y["loss"], rtol=tolerance)


@pytest.mark.parametrize("count", [2, 4])
def test_the_loss_curve_is_that_of_one_process(undisturbed, count):
    assert_same_curve(undisturbed[count], undisturbed[1])


def test_every_process_has_its_log_and_the_first_writes_the_results(undisturbed):
    folder = undisturbed[4]
    logs = sorted((folder / "logs").iterdir())
    assert [p.name for p in logs] == [f"process_{k}.log" for k in range(4)]
    for path in logs:
        assert "4 x cpu, 4 process(es)" in path.read_text()
    steps = [(r["split"], r["step"]) for r in curve(folder)]
    assert len(steps) == len(set(steps))
    assert not list(folder.rglob("*.new"))


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("moment,step", [("step", 7), ("save", 8), ("commit", 8)])
def test_killed_job_ends_and_continues_to_the_bit(
    undisturbed, flags, tiny, tmp_path, moment, step, victim
):
    if moment == "commit" and victim == 1:
        pytest.skip("process 0 commits")
    words = ["tests.e2e.dies_in", moment, str(step)]
    with jobs.Job(*flags(tmp_path), program={victim: words}) as job:
        ends = job.ends()
    assert ends[victim][0] == -signal.SIGKILL
    status, output = ends[1 - victim]
    assert status == 75, output[-3000:]
    assert len(re.findall("^madad_jax: error: .*continues from the last", output, re.M)) == 1
    left = {int(p.name) for p in (tmp_path / "denoiser/checkpoints").iterdir() if p.name.isdigit()}
    assert 4 in left and (moment != "commit" or 8 not in left)
    jobs.run(*flags(tmp_path))
    ours, theirs = restored(tiny, tmp_path), restored(tiny, undisturbed[2])
    assert ours.step == 12 and ours.data_state == theirs.data_state
    assert_same(ours.state, theirs.state)
    assert curve(tmp_path) == curve(undisturbed[2])


@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_in_one_saves_and_ends_all_with_143(undisturbed, flags, tiny, tmp_path, victim):
    more = ["--config.log.validate_every_steps=1000", "--config.train.steps=100000"]
    with jobs.Job(*flags(tmp_path, *more)) as job:
        job.until(tmp_path / "denoiser/checkpoints/4")
        job.processes[victim].send_signal(signal.SIGTERM)
        ends = job.ends()
    assert [status for status, _ in ends] == [143, 143], ends[0][1][-3000:]
    said = [re.search(r"stopped after step (\d+); the same command", out)[1] for _, out in ends]
    assert said[0] == said[1] and (tmp_path / "denoiser/checkpoints" / said[0]).exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_ends_the_job_with_a_line(flags, tmp_path, victim):
    more = ["--hang_timeout=90", "--heartbeat_timeout=1000", "--config.train.steps=100000"]
    more += ["--config.log.validate_every_steps=100000"]
    with jobs.Job(*flags(tmp_path, *more)) as job:
        job.until(tmp_path / "denoiser/checkpoints/4")
        job.processes[victim].send_signal(signal.SIGSTOP)
        out, _ = job.processes[1 - victim].communicate(timeout=1800)
        assert job.processes[1 - victim].returncode == 75, out[-3000:]
    line = re.search("^madad_jax: error: .*$", out, re.M)[0]
    assert re.search(rf"process {1 - victim} of 2 has waited \d+ s in 'denoiser: s", line), line
    blamed = "process 0, which coordinates" if victim == 0 else "no sign of life from process 1"
    assert blamed in line
    assert line.partition("error: ")[2] in (tmp_path / f"logs/process_{1 - victim}.log").read_text()


def test_bad_input_that_one_process_sees_ends_all_with_2(flags, tmp_path):
    """As when a disk is not mounted on one host; the others may be in a collective."""
    with jobs.Job(*flags(tmp_path), last={1: ["--config.data.root=/not/mounted"]}) as job:
        ends = job.ends()
    assert [status for status, _ in ends] == [2, 2], ends[0][1][-3000:]
    assert "madad_jax: error: process 1 ended with status 2: " in ends[0][1]
    assert "/not/mounted" in ends[0][1] and "Traceback" not in ends[0][1] + ends[1][1]


def test_a_second_job_in_the_folder_of_a_running_one_ends_with_2(flags, tmp_path):
    """As a job that was submitted twice."""
    more = ["--config.log.validate_every_steps=1000", "--config.train.steps=100000"]
    with jobs.Job(*flags(tmp_path, *more)) as job:
        job.until(tmp_path / "denoiser/checkpoints/4")
        with jobs.Job(*flags(tmp_path, *more)) as second:
            ends = second.ends()
        assert [status for status, _ in ends] == [2, 2], ends[0][1][-3000:]
        for _, out in ends:
            assert f"process {job.processes[0].pid} on '" in out and "Traceback" not in out
        job.processes[0].send_signal(signal.SIGTERM)
        assert [status for status, _ in job.ends()] == [143, 143]


@pytest.mark.parametrize("before,after,devices", [(2, 1, 1), (1, 2, 1), (2, 4, 1), (2, 1, 8)])
def test_continues_on_another_number_of_processes(
    undisturbed, flags, tmp_path, before, after, devices
):
    """Stopped for good after step 4's checkpoint: everything later is taken away."""
    shutil.copytree(undisturbed[before], tmp_path / "run")
    folder = tmp_path / "run" / "denoiser"
    (folder / "complete.json").unlink()
    kept = sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == [8, 12]
    shutil.rmtree(folder / "checkpoints" / "12")
    out = jobs.run(*flags(tmp_path / "run"), count=after, devices=devices)
    assert "denoiser: continues from step 8" in out
    assert_same_curve(tmp_path / "run", undisturbed[1])


def rows_of(workdir):
    return report.read_results(pathlib.Path(workdir) / "results.jsonl")


def assert_close(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}/{i}")
    elif isinstance(a, float) and isinstance(b, float):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-7), where
    else:
        assert a == b, where


@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_gives_the_rows_of_one_process(one, png_root, tmp_path, count):
    """6 lesion, 3 healthy and 5 validation slices: no mesh divides them."""
    shutil.copytree(one, tmp_path / "run")
    (tmp_path / "run" / "results.jsonl").unlink()
    flags = [f"--config={jobs.CONFIG}", f"--workdir={tmp_path / 'run'}", "--mode=evaluate"]
    out = jobs.run(*flags, f"--config.data.root={png_root}", count=count)
    assert "report.md" in out
    ours, theirs = rows_of(tmp_path / "run"), rows_of(one)
    assert [r["method"] for r in ours] == [r["method"] for r in theirs] and len(ours) == 6
    for x, y in zip(ours, theirs, strict=True):
        assert_close(json.loads(json.dumps(x)), json.loads(json.dumps(y)), x["method"])
