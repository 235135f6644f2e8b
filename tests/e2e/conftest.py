"""A tiny PNG data set, a run in this process, and the command in another."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

from madad_jax.experiment import preflight, stages
from madad_jax.runtime import stop as stop_lib
from tests import compile_flags
from tests.e2e import tiny_config

ROOT = pathlib.Path(__file__).parents[2]


def _write(folder, stem, rng, lesion):
    rows, columns = np.mgrid[:32, :32] - 15.5
    brain = (rows / rng.uniform(11, 14)) ** 2 + (columns / rng.uniform(9, 12)) ** 2 < 1
    image = 120 + 30 * np.sin(rows / 3 + rng.uniform(0, 6)) + rng.normal(0, 6, (32, 32))
    truth = np.zeros((32, 32), bool)
    if lesion:
        r, c = rng.integers(-4, 5, 2)
        truth = ((rows - r) ** 2 + (columns - c) ** 2 < 9) & brain
        image[truth] = 240
    image = np.where(brain, image, 0).clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / f"{stem}-T1.png"), image)
    cv2.imwrite(str(folder / f"{stem}-brainmask.png"), brain.astype(np.uint8) * 255)
    if folder.name.startswith("test"):
        cv2.imwrite(str(folder / f"{stem}-segmentation.png"), truth.astype(np.uint8) * 255)


# Sections and keys that no program reads which `check_programs` traces.
_NO_PROGRAM = ("checkpoint", "eval", "log", "mesh", "optim", "train")
_NO_PROGRAM_DATA = ("root", "source", "modality", "augment", "latents_dir", "num_threads")
_PASSED: set[str] = set()


@pytest.fixture(scope="module", autouse=True)
def programs_are_checked_once():
    """What passed is not traced again in the folder of every test: 2 s each."""
    check = preflight.check_programs

    def once(parts):
        record = {k: v for k, v in parts.record.items() if k not in _NO_PROGRAM}
        record["data"] = {k: v for k, v in record["data"].items() if k not in _NO_PROGRAM_DATA}
        # Folders of other runs, whose weights have the shapes that this config says.
        record["autoencoder"] = record["autoencoder"] | {"checkpoint": ""}
        record["denoiser"] = record["denoiser"] | {"init": ""}
        key = json.dumps(record, sort_keys=True)
        if key not in _PASSED:
            check(parts)
            _PASSED.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "check_programs", once)
        yield


@pytest.fixture(scope="session")
def png_root(tmp_path_factory):
    """{train,val,test,test_healthy} of 32-pixel ellipses with bright spots in test."""
    root = tmp_path_factory.mktemp("slices")
    rng = np.random.default_rng(0)
    counts = {"train": 12, "val": 5, "test": 6, "test_healthy": 3}
    for split, count in counts.items():
        (root / split).mkdir()
        for i in range(count):
            _write(root / split, f"{split}{i:02d}-slice_{i}", rng, split == "test")
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory, png_root):
    """A run with a trained tiny autoencoder and nothing else; copied, never changed."""
    config = tiny_config.get_config()
    config.data.root = str(png_root)
    workdir = tmp_path_factory.mktemp("trained")
    with stop_lib.GracefulStop() as stop:
        stages.execute(config, str(workdir), "train_autoencoder", stop, jax.devices()[:1])
    return workdir


@pytest.fixture
def tiny(png_root):
    """The tiny config on the tiny data."""
    config = tiny_config.get_config()
    config.data.root = str(png_root)
    return config


@pytest.fixture
def execute():
    """execute(config, workdir, mode="run", devices=1): the stages, in this process."""

    def call(config, workdir, mode="run", stop=None, devices=1):
        with stop or stop_lib.GracefulStop() as s:
            return stages.execute(config, str(workdir), mode, s, jax.devices()[:devices])

    return call


@pytest.fixture
def command(png_root):
    """command(*flags) -> Popen of the real command on the tiny config, one device."""

    def start(*flags, config="tests/e2e/tiny_config.py", module="madad_jax.main", **kwargs):
        environment = os.environ | {
            "XLA_FLAGS": compile_flags.for_process(),
            "PYTHONPATH": str(ROOT),
        }
        arguments = [sys.executable, "-m", module, f"--config={config}", *flags]
        if not any(f.startswith("--config.data.root") for f in flags):
            arguments.append(f"--config.data.root={png_root}")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | kwargs
        return subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes)

    return start
