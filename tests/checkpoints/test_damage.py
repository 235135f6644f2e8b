"""Damaged and half-written checkpoints: found, named, and stepped over."""

import json
import logging
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from tests.checkpoints import cases


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with the whole steps 1 and 2; copied, never changed."""
    return cases.save(tmp_path_factory.mktemp("whole") / "checkpoints", [1, 2])


@pytest.fixture
def folder(two_steps, tmp_path):
    return pathlib.Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def _restore(directory):
    with saver_lib.Checkpointer(directory) as saver:
        return saver.restore_latest(cases.ABSTRACT), saver.problems


def _files():
    """Names of the files of a step, by running a save once."""
    return [
        *(f"{item}/manifest.ocdbt" for item in ("train_state", "ema_params")),
        *(f"{item}/_METADATA" for item in ("train_state", "ema_params")),
        *(f"{item}/metadata" for item in ("data", "config", "digests")),
    ]


def late_reads(test):
    """Tensorstore's remaining reads, when one of them fails, are Orbax's to tidy up."""
    test = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(test)
    return pytest.mark.filterwarnings("ignore:coroutine 'Store:RuntimeWarning")(test)


@late_reads
@pytest.mark.parametrize("name", _files())
@pytest.mark.parametrize("how", ["emptied", "truncated", "missing"])
def test_a_file_lost(folder, name, how, caplog):
    path = folder / "2" / name
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "truncated" else b"")
    with caplog.at_level(logging.WARNING):
        restored, problems = _restore(folder)
    assert cases.equal(restored.state, cases.make_state(restored.step))
    assert restored.data_state == {"position": 3 * restored.step}
    if how == "missing" and name.endswith("_METADATA") and restored.step == 2:
        return  # The target tree says all that this file does.
    assert restored.step == 1
    (problem,) = problems
    assert problem.step == 2 and name.split("/")[0] in problem.reason
    assert f"{folder}/2 is damaged: {problem.reason}" in caplog.text
    assert (folder / "damaged" / "2-0" / name).exists() == (how != "missing")


@late_reads
def test_every_data_file_truncated(two_steps, tmp_path):
    files = sorted((two_steps / "2").rglob("d/*"), key=lambda p: p.stat().st_size)
    for path in files:
        copy = pathlib.Path(shutil.copytree(two_steps, tmp_path / path.name))
        victim = copy / path.relative_to(two_steps)
        victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
        restored, _ = _restore(copy)
        # Small ones under ocdbt.process_0 are indices that the merged index has replaced.
        allowed = (1, 2) if "ocdbt.process_0" in str(path) and path not in files[-3:] else (1,)
        assert restored.step in allowed, path
        assert cases.equal(restored.state, cases.make_state(restored.step))


@late_reads
def test_one_flipped_bit_in_every_file(two_steps, tmp_path):
    """Either the step is found damaged, or the bit did not matter: never other numbers."""
    rng = random.Random(0)
    found = set()
    for path in sorted(p for p in (two_steps / "2").rglob("*") if p.is_file()):
        if not (content := bytearray(path.read_bytes())):
            continue
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        copy = pathlib.Path(shutil.copytree(two_steps, tmp_path / "copy"))
        name = path.relative_to(two_steps)
        (copy / name).write_bytes(content)
        restored, problems = _restore(copy)
        assert cases.equal(restored.state, cases.make_state(restored.step)), name
        assert restored.data_state == {"position": 3 * restored.step}, name
        assert restored.config == {"x": 1}, name
        assert [p.step for p in problems] == ([2] if restored.step == 1 else []), name
        if problems:
            found.add(str(name.relative_to("2")))
        shutil.rmtree(copy)
    for item in ("data", "config", "digests"):
        assert f"{item}/metadata" in found
    for item in ("train_state", "ema_params"):
        assert any(name.startswith(f"{item}/d/") for name in found)


@late_reads
def test_flipped_bits_in_the_numbers_themselves(folder):
    """Many places of the largest data file, which Orbax restores as other numbers."""
    path = max((folder / "2").rglob("train_state/**/d/*"), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    rng = random.Random(1)
    reasons = []
    for _ in range(12):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        restored, problems = _restore(folder)
        assert cases.equal(restored.state, cases.make_state(restored.step))
        if problems:
            reasons.append(problems[0].reason)
            pathlib.Path(problems[0].moved_to).rename(folder / "2")
    # A bit in the packing (block headers) may not matter; nearly all do.
    assert sum("content does not match its digest" in reason for reason in reasons) >= 9


def test_the_number_of_a_damaged_step_can_be_saved_again(folder):
    (folder / "2" / "data" / "metadata").write_text("{")
    with saver_lib.Checkpointer(folder) as saver:
        assert saver.restore_latest(cases.ABSTRACT).step == 1
        assert saver.all_steps() == [1] and saver.latest_step() == 1
        assert saver.save(2, cases.make_state(22), {}, {})
        assert cases.equal(saver.restore_latest(cases.ABSTRACT).state, cases.make_state(22))
        assert [p.moved_to for p in saver.problems] == [str(folder / "damaged" / "2-0")]
    (folder / "2" / "data" / "metadata").write_text("{")
    _, problems = _restore(folder)
    assert [p.moved_to for p in problems] == [str(folder / "damaged" / "2-1")]


def test_no_whole_step_is_an_error_and_moves_nothing(folder):
    for step in (1, 2):
        (folder / str(step) / "digests" / "metadata").write_text("")
    with saver_lib.Checkpointer(folder) as saver:
        with pytest.raises(errors.UserError, match=r"no checkpoint is whole .step 2: digests.*1:"):
            saver.restore_latest(cases.ABSTRACT)
        assert [p.moved_to for p in saver.problems] == [None, None]
        assert saver.all_steps() == [1, 2]


def test_a_renamed_step_is_not_believed(folder):
    (folder / "2").rename(folder / "3")
    restored, (problem,) = _restore(folder)
    assert restored.step == 1 and "of step 2, not 3" in problem.reason


def test_unfinished_saves_are_removed(folder):
    torn = folder / "3.orbax-checkpoint-tmp"
    shutil.copytree(folder / "2", torn)
    restored, _ = _restore(folder)
    assert restored.step == 2 and not torn.exists()


_SAVER = """
import sys, time
sys.path.insert(0, sys.argv[3])
from tests.checkpoints import cases as t
from madad_jax.checkpoints import saver as saver_lib
with saver_lib.Checkpointer(sys.argv[1], best_metric="val/loss") as saver:
    restored = saver.restore_latest(t.ABSTRACT)
    step = 0 if restored is None else restored.step
    if restored is not None:
        assert t.equal(restored.state, t.make_state(step)), "wrong numbers"
        assert restored.data_state == {"position": 3 * step}
        assert not saver.problems, saver.problems
    first, start = step, time.monotonic()
    while True:
        step += 1
        saver.save(step, t.make_state(step), {"position": 3 * step}, {}, {"val/loss": step % 7})
        if step == first + 2:
            saver.wait()
            print(first, (time.monotonic() - start) / 2, flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Twenty kills while saving without pause: always a whole step, never an older one."""
    rng = random.Random(3)
    root = str(pathlib.Path(__file__).parents[2])
    last = 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", _SAVER, str(tmp_path / "c"), "", root],
            stdout=subprocess.PIPE,
            text=True,
        )
        line = process.stdout.readline()
        assert line, "the process died by itself"
        first, seconds = line.split()
        assert int(first) == last
        time.sleep(rng.uniform(0, 3 * float(seconds)))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        steps = [int(p.name) for p in (tmp_path / "c").iterdir() if p.name.isdigit()]
        last = max(steps, default=0)
    assert last >= 40
    assert json.loads((tmp_path / "c" / str(last) / "data" / "metadata").read_text())
