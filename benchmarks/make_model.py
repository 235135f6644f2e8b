"""Heads to a model that is handed on: prepare, paint, train, choose, package, with a card.

    python -m benchmarks.make_model --heads=IXI_T1 --segmentation=PARCELLATIONS --out=build/ixi-t1
    python -m benchmarks.make_model ... --stage=final,pictures,package

Stages, in this order: split, prepare, paint, join, train, choose, package; and by name alone
`final`, which scores the test heads once nothing is left to choose, and `pictures`, which draws
some of them. Stages that are done are skipped and stopped ones continue, with the same command.
--data=FOLDER takes slices that are joined already, --run=FOLDER a run that is trained already,
--paintings=FOLDER the heads that `pictures` draws.
`--config.KEY=VALUE` changes the experiment in training and scoring.
"""

import argparse
import dataclasses
import os
import pathlib
import runpy
import sys
from typing import Any

from etils import epath

from benchmarks.model_making import ixi_cohort, join, model_card, work
from madad_jax.core import command_line, errors, folder_lock
from madad_jax.data import provenance
from madad_jax.evaluation import lesion_list
from madad_jax.predict import model_names, package_files
from madad_jax.prepare import yaml_file

USUAL = ("split", "prepare", "paint", "join", "train", "choose", "package")
BEFORE_DATA = USUAL[:4]
CONFIG = "configs/models/ixi_t1.py"
IXI_AGES = "20,82"
SEEDS = {"val": 1, "test": 2}  # of the painting
SET_OF = {"val": "val_painted", "test": "test"}  # what painted heads are called beside the slices


@dataclasses.dataclass(frozen=True)
class Job:
    """All that the command line says. Folders are whole paths.

    Attributes:
      heads, segmentation: T1 heads, and a parcellation of the same name for each.
      out: everything that is made, but the model.
      paintings: has `val` and `test`, painted heads.
      data: joined slices.
      run: the run's folder.
      config: file of the experiment, which has `PREPARATION` too.
      changes: `--config.KEY=VALUE`, as given.
      package_out: the model's folder; name, ages ("20,82") and licence text go into it.
      pictures: folder of the panels, and how many heads have one.
    """

    heads: pathlib.Path
    segmentation: pathlib.Path
    out: pathlib.Path
    paintings: pathlib.Path
    data: pathlib.Path
    run: pathlib.Path
    config: pathlib.Path
    changes: tuple[str, ...]
    seed: int
    workers: int
    splits: str
    cohort_file: str
    package_out: pathlib.Path
    name: str
    ages: str
    facts: str
    pictures: pathlib.Path
    panels: int

    def prepared(self, what: str) -> pathlib.Path:
        """Folder of prepared heads: `healthy`, `val` or `test`, the last two painted."""
        return self.out / "prepared" / what

    def painted(self, split: str) -> pathlib.Path:
        """Folder of painted heads."""
        return self.paintings / split


def split(job: Job) -> None:
    """Who trains, chooses and tests; the tables of the preparation."""
    table = yaml_file.read(job.cohort_file) if job.cohort_file else ixi_cohort.TABLE
    splits = ixi_cohort.read_splits(job.heads, job.splits)
    ixi_cohort.write(job.out, splits, table)
    counts = {name: list(splits.values()).count(name) for name in sorted(set(splits.values()))}
    print("split: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def prepare(job: Job) -> None:
    """Slices of all healthy heads."""
    _prepare(job, "prepare", job.heads, "healthy.yaml", "splits.csv", job.prepared("healthy"))


def paint(job: Job) -> None:
    """Lesions on validation and test heads, and their slices."""
    splits = ixi_cohort.read_splits(job.heads, job.splits)
    for part, seed in SEEDS.items():
        folder = job.painted(part)
        command = [
            *(f"--in={job.heads}", f"--segmentation={job.segmentation}", f"--out={folder}"),
            *(f"--seed={seed}", f"--ids={ixi_cohort.choose_ids(splits, part)}"),
        ]
        stage, mark = f"paint_{part}", work.mark_of(command)
        if not work.is_done(job.out, stage, mark):
            work.call(job.out, stage, "benchmarks.paint_lesions", command)
            work.finish(job.out, stage, mark)
        files = ("painted.yaml", f"painted_{part}.csv")
        _prepare(job, f"prepare_{part}", folder, *files, job.prepared(part))


def _prepare(
    job: Job, stage: str, heads: pathlib.Path, table: str, splits: str, out: pathlib.Path
) -> None:
    options = _of_config(job, "PREPARATION")
    command = [
        *("prepare", "--cohort=folder", f"--cohort_file={job.out / table}", f"--in={heads}"),
        *(f"--out={out}", f"--splits={job.out / splits}", f"--workers={job.workers}"),
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    # 1: some heads were refused, and each was named; a cohort is not lost by them.
    work.call(job.out, stage, "madad_jax", command, accepted=(0, 1))


def join_splits(job: Job) -> None:
    """One data folder of healthy and painted heads."""
    painted = [
        join.Painted(SET_OF[part], job.prepared(part), job.painted(part) / lesion_list.FILE)
        for part in SEEDS
    ]
    counts = join.join(job.prepared("healthy"), painted, job.data)
    print("join: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))


def train(job: Job) -> None:
    """Autoencoder and denoiser."""
    work.call(job.out, "train", "madad_jax", ["train", *_experiment(job)])


def choose(job: Job) -> None:
    """Scores painted validation heads: every choice is made on them."""
    _score(job, "choose", SET_OF["val"])


def final(job: Job) -> None:
    """Scores painted test heads, by name alone: no choice may see them."""
    _score(job, "final", SET_OF["test"])


def _score(job: Job, stage: str, name: str) -> None:
    if not work.is_done(job.out, stage, mark := _scored(job, name)):
        work.call(job.out, stage, "madad_jax", _scoring(job, name))
        work.finish(job.out, stage, mark)


def _scoring(job: Job, name: str) -> list[str]:
    return ["evaluate", *_experiment(job), f"--config.eval.sets=('{name}',)"]


def _scored(job: Job, name: str) -> str:
    """The mark of a set's score: experiment, weights, and what tells the slices from others."""
    config = _of_config(job, "get_config")().to_json_best_effort()
    files = [job.data / file for file in (provenance.DATASET, lesion_list.FILE)]
    return work.mark_of([_scoring(job, name), config, _trained(job)], files)


def _trained(job: Job) -> list:
    """What tells the run's weights from those of a training before."""
    paths = (job.run / part / "complete.json" for part in ("autoencoder", "denoiser"))
    return [path.stat().st_mtime_ns if path.exists() else None for path in paths]


def _of_config(job: Job, name: str) -> Any:
    found = runpy.run_path(str(job.config)) if job.config.is_file() else {}
    if name not in found:
        raise errors.UserError(
            f"--config={job.config}: no {name}; accepted: a file as {CONFIG}, which has it"
        )
    return found[name]


def _experiment(job: Job) -> list[str]:
    """Flags of the run; changes come last and win."""
    places = (f"--config={job.config}", f"--workdir={job.run}", f"--config.data.root={job.data}")
    return [*places, f"--config.seed={job.seed}", *job.changes]


def draw_pictures(job: Job) -> None:
    """Panels of test heads, spread evenly over their ids."""
    # Drawn by the model as it is handed on.
    command = [f"--heads={job.painted('test')}", f"--checkpoint={job.package_out}"]
    command += [f"--out={job.pictures}", f"--panels={job.panels}"]
    work.call(job.out, "pictures", "benchmarks.model_making.head_panels", command)


def package(job: Job) -> None:
    """The card from what was measured, and the model's folder, calibrated with its own weights."""
    facts = model_card.read_given(job.facts) if job.facts else model_card.IXI
    link = os.path.relpath(job.pictures, job.package_out).replace(os.sep, "/")
    given = {"name": job.name, "seed": job.seed, "command": command_of(job)}
    given |= {"shown": model_card.read_pictures(job.pictures), "pictures_link": link}
    # A score of other weights or options is no figure of this model.
    sets = [
        name
        for stage, name in (("choose", SET_OF["val"]), ("final", SET_OF["test"]))
        if work.is_done(job.out, stage, _scored(job, name))
    ]
    texts = model_card.write_files(job.out, job.run, job.data, sets, {**facts, **given})
    # Healthy heads are not scored again for a new card alone.
    again = work.is_done(job.out, "weights", _packaged(job))
    source = job.package_out if again else job.run
    command = [
        *("package", f"--checkpoint={source}", f"--out={job.package_out}", f"--name={job.name}"),
        *("--dtype=float16", f"--licence={facts['licence']}"),
        *(f"--licence_file={texts.licence}", f"--card={texts.card}", f"--figures={texts.figures}"),
        *([f"--ages={job.ages}"] if job.ages else []),
    ]
    work.call(job.out, "package", "madad_jax", command)
    work.finish(job.out, "weights", _packaged(job))


def _packaged(job: Job) -> str:
    """The mark of the model's folder: another run may have written it since."""
    return work.mark_of(_trained(job), [job.package_out / package_files.WEIGHTS])


def command_of(job: Job) -> str:
    """The command that makes this model, without places of the machine that made it."""
    words = ["python -m benchmarks.make_model --heads=HEADS --segmentation=PARCELLATIONS"]
    words += ["--out=OUT", f"--seed={job.seed}"]
    if job.config != work.ROOT / CONFIG:
        words.append(f"--config={job.config.name}")
    for flag in ("cohort_file", "splits", "facts"):
        if value := getattr(job, flag):
            words.append(f"--{flag}={pathlib.Path(value).name}")
    return " ".join([*words, *(change for change in job.changes if os.sep not in change)])


STAGES = {
    "split": split,
    "prepare": prepare,
    "paint": paint,
    "join": join_splits,
    "train": train,
    "choose": choose,
    "final": final,
    "package": package,
    "pictures": draw_pictures,
}


def parse(argv: list[str]) -> tuple[Job, list[str]]:
    """The job, and its stages in the order given.

    Raises:
      UserError: a flag or a stage that there is not, or a folder that a stage needs.
    """
    parser = argparse.ArgumentParser(
        prog="make_model", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    places = ("heads", "segmentation", "out", "paintings", "data", "run")
    places += ("config", "package_out", "pictures")
    given = {"config": CONFIG, "pictures": "docs/shipped"}
    for name in places:
        parser.add_argument(f"--{name}", default=given.get(name, ""), required=name == "out")
    for name in ("splits", "cohort_file", "facts"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--name", default="ixi-t1")
    parser.add_argument("--ages", default="", help="youngest,oldest in years; IXI's by itself")
    for name, value in (("seed", 0), ("workers", 1), ("panels", 6)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--stage", default=",".join(USUAL))
    flags, changes = parser.parse_known_args(argv)
    if flags.cohort_file and not flags.facts:
        # The card would say of these heads what is true of IXI.
        raise errors.UserError(f"--facts is missing: JSON with {', '.join(model_card.IXI)}")
    if not flags.facts:
        flags.ages = flags.ages or IXI_AGES
    if wrong := [word for word in changes if not word.startswith("--config.")]:
        raise errors.UserError(f"unexpected argument '{wrong[0]}'; see --help")
    stages = flags.stage.split(",")
    if unknown := [name for name in stages if name not in STAGES]:
        raise errors.UserError(f"--stage: no '{unknown[0]}'; accepted: {', '.join(STAGES)}")
    values = vars(flags)
    del values["stage"]
    out = pathlib.Path(values["out"])
    shipped = f"{model_names.FOLDER}/{values['name']}"
    defaults = {"paintings": out / "painted", "data": out / "data", "run": out / "run"}
    defaults["package_out"] = shipped
    if values["data"]:
        # Slices are joined already: nothing before is done again.
        stages = [name for name in stages if name not in BEFORE_DATA]
    if values["run"]:
        stages = [name for name in stages if name not in (*BEFORE_DATA, "train")]
    _check_needed(values, stages)
    for name in places:
        values[name] = pathlib.Path(values[name] or defaults.get(name, "")).absolute()
    for name in ("splits", "cohort_file", "facts"):
        # Commands run in the project's folder, wherever this one was started.
        values[name] = values[name] and str(pathlib.Path(values[name]).absolute())
    return Job(**values, changes=tuple(changes)), stages


def _check_needed(values: dict, stages: list[str]) -> None:
    needs = {"heads": BEFORE_DATA[:3], "segmentation": ("paint",)}
    for name, users in needs.items():
        if not values[name] and (wanting := [stage for stage in stages if stage in users]):
            raise errors.UserError(f"--{name} is missing; stage '{wanting[0]}' needs it")


def run(argv: list[str]) -> int:
    """Does the stages; 0 when all are done.

    Raises:
      UserError: whatever the user can mend.
    """
    job, stages = parse(argv[1:])
    job.out.mkdir(parents=True, exist_ok=True)
    with folder_lock.hold(epath.Path(job.out), "--out"):
        for name in stages:
            STAGES[name](job)
    return 0


if __name__ == "__main__":
    sys.exit(command_line.status("make_model", run, sys.argv))
