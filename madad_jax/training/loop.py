"""The one training loop: any method, any mesh, resumable to the bit.

`Loop` takes steps and calls hooks after them, in the order in which the hooks were added.
`train` adds the hooks of a stage: look at the metrics of the step before, log, validate, save.
Metrics are read one step late, so that the host never waits for a step that it has just
dispatched.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import tqdm
from etils import epath

from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.runtime import agreement, executables, wall_time, watchdog
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import metric_log, schedules, step_trace
from madad_jax.training import state as state_lib
from madad_jax.training import trainer as trainer_lib

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Moment:
    """The loop just after a step. The next step donates `state`: no hook may keep it.

    `step` counts finished optimiser steps; `metrics` are still on the devices, and reading them
    waits for the step; `last` is true when the budget is spent.
    """

    step: int
    state: state_lib.TrainState
    metrics: Metrics
    last: bool


Hook = Callable[[Moment], None]
StepFn = Callable[[state_lib.TrainState], tuple[state_lib.TrainState, Metrics]]


class Loop:
    """Takes steps and calls hooks; knows nothing of what they do."""

    def __init__(self, stage: str, step_fn: StepFn, *, start: int, steps: int):
        """From step `start` (finished already) to step `steps`."""
        self._stage = stage
        self._step_fn = step_fn
        self._start = start
        self._steps = steps
        self._hooks: list[tuple[int, Hook]] = []

    def every(self, n: int, hook: Hook) -> None:
        """Calls `hook` after every step whose number `n` divides, and after the last one."""
        self._hooks.append((n, hook))

    def run(self, state: state_lib.TrainState) -> state_lib.TrainState:
        """The state after the last step. What a hook raises ends the loop."""
        for step in range(self._start + 1, self._steps + 1):
            watchdog.progress(f"{self._stage}: step {step}")
            state, metrics = self._step_fn(state)
            moment = Moment(step, state, metrics, last=step == self._steps)
            for n, hook in self._hooks:
                if step % n == 0 or moment.last:
                    hook(moment)
        return state


@runtime_checkable
class DataIterator(Protocol):
    """Endless training batches whose position can be saved."""

    def __next__(self) -> Batch:
        """The next batch of this process."""
        ...

    def state(self) -> dict[str, Any]:
        """The position, JSON-able, the same on every process."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state` gave."""
        ...


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a stage leaves its results.

    `directory` takes the checkpoints; `config` is JSON-able and stands in each of them; `writer`
    takes the metrics; `advice` says what to change when a loss is not finite.
    """

    directory: epath.Path
    config: dict[str, Any]
    writer: metric_log.MetricWriter
    advice: str = "lower the learning rate, or look at the data"


def train(
    trainer: trainer_lib.Trainer,
    frozen: Params,
    iterator: DataIterator,
    validation: Callable[[], Iterable[Batch]],
    outputs: Outputs,
    *,
    lr_fn: schedules.Schedule,
    stop: stop_lib.GracefulStop,
    first: Params | None = None,
) -> state_lib.TrainState:
    """Trains from the newest undamaged checkpoint, if any, to `trainer.options.steps`.

    Args:
      trainer: the compiled programs of the stage.
      frozen: weights that the method reads and does not train.
      iterator: training batches; its position is saved and restored with the weights.
      validation: gives the validation batches, the same ones at every call.
      outputs: where checkpoints and metrics go.
      lr_fn: learning rate by step, for the log.
      stop: asked after every step whether to save and end.
      first: weights to start from without a checkpoint; drawn from the seed if None.

    Raises:
      UserError: a loss or gradient that is not finite, naming the step and the last checkpoint.
      stop.Stopped: a signal asked for the end; a checkpoint was saved first.
    """
    options = trainer.options
    frozen = jax.device_put(frozen, mesh_lib.replicated(trainer.mesh))
    with saver_lib.Checkpointer(
        outputs.directory / "checkpoints",
        keep_latest=options.keep_latest,
        best_metric=f"val/{options.selected_by}",
    ) as saver:
        watchdog.progress(f"{options.stage}: restoring")
        with wall_time.spend("checkpoints"):
            state, start = _restore(trainer, iterator, saver, first)
        wall_time.begin(options.stage, start)
        outputs.writer.truncate_after(options.stage, start)
        bar = _progress_bar(options, start)
        metrics = _LateMetrics(options.stage, saver, outputs.advice)
        clock = _Clock(start)
        log = _Log(options, outputs.writer, metrics, clock, bar, _one_program(options.stage, lr_fn))
        validate = _Validate(trainer, frozen, validation, outputs.writer)
        save = _Save(options, saver, iterator, outputs.config, metrics, validate, clock, stop)

        step_fn = functools.partial(_take_step, trainer, frozen, iterator, metrics)
        folder = outputs.directory.parent / "profile" / options.stage
        trace = step_trace.StepTrace(folder, options.profile, start, options.stage)
        loop = Loop(options.stage, step_fn, start=start, steps=options.steps)
        # A loss that is not finite must be found before it is logged, and above all before a
        # save: the newest checkpoint is what the user goes back to.
        loop.every(1, lambda moment: bar.update())
        loop.every(1, lambda moment: trace.after(moment.step, moment.metrics))
        loop.every(1, metrics.add)
        loop.every(options.log_every, log)
        loop.every(options.validate_every, validate)
        # Last, since it saves what validation found, and since it may end the run.
        loop.every(1, save)
        try:
            with wall_time.spend("steps"):
                state = loop.run(state)
        except stop_lib.Stopped:
            bar.close()
            raise
        finally:
            trace.close()
        bar.close()
        with wall_time.spend("checkpoints"):
            saver.wait()
        wall_time.end(options.stage)
        return state


def _progress_bar(options: trainer_lib.Options, start: int) -> tqdm.tqdm:
    return tqdm.tqdm(
        total=options.steps,
        initial=start,
        desc=options.stage,
        unit="step",
        dynamic_ncols=True,
        disable=jax.process_index() != 0,
    )


def _restore(
    trainer: trainer_lib.Trainer,
    iterator: DataIterator,
    saver: saver_lib.Checkpointer,
    first: Params | None,
) -> tuple[state_lib.TrainState, int]:
    """The state to start from and its finished steps; puts the data at the same position."""
    restored = saver.restore_latest(trainer.abstract)
    if restored is None:
        return trainer.initial_state(first), 0
    iterator.restore(restored.data_state)
    _LOG.info("%s: continues from step %d", trainer.options.stage, restored.step)
    return restored.state, restored.step


def _one_program(stage: str, lr_fn: schedules.Schedule) -> schedules.Schedule:
    """The schedule as one program in place of a dozen small ones, kept whole as the step is."""
    program, here = jax.jit(lr_fn), jax.local_devices()[:1]
    made = executables.compiled(f"{stage} rate", program, (np.int32(0),), lr_fn, here)
    return lambda step: made(np.int32(step))


def _take_step(
    trainer: trainer_lib.Trainer,
    frozen: Params,
    iterator: DataIterator,
    metrics: "_LateMetrics",
    state: state_lib.TrainState,
) -> tuple[state_lib.TrainState, Metrics]:
    with wall_time.spend("input") as doing:
        batch = batches_lib.global_batch(trainer.mesh, next(iterator))
        if not metrics.computed():
            doing.part = "steps"  # the devices were at work all the while
    return trainer.step(state, frozen, batch)


class _LateMetrics:
    """Metrics of the newest step; those of the step before are checked when it is added."""

    def __init__(self, stage: str, saver: saver_lib.Checkpointer, advice: str):
        self._stage = stage
        self._saver = saver
        self._advice = advice
        self._newest: tuple[int, Metrics] | None = None

    def add(self, moment: Moment) -> None:
        """Checks the step before, which is computed by now, and takes the new one unread."""
        if self._newest is not None:
            self.read()
        self._newest = (moment.step, moment.metrics)

    def computed(self) -> bool:
        """Whether the devices have done the newest step; also before the first."""
        return self._newest is None or all(
            value.is_ready() for value in self._newest[1].values() if isinstance(value, jax.Array)
        )

    def read(self) -> dict[str, float]:
        """The newest step's metrics as numbers; waits for the step.

        Raises:
          UserError: its loss or gradient is not finite.
        """
        step, metrics = self._newest
        row = {k: float(v) for k, v in jax.device_get(metrics).items()}
        # The gradient too: the loss is of the weights before the update, what is saved after it.
        wrong = next((k for k in ("loss", "gradient_norm") if not math.isfinite(row[k])), None)
        if wrong:
            what = wrong.replace("_", " ")
            raise errors.UserError(
                f"{self._stage}: the {what} of step {step} is {row[wrong]}; the newest checkpoint "
                f"is step {self._saver.latest_step()}; {self._advice}"
            )
        return row


class _Clock:
    """Steps per second since the last reading, or since `restart`."""

    def __init__(self, step: int):
        self.restart(step)

    def restart(self, step: int) -> None:
        """Forgets the time until now, which was spent on something other than steps."""
        self._step, self._time = step, time.monotonic()

    def read_rate(self, step: int) -> float:
        """Steps per second; counts anew from here."""
        now = time.monotonic()
        # Two readings may fall on one tick of the clock.
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._step, self._time = step, now
        return rate


@dataclasses.dataclass
class _Log:
    """Hook: a line of training metrics, and the loss beside the progress bar."""

    options: trainer_lib.Options
    writer: metric_log.MetricWriter
    metrics: _LateMetrics
    clock: _Clock
    bar: tqdm.tqdm
    lr_fn: schedules.Schedule

    def __call__(self, moment: Moment) -> None:
        row = self.metrics.read()
        rate = self.clock.read_rate(moment.step) * self.options.batch_size
        self.bar.set_postfix_str(f"loss {row['loss']:.4f}, {rate:.1f} slices/s")
        # Step n was taken with the rate of n - 1: schedules count from 0.
        row |= {"lr": float(self.lr_fn(moment.step - 1)), "samples_per_second": rate}
        self.writer.write(self.options.stage, "train", moment.step, row)


@dataclasses.dataclass
class _Validate:
    """Hook: a line of validation metrics, which the save after it takes along."""

    trainer: trainer_lib.Trainer
    frozen: Params
    batches: Callable[[], Iterable[Batch]]
    writer: metric_log.MetricWriter
    newest: tuple[int, dict[str, float]] | None = None  # step, metrics

    def __call__(self, moment: Moment) -> None:
        with wall_time.spend("evaluation"):
            metrics = self.trainer.validate(moment.state, self.frozen, self.batches())
        self.writer.write(self.trainer.options.stage, "val", moment.step, metrics)
        self.newest = (moment.step, metrics)

    def metrics_at(self, step: int) -> dict[str, float] | None:
        """Validation metrics by their names in a checkpoint; None without validation at `step`."""
        if self.newest is None or self.newest[0] != step:
            return None
        return {f"val/{name}": value for name, value in self.newest[1].items()}


@dataclasses.dataclass
class _Save:
    """Hook: saves when due or validated, at the last step and when a signal asks for the end."""

    options: trainer_lib.Options
    saver: saver_lib.Checkpointer
    iterator: DataIterator
    config: dict[str, Any]
    metrics: _LateMetrics
    validate: _Validate
    clock: _Clock
    stop: stop_lib.GracefulStop
    last_save: float = dataclasses.field(default_factory=time.monotonic)

    def __call__(self, moment: Moment) -> None:
        # Both are asked at every step: the processes of a job agree in them, so that one which
        # asked less often would leave the others waiting.
        self.saver.check()
        stopping = self.stop.requested(moment.step)
        late = agreement.minutes_passed(self.last_save, self.options.checkpoint_minutes)
        validated = self.validate.metrics_at(moment.step)
        due = moment.step % self.options.checkpoint_every == 0 or moment.last
        if due or late or stopping or validated is not None:
            self.metrics.read()  # weights that are not finite are never saved
            watchdog.progress(f"{self.options.stage}: saving step {moment.step}")
            data = self.iterator.state()
            with wall_time.spend("checkpoints"):
                self.saver.save(moment.step, moment.state, data, self.config, validated, force=True)
            wall_time.saved(self.options.stage, moment.step)
            self.last_save = time.monotonic()
            self.clock.restart(moment.step)
        if stopping:
            with wall_time.spend("checkpoints"):
                self.saver.wait()  # written in the background: the process may end right after
            raise stop_lib.Stopped(
                self.stop.signal, f"{self.options.stage}: stopped after step {moment.step}"
            )
