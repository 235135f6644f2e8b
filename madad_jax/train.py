"""The one training loop: any method, any mesh, resumable to the bit.

Order in an iteration: step, then (when due) validate, save, log. Metrics are read one
step late, so that the host never waits for a step that it has just dispatched.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath

from madad_jax import metric_writer, train_step
from madad_jax import train_state as train_state_lib
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import errors, random_keys, units
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from madad_jax.methods import base
from madad_jax.runtime import agreement, watchdog
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """How long and how often; every count is in optimiser steps."""

    stage: str
    steps: int
    batch_size: int
    accum_steps: int = 1
    ema_decay: float = 0.0
    log_every: int = 50
    validate_every: int = 500
    checkpoint_every: int = 500
    checkpoint_minutes: float = 0.0
    keep_latest: int = 2


class Trainer:
    """The compiled programs of one training stage and the shape of its state."""

    def __init__(
        self,
        method: base.Method,
        tx: Any,
        options: Options,
        *,
        batch_spec: Batch,
        mesh: jax.sharding.Mesh,
        seed: int,
    ):
        batches_lib.check_batch_size(
            options.batch_size, mesh, options.accum_steps, key=f"{options.stage} train.batch_size"
        )
        self.options = options
        self.mesh = mesh
        self.root_key = random_keys.root_key(seed)
        self._init = lambda: train_state_lib.create(
            method.init(random_keys.stream(self.root_key, f"{options.stage}/init"), batch_spec),
            tx,
            ema=options.ema_decay > 0,
        )
        abstract = jax.eval_shape(self._init)
        _LOG.info("%s: %s", options.stage, parameter_rules.describe(abstract, mesh))
        self.state_shardings = parameter_rules.state_shardings(abstract, mesh)
        self.abstract = parameter_rules.with_shardings(abstract, self.state_shardings)
        replicated = mesh_lib.replicated(mesh)
        batch = {k: mesh_lib.batch_sharding(mesh) for k in batch_spec}
        self.step_fn = train_step.make_train_step(
            method,
            tx,
            accum_steps=options.accum_steps,
            ema_decay=options.ema_decay,
            shardings=(self.state_shardings, replicated, batch, replicated),
        )
        params_s = self.state_shardings.params
        self.loss_fn = train_step.make_loss(method, (params_s, replicated, batch, replicated))
        self.stream_key = random_keys.stream(self.root_key, options.stage)
        self._compiled: Any = None

    def step(self, state: train_state_lib.TrainState, frozen: Params, batch: Batch) -> Any:
        """(state, metrics) after one optimiser step. The first call compiles the step and logs
        what it needs."""
        if self._compiled is None:
            started = time.monotonic()
            # The very program that runs, so that asking for its memory compiles nothing twice.
            self._compiled = self.step_fn.lower(state, frozen, batch, self.stream_key).compile()
            memory = self._compiled.memory_analysis()
            _LOG.info(
                "%s: step compiled in %.0f s; per device: activations and temporaries %s, all "
                "arguments %s; batches of %d slices, of which this host reads %d",
                self.options.stage,
                time.monotonic() - started,
                units.human(memory.temp_size_in_bytes),
                units.human(memory.argument_size_in_bytes),
                self.options.batch_size,
                self.options.batch_size // batches_lib.data_process(self.mesh)[1],
            )
        return self._compiled(state, frozen, batch, self.stream_key)

    def initial_state(self, first: Params | None = None) -> train_state_lib.TrainState:
        """Fresh weights, made on the mesh in their own shards, or the weights `first`."""
        state = jax.jit(self._init, out_shardings=self.state_shardings)()
        if first is None:
            return state
        params = jax.device_put(first, self.state_shardings.params)
        ema = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
        return dataclasses.replace(state, params=params, ema_params=ema)

    def validate(
        self, state: train_state_lib.TrainState, frozen: Params, batches: Iterable[Batch]
    ) -> dict:
        """Mean metrics over fixed validation batches, under draws fixed for the whole run."""
        key = random_keys.stream(self.stream_key, "validate")
        total: dict[str, list[float]] = {}
        for i, batch in enumerate(batches):
            watchdog.progress(f"{self.options.stage}: validation batch {i}")
            batch = batches_lib.global_batch(self.mesh, batch)
            metrics = self.loss_fn(
                state.eval_params, frozen, batch, jax.random.fold_in(key, i), state.step
            )
            for name, value in jax.device_get(metrics).items():
                total.setdefault(name, []).append(float(value))
        return {name: float(np.mean(values)) for name, values in total.items()}


def train(
    trainer: Trainer,
    frozen: Params,
    iterator: Any,
    validation: Callable[[], Iterable[Batch]],
    *,
    directory: epath.Path,
    config: dict,
    first: Params | None = None,
    writer: metric_writer.MetricWriter,
    lr_fn: Callable[[int], float],
    stop: stop_lib.GracefulStop,
) -> train_state_lib.TrainState:
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


def latent_spec(batch_size: int, image_size: int, latent: tuple[int, int, int]) -> Batch:
    """Shapes of a training batch of cached latents (h, w, c)."""
    moments = jax.ShapeDtypeStruct((batch_size, *latent), jnp.float32)
    spec = image_spec(batch_size, image_size)
    return {"latent_mean": moments, "latent_logvar": moments, "brain_mask": spec["brain_mask"]}


def image_spec(batch_size: int, image_size: int) -> Batch:
    """Shapes of a training batch of images."""
    side = (batch_size, image_size, image_size)
    return {
        "image": jax.ShapeDtypeStruct((*side, 1), jnp.float32),
        "brain_mask": jax.ShapeDtypeStruct(side, jnp.bool_),
    }
