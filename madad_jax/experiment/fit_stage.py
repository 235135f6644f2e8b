"""The stage of a method on tokens: its network's weights, then what it computes of healthy slices.

The network's weights are read from a file, trained here (a stage of its own, `<workdir>/encoder`)
or drawn from the seed. They lie in the detector's checkpoint beside what was computed, so that a
run needs no other file afterwards.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.core import random_keys
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import trained_weights, training_stage
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.runtime import agreement, watchdog
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import metric_log
from madad_jax.training import state as state_lib

_LOG = logging.getLogger(__name__)
_STAGE = "denoiser"


class TrainingSlices:
    """`methods.base.HealthySlices` of a source, read one by one in its order."""

    def __init__(self, source: Any, batch_size: int, side: int):
        self._source, self._batch_size, self._side = source, batch_size, side

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Batch]:
        for begin in range(0, len(self), self._batch_size):
            rows = range(begin, min(begin + self._batch_size, len(self)))
            watchdog.progress(f"fit: slice {begin}")
            stop_lib.check("fit: tokens of healthy slices")
            shape = (self._batch_size, self._side, self._side)
            images, brains = np.full((*shape, 1), -1, np.float32), np.zeros(shape, bool)
            for row, index in enumerate(rows):
                element = self._source[index]
                images[row], brains[row] = element["image"], element["brain_mask"]
            yield {"image": images, "brain_mask": brains}


def fit(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
) -> int:
    """Fits the method and saves it; returns the steps that its network was trained for here.

    Every process fits on all slices, by the same draws.

    Raises:
      UserError: weights that do not fit, or too few or too many tokens.
      Stopped: a signal came; what the network has learnt is saved, the fit begins anew.
    """
    if agreement.from_first(lambda: workdir.is_begun(_STAGE)):
        # Saved, and stopped before it was marked: the checkpoint has all that is needed.
        return 0 if parts.features.pretraining is None else _trained_steps(workdir)
    network, steps = _network_weights(parts, workdir, inputs, stop)
    method, batch_size = parts.features.method, parts.evaluation.batch_size
    slices = TrainingSlices(inputs.source("train"), batch_size, parts.data.image_size)
    key = random_keys.stream(random_keys.root_key(parts.seed), f"{_STAGE}/fit")

    def progress(what: str) -> None:
        watchdog.progress(f"fit: {what}")
        stop_lib.check(f"fit: {what}")

    params = method.fit({"encoder": network}, slices, key, progress)
    params = jax.device_put(params, mesh_lib.replicated(inputs.mesh))
    metrics = {"loss": _validate(parts, inputs, params)}
    _LOG.info("%s: mean distance of healthy validation tokens %.4g", method.name, metrics["loss"])
    with metric_log.MetricWriter(workdir.trained, workdir.primary) as writer:
        writer.write(_STAGE, "val", steps, metrics)
    state = state_lib.create(params, optax.identity(), ema=False)
    state = dataclasses.replace(state, step=jnp.int32(steps))
    with saver_lib.Checkpointer(workdir.checkpoints(_STAGE), best_metric="val/loss") as saver:
        saver.save(steps, state, {}, parts.record, {"val/loss": metrics["loss"]})
    return steps


def _network_weights(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
) -> tuple[Params, int]:
    """(weights of the network, steps that they were trained for here)."""
    made = parts.features
    if made.weights:
        return made.read(), 0
    if made.pretraining is None:
        _LOG.warning(
            "features.weights names no file: the network stays as the seed drew it, an untrained "
            "backbone, and every row says so"
        )
        key = random_keys.stream(random_keys.root_key(parts.seed), f"{_STAGE}/init")
        return made.method.init(key, parts.image_spec())["encoder"], 0
    if not workdir.is_complete("encoder"):
        steps = training_stage.train(
            made.plan,
            made.pretraining,
            parts.image_spec(made.plan.batch_size),
            {},
            (inputs.source("train"), inputs.source("val")),
            inputs=inputs,
            workdir=workdir,
            record=parts.record,
            stop=stop,
        )
        workdir.mark("encoder", steps=steps)
    weights = trained_weights.restore_encoder(parts, workdir, inputs.mesh)
    return weights, _trained_steps(workdir)


def _trained_steps(workdir: workdir_lib.Workdir) -> int:
    return int(workdir.number("encoder", "steps"))


def _validate(parts: parts_lib.Parts, inputs: inputs_lib.Inputs, params: Params) -> float:
    """The mean distance of healthy validation slices' tokens, as the mean over batches."""
    method, spec = parts.features.method, parts.image_spec()
    loss = jax.jit(lambda params, batch: method.loss(params, {}, batch, jax.random.key(0))[0])
    found = []
    size = parts.evaluation.batch_size
    for batch in inputs.validation_batches(inputs.source("val"), size, tuple(spec)):
        stop_lib.check("fit: validation")
        found.append(float(loss(params, batches.global_batch(inputs.mesh, batch))))
    return float(np.mean(found))
