"""`train.tasks`: training on one site or contrast after another, as a chain of ordinary runs.

A task is a run in its own folder that starts from the weights of the task before
(`denoiser.init`), on the autoencoder of the first and at its scaling factor: latents that moved
under the denoiser would be forgotten too. So a task stops and continues as any run does.
"""

import copy
import dataclasses
import re
from typing import Any

from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import methods
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors, messages
from madad_jax.training import input_bases, projection

FIRST, JOINT = "first", "joint"
_CHANGES = ("data.root", "data.modality")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: a task of a way to train, or all tasks at once.

    Attributes:
      way: of `projection.WAYS`; "first" of the first task, which all share; or "joint".
      number: of its last task, from 0.
      folder: of the run.
      config: of the run.
    """

    way: str
    number: int
    folder: epath.Path
    config: config_dict.ConfigDict

    def parts(self) -> parts_lib.Parts:
        """The run's parts. Raises UserError for a value that cannot be."""
        return parts_lib.assemble(self.config)


class Tasks:
    """The tasks of a config, and the runs that learn them.

    Args:
      config: with `train.tasks`.
      folder: of all its runs.

    Attributes:
      name: of the config.
      names: of the tasks, in order.
      ways: to train: the config's own, then those of `train.continual.compare`.
      bases: how much of the inputs is kept.
      slices: of each task whose inputs are recorded.

    Raises:
      UserError: a task or a way that is none.
    """

    def __init__(self, config: config_dict.ConfigDict, folder: epath.PathLike):
        self._config, self._folder = config, epath.Path(folder)
        parsed = [_parse(text) for text in config.train.tasks]
        self._changes = [changes for _, changes in parsed]
        self.name = config.name
        self.names = tuple(name for name, _ in parsed)
        if len(set(self.names)) < len(parsed):
            raise errors.UserError(f"train.tasks: found a name twice: {', '.join(self.names)}")
        c = config.train.continual
        self.ways = tuple(dict.fromkeys((c.projection or "update", *c.compare)))
        accepted = {"projection": projection.WAYS, "compare": (*projection.WAYS, JOINT)}
        for key, words in (("projection", self.ways[:1]), ("compare", c.compare)):
            for word in words:
                if word not in accepted[key]:
                    raise errors.UserError(
                        f"train.continual.{key}: found {messages.shorten(repr(word))}, accepted: "
                        f"{', '.join(accepted[key])}"
                    )
        self.bases = bases_options(config)
        self.slices = c.slices
        if c.slices < 1:
            raise errors.UserError(f"train.continual.slices: found {c.slices}, accepted: 1 or more")

    def first(self) -> Run:
        """The first task, from which every way goes on."""
        return self._run(FIRST, 0, self._folder / f"1_{self.names[0]}")

    def run(self, way: str, number: int, factor: float | None = None) -> Run:
        """A task of a way.

        Args:
          way: of `ways`; of "joint" there is one run, which learns all tasks.
          number: of the task, from 0.
          factor: the scaling factor of the first task's latents; None: it has none.
        """
        if way != JOINT and number == 0:
            return self.first()
        name = JOINT if way == JOINT else f"{number + 1}_{self.names[number]}"
        run = self._run(way, number, self._folder / way / name)
        c = run.config
        if methods.stands_on_latents(c):
            c.autoencoder.checkpoint = c.autoencoder.checkpoint or str(self.first().folder)
            if factor is not None:
                c.autoencoder.scaling_factor = factor
        if way == JOINT:
            # As many steps as all tasks together; epochs grow with the slices by themselves.
            c.train.steps = c.train.steps * len(self.names)
        else:
            c.denoiser.init = str(self.run(way, number - 1, factor).folder)
            c.train.continual.projection = way
        return run

    def on(self, run: Run, number: int) -> config_dict.ConfigDict:
        """The config of a run with the data of another task, on which it is scored."""
        config = copy.deepcopy(run.config)
        _change(config, self._changes[number])
        return config

    def figures(self, run: Run, number: int) -> epath.Path:
        """Where a run's figures on a task lie: in its own folder where it has just learned it."""
        if run.way != JOINT and run.number == number:
            return run.folder
        return run.folder / "on_tasks" / f"{number + 1}_{self.names[number]}"

    def _run(self, way: str, number: int, folder: epath.Path) -> Run:
        config = copy.deepcopy(self._config)
        config.train.tasks = ()
        # What a run without projection would read nothing of is no part of its record.
        config.train.continual.projection = "none"
        config.train.continual.compare = ()
        config.name = f"{config.name}-{JOINT if way == JOINT else self.names[number]}"
        _change(config, self._changes[0 if way == JOINT else number])
        return Run(way, number, folder, config)


def are_asked(config: config_dict.ConfigDict) -> bool:
    """Whether a config trains on one task after another. A table of runs has no such section."""
    return "train" in config and bool(config.train.get("tasks", ()))


def bases_options(config: config_dict.ConfigDict) -> input_bases.Options:
    """How much of earlier tasks' inputs is kept. Raises UserError for a number out of range."""
    c = config.train.continual
    return input_bases.Options(kind=c.basis, energy=c.energy, max_rank=c.max_rank)


def _parse(text: Any) -> tuple[str, dict[str, str]]:
    """(name, changes) of "FLAIR data.modality=FLAIR"; paths may hold spaces."""
    name, *words = re.split(r"\s+(?=data\.)", text.strip()) if isinstance(text, str) else ("",)
    pairs = [word.partition("=") for word in words]
    good = all(key in _CHANGES and equals and value for key, equals, value in pairs)
    if not _NAME.fullmatch(name) or not pairs or not good:
        raise errors.UserError(
            f"train.tasks: found {messages.shorten(repr(text))}, accepted: a name and what changes "
            f"in the data ({', '.join(_CHANGES)}), as 'FLAIR data.modality=FLAIR'"
        )
    return name, {key: value for key, _, value in pairs}


def _change(config: config_dict.ConfigDict, changes: dict[str, str]) -> None:
    for key, value in changes.items():
        config.data[key.removeprefix("data.")] = value
