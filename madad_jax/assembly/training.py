"""A training stage from its config sections: budget, optimiser, cadence."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import optax
from ml_collections import config_dict

from madad_jax.core import errors, messages
from madad_jax.training import optimizer, projection, trainer

_MOST_PROFILED = 100  # steps: a trace grows by megabytes a step, and no viewer opens gigabytes


@dataclasses.dataclass(frozen=True)
class Budget:
    """Steps of a stage and of one pass over its data."""

    steps: int
    steps_per_epoch: int
    epochs: int | float


# Warm-up and decay are data of a program and not its shape: where a step is only compiled or
# timed, one epoch of any length stands for all.
ANY_BUDGET = Budget(steps=1000, steps_per_epoch=1, epochs=1000.0)


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """How a stage trains.

    Attributes:
      stage: `autoencoder` or `denoiser`, also its folder in the run.
      key: of its `train` section, for messages.
      epochs, steps: budget; `steps` counts where it is positive.
      batch_size: global.
      accum_steps: microbatches of an optimiser step.
      ema_decay: of the averaged weights; 0 keeps none.
      optim: the values of its `optim` section.
      log_every, validate_every, checkpoint_every: steps.
      validate_batches: at most so many; 0: all.
      checkpoint_minutes: 0: by steps alone.
      keep_latest: checkpoints.
      profile: first and last step of a trace, or None.
      track: names of trackers that get the metrics too.
      projection: what keeps the answers on earlier tasks (`training/projection.py`).
    """

    stage: str
    key: str
    epochs: int | float
    steps: int
    batch_size: int
    accum_steps: int
    ema_decay: float
    optim: Mapping[str, Any]
    log_every: int
    validate_every: int
    validate_batches: int
    checkpoint_every: int
    checkpoint_minutes: float
    keep_latest: int
    profile: tuple[int, int] | None = None
    track: tuple[str, ...] = ()
    projection: str = "none"

    @property
    def optim_key(self) -> str:
        """The config's section of its optimiser, for messages."""
        return f"{self.key.removesuffix('train')}optim"

    def budget(self, num_slices: int) -> Budget:
        """`steps` when positive, else `epochs` passes over `num_slices`.

        Raises UserError when that is no step at all.
        """
        per_epoch = max(1, math.ceil(num_slices / self.batch_size))
        steps = self.steps or round(self.epochs * per_epoch)
        if steps < 1:
            raise errors.UserError(
                f"{self.key}.steps, {self.key}.epochs: found {self.steps}, {self.epochs}; one of "
                "them must be positive"
            )
        return Budget(steps, per_epoch, steps / per_epoch)

    def optimizer(self, planned: Budget) -> tuple[optax.GradientTransformation, Any]:
        """(transformation, learning rate by step). Raises UserError as `make_optimizer` does."""
        # Configs count warm-up in epochs, as papers do; the schedules count it in both.
        settings = dict(self.optim)
        warmup = settings.pop("warmup_epochs")
        tx, rate = optimizer.make_optimizer(
            warmup_steps=round(warmup * planned.steps_per_epoch),
            warmup_epochs=round(warmup),
            total_steps=planned.steps,
            steps_per_epoch=planned.steps_per_epoch,
            epochs=max(1, round(planned.epochs)),
            **settings,
        )
        return projection.with_projection(tx, self.projection), rate

    def options(self, planned: Budget, selected_by: str = "loss") -> trainer.Options:
        """How long the trainer runs, how often it logs, validates and saves, and what is best."""
        return trainer.Options(
            stage=self.stage,
            steps=planned.steps,
            batch_size=self.batch_size,
            accum_steps=self.accum_steps,
            ema_decay=self.ema_decay,
            log_every=self.log_every,
            validate_every=self.validate_every,
            checkpoint_every=self.checkpoint_every,
            checkpoint_minutes=self.checkpoint_minutes,
            keep_latest=self.keep_latest,
            selected_by=selected_by,
            profile=self.profile,
        )


def profiled_steps(found: Any) -> tuple[int, int] | None:
    """(first, last) of `profile`, as "10:15"; None for "".

    Raises UserError for anything else.
    """
    if found == "":
        return None
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", str(found))
    first, last = (int(word) for word in match.groups()) if match else (0, 0)
    if not 1 <= first <= last < first + _MOST_PROFILED:
        raise errors.UserError(
            f"profile: found {messages.shorten(repr(found))}, accepted: first and last training "
            f"step, counted from 1, as 10:15, at most {_MOST_PROFILED} of them; empty: no trace"
        )
    return first, last


def stage_plan(config: config_dict.ConfigDict, stage: str) -> StagePlan:
    """The plan of a stage; the denoiser's sections stand at the top of the config."""
    section = config.autoencoder if stage == "autoencoder" else config
    return StagePlan(
        stage=stage,
        key="autoencoder.train" if stage == "autoencoder" else "train",
        epochs=section.train.epochs,
        steps=section.train.steps,
        batch_size=section.train.batch_size,
        accum_steps=section.train.accum_steps,
        ema_decay=section.train.ema_decay,
        optim=section.optim.to_dict(),
        log_every=config.log.every_steps,
        validate_every=config.log.validate_every_steps,
        validate_batches=config.log.validate_batches,
        checkpoint_every=config.checkpoint.every_steps,
        checkpoint_minutes=config.checkpoint.every_minutes,
        keep_latest=config.checkpoint.keep_latest,
        profile=profiled_steps(config.get("profile", "")),  # records of before do not have it
        # Configs of earlier runs have none.
        track=tuple(config.log.get("track", ())),
        projection="none" if stage == "autoencoder" else _projection(config),
    )


def _projection(config: config_dict.ConfigDict) -> str:
    """What is projected in the run itself, which has no tasks or is one of them.

    Raises UserError for no way, or one without a run whose tasks are kept.
    """
    # Configs of earlier runs have no such section.
    found = config.train.get("continual", {}).get("projection", "")
    if found not in ("", *projection.WAYS):
        raise errors.UserError(
            f"train.continual.projection: found {messages.shorten(repr(found))}, accepted: "
            f"{', '.join(projection.WAYS)}"
        )
    if found in ("", "none") or config.train.get("tasks", ()):
        return "none"
    if not config.denoiser.init:
        raise errors.UserError(
            f"train.continual.projection: found '{found}', which keeps what the run of "
            "denoiser.init knows, and that names none; give train.tasks, or set it to none"
        )
    return found
