"""The jobs of `benchmarks.against`: a name, what it is, and its commands by build.

A job has one or more phases, commands that run in turn and are measured each. Programs moved
between builds: `_PROGRAMS` says where each may lie. Flags are those that both builds know.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from madad_jax.core import errors

# [(a file that the build has, how the program is started then)], newest first.
_PROGRAMS = {
    "main": (("madad_jax/main.py", ("-m", "madad_jax.main")),),
    "predict": (
        ("madad_jax/predict/__main__.py", ("-m", "madad_jax.predict")),
        ("madad_jax/predict.py", ("-m", "madad_jax.predict")),
    ),
    "prepare": (
        ("madad_jax/prepare/__main__.py", ("-m", "madad_jax.prepare")),
        ("madad_jax/data/prepare/__main__.py", ("-m", "madad_jax.data.prepare")),
    ),
    "speed": (
        ("benchmarks/speed/__main__.py", ("-m", "benchmarks.speed")),
        ("madad_jax/benchmark/run.py", ("-m", "madad_jax.main", "--mode=benchmark")),
    ),
}
# A run of the demo in a minute: what it learns does not matter here.
_TINY = (
    *("--config=configs/demo.py", "--config.train.steps=4", "--config.train.batch_size=4"),
    *("--config.autoencoder.train.steps=4", "--config.eval.bootstrap=20", "--config.eval.panels=2"),
    *("--config.data.cohort.train=6", "--config.data.cohort.val=4", "--config.data.cohort.test=3"),
    *("--config.data.cohort.test_healthy=2", "--config.optim.warmup_epochs=0.0"),
    "--config.autoencoder.optim.warmup_epochs=0.0",
)
# The demo's networks changed: without its head at image resolution both builds do the same work.
_SAME_NETWORKS = (
    *("--config.methods.madad.pixel_head.network.widths=()", "--config.atlas.groups=0"),
    *("--config.synthesis.share=0.6", "--config.map.sigma=4.0"),
)
_TABLE = """
title: one head
licence: none
images: {T1: '{id}_T1{nii}'}
options: {registration: affine, brain_mask: builtin}
"""


@dataclasses.dataclass(frozen=True)
class Build:
    """A tree of this repository, the Python that runs it, and its caches."""

    name: str
    folder: pathlib.Path
    python: str
    cache: pathlib.Path

    def program(self, name: str) -> list[str]:
        """How a program of this build is started.

        Raises:
          UserError: the build has no such program.
        """
        for file, words in _PROGRAMS[name]:
            if (self.folder / file).exists():
                return [self.python, *words]
        raise errors.UserError(f"{self.name} build: has no program {name!r}")

    def demo(self) -> list[str]:
        """Flags of a tiny run of the demo with the same networks in every build."""
        has_head = "pixel_head" in (self.folder / "configs" / "demo.py").read_text()
        return [*_TINY, *(_SAME_NETWORKS if has_head else ())]


class Inputs:
    """Scans and runs that jobs read, made when they are first asked for."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        scan: str,
        checkpoint: str,
        trainer: Build,
        start: Callable[[Build, Sequence[str]], Any],
    ):
        """Nothing is made yet.

        Args:
          folder: where inputs are made.
          scan: a NIfTI file of a whole head; "" for the example that comes with the package.
          checkpoint: a run that both builds read; "" for a tiny one, made by `trainer`.
          trainer: the older build, since newer ones read what older ones wrote.
          start: runs a command of a build to its end.
        """
        self._folder = folder
        self._checkpoint = checkpoint
        self._trainer = trainer
        self._start = start
        if scan and not pathlib.Path(scan).is_file():
            raise errors.UserError(f"--scan: found {scan!r}, accepted: a NIfTI file")
        self._scan = scan

    def scan(self) -> str:
        """The scan, a whole head."""
        if self._scan:
            return str(pathlib.Path(self._scan).resolve())
        from madad_jax.predict import example

        return str(example.path())

    def scans(self, count: int) -> str:
        """A folder of `count` copies of the scan."""
        folder = self._folder / f"scans-{count}"
        if not folder.exists():
            folder.mkdir(parents=True)
            for k in range(count):
                shutil.copy(self.scan(), folder / f"{k:02d}_T1.nii.gz")
        return str(folder)

    def run(self, build: Build) -> str:
        """A tiny run that this build made: networks of random weights for all that speed is."""
        folder = self._folder / f"run-{build.name}"
        if not folder.exists():
            flags = [*build.demo(), f"--workdir={folder}"]
            self._start(build, [*build.program("main"), *flags])
        return str(folder)

    def checkpoint(self) -> str:
        """A run that both builds read."""
        if self._checkpoint:
            return str(pathlib.Path(self._checkpoint).resolve())
        return self.run(self._trainer)

    def table(self) -> str:
        """A cohort table of one scan in its folder."""
        path = self._folder / "table.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_TABLE)
        return str(path)


Commands = Callable[[Build, Inputs, pathlib.Path], dict[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class Job:
    """One line of the table.

    Attributes:
      name: of the job.
      what: in a few words.
      commands: (build, inputs, an empty folder) -> {phase: command}; "" names a single phase.
      fresh: caches are emptied before each round, and none warms up.
      read: (the folder) -> fields of the sample that the program measured itself.
    """

    name: str
    what: str
    commands: Commands
    fresh: bool = False
    read: Callable[[pathlib.Path], dict[str, float]] | None = None


def _predict(count: int, workers: int) -> Commands:
    def commands(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
        flags = [f"--checkpoint={inputs.checkpoint()}", f"--output={out}/maps"]
        flags += [f"--input={inputs.scan() if count == 1 else inputs.scans(count)}"]
        flags += ["--registration=affine", f"--workers={workers}", "--brain_mask=builtin"]
        return {"": [*build.program("predict"), *flags]}

    return commands


def _start(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
    flags = [*build.demo(), "--mode=train"]
    # Another folder, the same cache: a stage that is complete would be skipped.
    return {
        f"{which} start": [*build.program("main"), *flags, f"--workdir={out}/{which}"]
        for which in ("first", "second")
    }


def _demo(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
    flags = ["--config=configs/demo.py", f"--workdir={out}/run"]
    return {"": [*build.program("main"), *flags]}


def _prepare(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
    flags = ["--cohort=folder", f"--cohort_file={inputs.table()}", f"--in={inputs.scans(1)}"]
    flags += [f"--out={out}/slices", "--fractions=1,0,0"]
    return {"": [*build.program("prepare"), *flags]}


def _evaluate(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
    shutil.copytree(inputs.run(build), out / "run")
    shutil.rmtree(out / "run" / "evaluation", ignore_errors=True)
    flags = [
        *build.demo(),
        "--mode=evaluate",
        f"--workdir={out}/run",
        "--config.eval.protocol=both",
    ]
    return {"": [*build.program("main"), *flags, "--config.eval.bootstrap=200"]}


def _suite(suite: str, rows: str, *more: str) -> Commands:
    def commands(build: Build, inputs: Inputs, out: pathlib.Path) -> dict[str, list[str]]:
        flags = ["--config=configs/brats.py:T1", f"--workdir={out}", f"--suite={suite}"]
        flags += [f"--config.benchmark.rows={rows}", "--config.benchmark.rivals=()", *more]
        return {"": [*build.program("speed"), *flags]}

    return commands


def read_suite(out: pathlib.Path) -> dict[str, float]:
    """Seconds and CPU seconds of the one row that a suite measured by itself."""
    (row,) = json.loads((out / "benchmark" / "benchmark.json").read_text())["rows"]
    ours = row["ours"]
    return {"seconds": ours["seconds"]["median"], "cpu_seconds": ours["cpu_seconds"]}


_STEP = "--config.benchmark.repeats=3"
_MAPS = "--config.benchmark.official_maps=2"
JOBS = {
    job.name: job
    for job in (
        Job("predict_warm", "one scan, programs in the cache", _predict(1, 1)),
        Job("predict_many", "20 scans, two workers", _predict(20, 2)),
        Job("predict_first", "one scan, empty cache", _predict(1, 1), fresh=True),
        Job("start", "a tiny training, empty cache and again", _start, fresh=True),
        Job("demo", "the run of `make demo`, empty cache", _demo, fresh=True),
        Job("prepare", "one whole head, affine, builtin mask", _prepare),
        Job(
            "train_unet",
            "a step of U-Net XS, batch 4",
            _suite("train", "unet XS, cached, batch", "--config.benchmark.batch_size=4", _STEP),
            read=read_suite,
        ),
        Job(
            "train_dit",
            "a step of DiT-S/2, batch 8",
            _suite("train", "dit S/2, cached, batch", "--config.benchmark.batch_size=8", _STEP),
            read=read_suite,
        ),
        Job(
            "figures",
            "four exact figures of 10,000 maps",
            _suite("evaluate", "four figures", _MAPS),
            read=read_suite,
        ),
        Job("evaluate", "slices and whole scans of a tiny run", _evaluate),
    )
}


def chosen(names: str) -> list[Job]:
    """Jobs by their names, with commas between.

    Raises:
      UserError: a name that is none.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked or [names]:
        if name not in JOBS:
            raise errors.UserError(f"--jobs: found {name!r}, accepted: {', '.join(JOBS)}")
    return [JOBS[name] for name in asked]
