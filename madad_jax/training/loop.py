"""The one training loop: any method, any mesh, resumable to the bit.

Order in an iteration: step, then (when due) validate, save, log. Metrics are read one
step late, so that the host never waits for a step that it has just dispatched.
"""

import functools
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import tqdm
from etils import epath

from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.runtime import agreement, watchdog
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import metric_log
from madad_jax.training import state as state_lib
from madad_jax.training import trainer as trainer_lib

_LOG = logging.getLogger(__name__)


def train(
    trainer: trainer_lib.Trainer,
    frozen: Params,
    iterator: Any,
    validation: Callable[[], Iterable[Batch]],
    *,
    directory: epath.Path,
    config: dict,
    first: Params | None = None,
    writer: metric_log.MetricWriter,
    lr_fn: Callable[[int], float],
    stop: stop_lib.GracefulStop,
) -> state_lib.TrainState:
    """Trains from the newest whole checkpoint (or from nothing) to `options.steps`.

    Raises:
      UserError: a loss or gradient that is not finite, naming the step and the last checkpoint.
      runtime.Stopped: a signal asked for the end; a checkpoint was saved first.
    """
    options = trainer.options
    frozen = jax.device_put(frozen, mesh_lib.replicated(trainer.mesh))
    with saver_lib.Checkpointer(
        directory / "checkpoints",
        keep_latest=options.keep_latest,
        best_metric="val/loss",
    ) as saver:
        watchdog.progress(f"{options.stage}: restoring")
        restored = saver.restore_latest(trainer.abstract)
        if restored is None:
            state, step = trainer.initial_state(first), 0
        else:
            state, step = restored.state, restored.step
            iterator.restore(restored.data_state)
            _LOG.info("%s: continues from step %d", options.stage, step)
        writer.truncate_after(options.stage, step)

        def validate(state):
            return trainer.validate(state, frozen, validation())

        def save(step, state, values):
            saver.save(step, state, iterator.state(), config, values, force=True)

        step_fn = functools.partial(_one_step, trainer, frozen, iterator)
        return _loop(options, state, step, step_fn, validate, save, saver, writer, lr_fn, stop)


def _one_step(trainer, frozen, iterator, state):
    batch = batches_lib.global_batch(trainer.mesh, next(iterator))
    return trainer.step(state, frozen, batch)


def _loop(options, state, step, step_fn, validate, save, saver, writer, lr_fn, stop):
    bar = tqdm.tqdm(
        total=options.steps,
        initial=step,
        desc=options.stage,
        unit="step",
        dynamic_ncols=True,
        disable=jax.process_index() != 0,
    )
    clock = _Clock(step)
    lr_fn = jax.jit(lr_fn)  # one program in place of a dozen small ones
    pending = None
    last_save = time.monotonic()
    while step < options.steps:
        watchdog.progress(f"{options.stage}: step {step + 1}")
        state, metrics = step_fn(state)
        step += 1
        bar.update()
        if pending is not None:
            _check_finite(options.stage, *pending, saver)
        pending = (step, metrics)
        if step % options.log_every == 0 or step == options.steps:
            row = _check_finite(options.stage, *pending, saver)
            rate = clock.rate(step) * options.batch_size
            bar.set_postfix_str(f"loss {row['loss']:.4f}, {rate:.1f} slices/s")
            row |= {"lr": float(lr_fn(step - 1)), "samples_per_second": rate}
            writer.write(options.stage, "train", step, row)
        stopping = stop.requested(step)
        ends = stopping or step == options.steps
        validating = step % options.validate_every == 0 or step == options.steps
        saving = step % options.checkpoint_every == 0 or ends
        saving |= agreement.minutes_passed(last_save, options.checkpoint_minutes)
        values = None
        if validating:
            values = {f"val/{k}": v for k, v in validate(state).items()}
            writer.write(options.stage, "val", step, _without_prefix(values))
        if saving or validating:
            _check_finite(options.stage, *pending, saver)
            watchdog.progress(f"{options.stage}: saving step {step}")
            save(step, state, values)
            last_save = time.monotonic()
            clock = _Clock(step)
        if stopping:
            saver.wait()
            bar.close()
            raise stop_lib.Stopped(stop.signal, f"{options.stage}: stopped after step {step}")
    bar.close()
    saver.wait()
    return state


class _Clock:
    """Steps per second since the last reading; restarted after pauses that are no steps."""

    def __init__(self, step: int):
        self.step, self.time = step, time.monotonic()

    def rate(self, step: int) -> float:
        now = time.monotonic()
        rate = (step - self.step) / max(now - self.time, 1e-9)
        self.step, self.time = step, now
        return rate


def _check_finite(stage: str, step: int, metrics: dict, saver) -> dict[str, float]:
    row = {k: float(v) for k, v in jax.device_get(metrics).items()}
    # The gradient too: the loss is of the weights before the update, what is saved after it.
    wrong = next((k for k in ("loss", "gradient_norm") if not math.isfinite(row[k])), None)
    if wrong:
        what = wrong.replace("_", " ")
        raise errors.UserError(
            f"{stage}: the {what} of step {step} is {row[wrong]}; the newest checkpoint is step "
            f"{saver.latest_step()}. Lower optim.lr, set optim.grad_clip_norm, or look at the data"
        )
    return row


def _without_prefix(values: dict[str, float]) -> dict[str, float]:
    return {k.removeprefix("val/"): v for k, v in values.items()}
