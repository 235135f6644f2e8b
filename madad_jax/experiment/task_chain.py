"""One task after another (`train.tasks`): training, figures of every task after each, forgetting.

Each task is a run in its own folder and stops and continues as any run does; between two tasks the
inputs of the layers are measured (`layer_inputs.py`). Every way to train goes on from the same
first task: `<workdir>/1_<task>`, then `<workdir>/<way>/2_<task>` and so on; `<workdir>/joint/joint`
learns all tasks at once. Figures lie in `continual.json`, tables in `report.md`.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.assembly import tasks as tasks_lib
from madad_jax.checkpoints import reader
from madad_jax.core import atomic_files, errors, json_digest, json_file
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import report, task_tables
from madad_jax.experiment import (
    frozen_weights,
    layer_inputs,
    preflight,
    report_stage,
    score_stage,
    stages,
)
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import agreement
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)

MODES = ("run", "train", "evaluate", "report")
FILE = "continual.json"
_SCORED = "scored.json"


def execute(
    config: config_dict.ConfigDict,
    folder: str,
    mode: str,
    stop: stop_lib.GracefulStop,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Trains, scores and reports what `mode` asks for, on all devices or the given ones.

    Raises UserError for what the user can mend.
    """
    if mode not in MODES:
        raise errors.UserError(
            f"--mode={mode}: {config.name} has train.tasks; accepted: {', '.join(MODES)}"
        )
    work = _Work(tasks_lib.Tasks(config, folder), stop, devices)
    if mode in ("run", "train"):
        work.check()
        for way, number in work.places():
            work.train(way, number)
    if mode in ("run", "evaluate"):
        for way, number in work.places():
            work.score(work.run(way, number))
    if mode != "train":
        _write(work, epath.Path(folder))


class _Work:
    """The runs of the tasks, each trained and scored once."""

    def __init__(
        self,
        tasks: tasks_lib.Tasks,
        stop: stop_lib.GracefulStop,
        devices: Sequence[jax.Device] | None,
    ):
        self.tasks = tasks
        self._stop, self._devices = stop, devices

    def places(self) -> list[tuple[str, int]]:
        """(way, number of the task) of all runs in the order in which they are made; the first
        task is of every way, and joint training is one run."""
        ways, last = self.tasks.ways, len(self.tasks.names) - 1
        found = [(way, number) for way in ways for number in range(1, last + 1)]
        found = [(way, n) for way, n in found if way != tasks_lib.JOINT]
        joint = [(way, last) for way in ways if way == tasks_lib.JOINT]
        return [(tasks_lib.FIRST, 0), *found, *joint]

    def run(self, way: str, number: int) -> tasks_lib.Run:
        """A run by what is trained now: the first task's scaling factor is in later configs."""
        return self.tasks.run(way, number, _factor(self.tasks.first()))

    def check(self) -> None:
        """Every task's options and data before the first is trained."""
        first = self.tasks.first()
        for number, name in enumerate(self.tasks.names):
            try:
                parts = parts_lib.assemble(self.tasks.on(first, number))
                inputs = self._inputs(parts)
                for split in ("train", "val", *parts.evaluation.sets):
                    inputs.source(split)
            except errors.UserError as error:
                raise errors.UserError(f"{name}: {error}") from error
        if any(number and way in ("update", "gradient") for way, number in self.places()):
            layer_inputs.check(first.parts())

    def train(self, way: str, number: int) -> None:
        """Trains, or continues to train, a run."""
        run = self.run(way, number)
        _LOG.info("%s", run.folder)
        stop_lib.check(f"before {run.folder}", shared=False)
        with agreement.lock(str(run.folder), "--workdir"):
            if way == tasks_lib.JOINT:
                self._train_joint(run)
                return
            if run.parts().plan.projection != "none":
                self._measure(self.run(way, number - 1))
            stages.execute(run.config, str(run.folder), "train", self._stop, self._devices)

    def _inputs(self, parts: parts_lib.Parts) -> inputs_lib.Inputs:
        mesh = mesh_lib.make_mesh(**parts.mesh, devices=self._devices)
        return inputs_lib.Inputs(parts.data, mesh, parts.evaluation.batch_size)

    def _measure(self, run: tasks_lib.Run) -> None:
        parts = run.parts()
        workdir = workdir_lib.of_parts(parts, run.folder)
        layer_inputs.measure(
            parts,
            workdir,
            self._inputs(parts),
            self._stop,
            options=self.tasks.bases,
            slices=self.tasks.slices,
        )

    def _train_joint(self, run: tasks_lib.Run) -> None:
        parts = run.parts()
        workdir = workdir_lib.of_parts(parts, run.folder)
        inputs = inputs_lib.JointInputs(
            [
                self._inputs(parts_lib.assemble(self.tasks.on(run, number)))
                for number in range(len(self.tasks.names))
            ]
        )
        preflight.once(parts, workdir, inputs, "train")
        stages.open_stage(parts, workdir, inputs, "denoiser")
        latents = stages.cache_latents(parts, workdir, inputs, self._stop)
        stages.train_denoiser(parts, workdir, inputs, self._stop, latents)

    def score(self, run: tasks_lib.Run) -> None:
        """Scores a run on every task, unless these weights were scored in the same way."""
        for number in range(len(self.tasks.names)):
            self._score_on(run, number)

    def _score_on(self, run: tasks_lib.Run, number: int) -> None:
        config, folder = self.tasks.on(run, number), self.tasks.figures(run, number)
        parts = parts_lib.assemble(config)
        facts = _scored_facts(parts, run)
        marker = folder / _SCORED
        if agreement.from_first(lambda: marker.exists() and json_file.read_object(marker) == facts):
            return
        _LOG.info("%s on %s", run.folder, self.tasks.names[number])
        stop_lib.check(f"before scoring {run.folder} on {self.tasks.names[number]}", shared=False)
        with agreement.lock(str(folder), "--workdir"):
            if folder == run.folder:
                stages.execute(config, str(folder), "evaluate", self._stop, self._devices)
            else:
                self._score_elsewhere(run, parts, folder)
        if jax.process_index() == 0:
            atomic_files.write_text(marker, json.dumps(facts))

    def _score_elsewhere(
        self, run: tasks_lib.Run, parts: parts_lib.Parts, folder: epath.Path
    ) -> None:
        """Scores a run's weights on the data of `parts`: thresholds are of that task's healthy
        validation slices."""
        own = run.parts()
        trained = workdir_lib.of_parts(own, run.folder)
        inputs = self._inputs(parts)
        frozen = frozen_weights.FrozenWeights.restore(own, trained, inputs.mesh)
        steps = int(trained.number("denoiser", "steps"))
        workdir = workdir_lib.Workdir(folder, run.folder)
        workdir.create()
        score_stage.score_sets(parts, workdir, inputs, frozen, steps)


def _factor(first: tasks_lib.Run) -> float | None:
    """The scaling factor that the first task measured; None: it has measured none."""
    made = first.parts().autoencoder
    if made is None or made.scaling_factor > 0:
        return None
    trained = workdir_lib.Workdir(first.folder)
    path = first.folder / "latents" / "complete.json"
    if not agreement.from_first(path.exists):
        return None
    return trained.number("latents", "scaling_factor")


def _scored_facts(parts: parts_lib.Parts, run: tasks_lib.Run) -> dict[str, str]:
    weights = reader.weights_digests(run.folder / "denoiser" / "checkpoints")
    record = config_record.plain_execution(dict(parts.record))
    return {
        "config": json_digest.json_digest(record),
        "weights": json_digest.json_digest(list(weights.values())),
    }


def _write(work: _Work, folder: epath.Path) -> None:
    """`continual.json` and `report.md` of what has been scored."""
    if jax.process_index():
        return
    tasks = work.tasks
    runs = [work.run(way, number) for way, number in work.places()]
    figures: dict[tuple[str, int, int], dict[str, Any]] = {}
    for run in runs:
        for number in range(len(tasks.names)):
            found = _row(run, tasks.figures(run, number))
            if found is not None:
                figures[run.way, run.number, number] = found
    if not figures:
        raise errors.UserError(f"{folder}: no task was scored; run --mode=run first")
    ways = {way: _rows_of(way, tasks, figures) for way in tasks.ways}
    table = task_tables.TaskTable(tasks.names, ways, _bases(runs))
    atomic_files.write_text(folder / FILE, json.dumps(table.to_dict(), indent=1) + "\n")
    synthetic = any(row.get("synthetic") for row in figures.values())
    note = report_stage.SYNTHETIC if synthetic else ""
    atomic_files.write_text(folder / "report.md", table.markdown(tasks.name, note))
    _LOG.info("report: %s", folder / "report.md")


def _row(run: tasks_lib.Run, folder: epath.Path) -> dict[str, Any] | None:
    """The method's own row of the first set that was scored there."""
    if not (folder / _SCORED).exists():
        return None
    parts = run.parts()
    rows = report.read_results(folder / "results.jsonl")
    mine = [row for row in rows if row["method"] == parts.method.name]
    of_set = [row for row in mine if row["set"] == parts.evaluation.sets[0]]
    return of_set[-1] if of_set else None


def _rows_of(
    way: str, tasks: tasks_lib.Tasks, figures: dict[tuple[str, int, int], dict[str, Any]]
) -> list[list[dict[str, Any] | None]]:
    """[after a task][on a task] of a way; of joint training one line."""
    count = len(tasks.names)
    if way == tasks_lib.JOINT:
        return [[figures.get((way, count - 1, j)) for j in range(count)]]
    firsts = [tasks_lib.FIRST, *[way] * (count - 1)]
    return [[figures.get((firsts[k], k, j)) for j in range(count)] for k in range(count)]


def _bases(runs: Sequence[tasks_lib.Run]) -> dict[str, dict[str, list[int]]]:
    """{run: {layer: [rank, dimensions]}} of what was measured."""
    found = {}
    for run in runs:
        path = run.folder / "denoiser" / layer_inputs.FILE
        if path.exists():
            bases = layer_inputs.read(path)[1]
            shapes = {layer: [basis.shape[1], basis.shape[0]] for layer, basis in bases.items()}
            found[run.folder.name if not run.number else f"{run.way}/{run.folder.name}"] = shapes
    return found


def print_table(folder: str) -> None:
    """The tables on standard output."""
    if not jax.process_index():
        print((epath.Path(folder) / "report.md").read_text())
