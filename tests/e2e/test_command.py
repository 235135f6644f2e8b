"""The real command in its own process: exit status, lines, and death at any moment."""

import random
import shutil
import signal
import time

import pytest

from tests.e2e.test_run import assert_same, restored

TYPO = [
    ("--config.optm.lr=1", 'Did you mean "optim"'),
    ("--config.optim.lrr=1", 'Did you mean "lr"'),
    ("--config.optim.lr=fast", "--config.optim.lr=fast"),
    ("--mode=trian", "run|train_autoencoder|train|evaluate|report|compile"),
    ("--workdri=x", "workdir"),
]


@pytest.mark.parametrize("flag,message", TYPO)
def test_a_typo_is_one_line_and_status_2(command, tmp_path, flag, message):
    process = command(flag, f"--workdir={tmp_path}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert message in err and len(err.strip().splitlines()) == 1 and not list(tmp_path.iterdir())


def test_missing_config_file_is_one_line(command):
    process = command(config="configs/nope.py")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "configs/nope.py" in err and "Traceback" not in err


def test_help_needs_no_jax(command):
    start = time.monotonic()
    process = command("--help")
    out, _ = process.communicate(timeout=60)
    assert "--workdir" in out and time.monotonic() - start < 5


def test_compile_prints_costs_and_a_plan_without_data(command, tmp_path):
    """Two slices of two v5e chips on paper; one program needs more than the stated memory."""
    process = command(
        *("--mode=compile", "--topology=2xv5e-2", "--config.mesh.fsdp=2"),
        *("--config.data.root=/nowhere", f"--workdir={tmp_path}/x"),
        *("--config.compile.memory_gib=0.001", "--config.autoencoder.discriminator=False"),
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "mesh data 2 x fsdp 2 x tensor 1" in out and "by the CPU compiler" in out
    for name in ("autoencoder step", "denoiser step (live latents)", "image to anomaly map"):
        assert f"\n{name}\n" in out
    assert out.count("GFLOP") == out.count("on paper: compute") == out.count("temporaries") == 3
    assert "all-gather over 2 devices" in out and "all-reduce over 2 devices" in out
    last = err.strip().splitlines()[-1]
    assert "autoencoder step needs" in last and "there are 1.0 MiB (compile.memory_gib)" in last
    assert not (tmp_path / "x").exists()


MACHINES = [
    (("--topology=v5e-8", "--mode=train"), "--topology belong to --mode=compile"),
    (("--topology=v9-8", "--mode=compile"), "--topology: found 'v9-8'"),
    (("--topology=v5e-8", "--devices=4", "--mode=compile"), "--devices: found 4, accepted: 8"),
]


@pytest.mark.parametrize("flags,message", MACHINES)
def test_a_machine_that_cannot_be(command, tmp_path, flags, message):
    process = command(*flags, f"--workdir={tmp_path}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and message in err and len(err.strip().splitlines()) == 1


def test_sigterm_saves_and_says_how_to_go_on(command, tmp_path, trained):
    shutil.copytree(trained / "autoencoder", tmp_path / "autoencoder")
    process = command(f"--workdir={tmp_path}", "--config.train.steps=100000", "--mode=train")
    while not (tmp_path / "denoiser" / "checkpoints" / "4").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    # A second one, of another kind too, is told who is at work and touches nothing.
    log = tmp_path / "logs" / "process_0.log"
    starts = log.read_text().count("process(es)")
    second = command(f"--workdir={tmp_path}", "--mode=evaluate")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 2 and f"process {process.pid} on '" in said
    assert [line for line in said.splitlines() if "error" in line] == [said.splitlines()[-1]]
    assert log.read_text().count("process(es)") == starts
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143 and "the same command continues it" in err
    assert not (tmp_path / ".lock").exists()
    assert "denoiser: step compiled in" in err and "temporaries" in err
    assert "batches of 8 slices, of which this host reads 8" in err


def _kill_until_done(command, workdir, kills, draw, lines):
    """Starts the command over and over, killing it at random moments, until it ends."""
    died = 0
    while True:
        process = command(f"--workdir={workdir}", "--mode=train")
        if died < kills:
            # From before the first step to inside the saves of the second stage. A later start
            # has less left to do and to say than the first.
            last = lines * draw.uniform(0.35, 0.9 if not died else 0.65)
            for _ in zip(range(int(last)), process.stderr, strict=False):
                pass
            time.sleep(draw.uniform(0.0, 0.3))
            process.kill()
        _, err = process.communicate(timeout=300)
        if process.returncode == 0:
            return died
        assert process.returncode == -signal.SIGKILL, err
        died += 1


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_ends_bit_equal(command, tmp_path, tiny, kills):
    """Every restart continues from its last whole checkpoint; the end is the undisturbed one."""
    whole = command(f"--workdir={tmp_path / 'whole'}", "--mode=train")
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    # A kill after the end is none, and costs a whole round: moments are shares of what is said,
    # which does not depend on the machine or on what was compiled before.
    lines, draw = len(err.splitlines()), random.Random(0)
    died, rounds = 0, 0
    while died < kills:
        # A round that finishes early starts anew, so that all kills really happen.
        workdir = tmp_path / f"killed-{rounds}"
        died += _kill_until_done(command, workdir, kills - died, draw, lines)
        for stage in ("autoencoder", "denoiser"):
            ours, theirs = (restored(tiny, d, stage) for d in (workdir, tmp_path / "whole"))
            assert ours.step == theirs.step
            assert_same(ours.state, theirs.state)
        shutil.rmtree(workdir)
        rounds += 1
