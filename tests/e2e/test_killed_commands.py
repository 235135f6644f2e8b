"""Seeded SIGKILLs of every command that writes a folder: nothing is half-written, all goes on.

MADAD_JAX_KILLS=100 python -m pytest -s tests/e2e/test_killed_commands.py
"""

import os
import random
import shutil
import subprocess
import sys
import time

import pytest

from tests.e2e import jobs
from tests.predict import conftest as scans_of
from tests.prepare import test_job
from tests.scans import cases

KILLS = int(os.environ.get("MADAD_JAX_KILLS", "2"))
untrained = scans_of.untrained  # a fixture: a run whose networks are as they were first drawn


def _start(words):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "madad_jax", *words], cwd=jobs.ROOT, env=jobs.environment(), **quiet
    )


def _finish(words):
    """Runs to the end; seconds."""
    started = time.monotonic()
    process = _start(words)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said[-3000:]
    return time.monotonic() - started


def _kill_and_continue(words, longest, draw):
    """Kills the command at a random moment of its `longest` seconds; whether it was in time."""
    process = _start(words)
    try:
        said = process.communicate(timeout=draw.uniform(0.3 * longest, longest))[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, said[-3000:]
    return False


def check(make_words, tmp_path, tree, seed=0, compiles=True):
    """`tree(folder)` after kills is that of an undisturbed run.

    Args:
      make_words: (folder) -> the command line that fills it.
      tmp_path: of the test.
      tree: (folder) -> what is compared.
      seed: of the moments.
      compiles: whether the first start takes longer than those to be killed.
    """
    whole = tmp_path / "whole"
    longest = _finish(make_words(whole))
    if compiles:
        shutil.rmtree(whole)
        longest = min(longest, _finish(make_words(whole)))
    wanted, draw, died, rounds = tree(whole), random.Random(seed), 0, 0
    while died < KILLS:
        folder = tmp_path / f"killed-{rounds}"
        for _ in range(min(4, KILLS - died)):
            died += _kill_and_continue(make_words(folder), longest, draw)
        _finish(make_words(folder))
        assert tree(folder) == wanted
        shutil.rmtree(folder)
        rounds += 1
    print(f"{died} kills in {rounds} runs")


def files(folder, *patterns):
    """{name: bytes} of the files that match."""
    found = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


def test_preparation(tmp_path):
    for k in range(4):
        cases.write(tmp_path / "in", f"good{k}", voxel=(4.0, 4.0, 4.0))
    (tmp_path / "table.yaml").write_text(test_job.TABLE)

    def words(out):
        return ["prepare", *test_job.arguments(tmp_path / "in", out, "--workers=2")]

    check(words, tmp_path, lambda out: files(out, "**/*"), compiles=False)


@pytest.mark.parametrize("kind", ["array_record", pytest.param("tfds", marks=pytest.mark.slow)])
def test_packing(png_root, tmp_path, kind):
    def tree(out):
        # TFDS shuffles and dates what it writes: then the names tell.
        found = files(out, "**/*")
        return found if kind == "array_record" else sorted(found)

    def words(out):
        return ["pack", f"--in={png_root}", f"--out={out}", f"--format={kind}"]

    check(words, tmp_path, tree, compiles=False)


@pytest.mark.slow
def test_latent_cache(trained, png_root, tmp_path):
    flags = [f"--config={jobs.CONFIG}", f"--config.data.root={png_root}"]
    flags += [f"--config.autoencoder.checkpoint={trained}", "--config.data.latents=cached"]
    flags += ["--config.autoencoder.scaling_factor=1", "--config.train.steps=2"]
    check(
        lambda out: ["train", *flags, f"--workdir={out}"],
        tmp_path,
        lambda out: files(out, "latents/**/*"),
    )


@pytest.mark.slow
def test_evaluation(trained, png_root, tmp_path):
    flags = [f"--config={jobs.CONFIG}", f"--config.data.root={png_root}"]
    flags += [f"--config.autoencoder.checkpoint={trained}", "--config.train.steps=4"]
    _finish(["train", *flags, f"--workdir={tmp_path / 'run'}"])

    def words(out):
        if not out.exists():
            shutil.copytree(tmp_path / "run", out)
        return ["evaluate", *flags, f"--workdir={out}"]

    check(words, tmp_path, lambda out: files(out, "*.jsonl", "*.npz", "*.new", "eval/**/*"))


@pytest.mark.slow
def test_prediction(untrained, tmp_path):
    nib = pytest.importorskip("nibabel")
    image, _, affine = scans_of.brain_scan()
    (tmp_path / "in").mkdir()
    for k in range(3):
        nib.save(nib.Nifti1Image(image.astype("int16"), affine), tmp_path / f"in/{k}.nii.gz")
    flags = [f"--checkpoint={untrained}", f"--input={tmp_path / 'in'}", "--threshold=0.01"]

    def tree(out):
        # Times stand in the table and in the summaries.
        found = files(out, "**/*")
        return dict.fromkeys(found) | {n: b for n, b in found.items() if n.endswith(".nii.gz")}

    check(lambda out: ["predict", *flags, f"--output={out}"], tmp_path, tree)
