"""One method, trained to the end of its budget in a run's folder."""

from typing import Any

from madad_jax.assembly import config_record
from madad_jax.assembly import training as training_lib
from madad_jax.core.types import Batch, Params
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.methods import base
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import loop, metric_log, trackers
from madad_jax.training import trainer as trainer_lib


def train(
    plan: training_lib.StagePlan,
    method: base.Method,
    spec: Batch,
    frozen: Params,
    sources: tuple[Any, Any],
    *,
    inputs: inputs_lib.Inputs,
    workdir: workdir_lib.Workdir,
    record: dict[str, Any],
    stop: stop_lib.GracefulStop,
    first: Params | None = None,
) -> int:
    """Trains, or continues to train, and returns the number of steps.

    Args:
      plan: budget, optimiser, cadence.
      method: what is trained.
      spec: shapes of its batches.
      frozen: what it reads and does not train.
      sources: training and validation slices (or cached latents).
      inputs: gives their batches.
      workdir: checkpoints lie in its folder of the stage.
      record: the config, kept with every checkpoint.
      stop: asks for an end between steps.
      first: initial weights; None draws them.

    Raises:
      UserError: no budget, or a loss that is not finite.
      Stopped: a signal came, and a checkpoint was saved.
    """
    train_source, val_source = sources
    planned = plan.budget(len(train_source))
    tx, learning_rate = plan.optimizer(planned)
    trainer = trainer_lib.Trainer(
        method,
        tx,
        plan.options(planned, getattr(method, "selected_by", "loss")),
        batch_spec=spec,
        mesh=inputs.mesh,
        seed=inputs.data.seed,
    )
    iterator = inputs.data.train_iterator(train_source, plan.batch_size, inputs.mesh)
    advice = workdir.advise_not_finite(plan.stage, plan.optim_key)
    sent = None
    if workdir.primary and plan.track:
        # Of the paths of this machine nothing is sent.
        config = config_record.without_places(record)
        sent = trackers.Trackers(plan.track, workdir.trained, record["name"], config)
    with metric_log.MetricWriter(workdir.trained, workdir.primary, sent) as writer:
        loop.train(
            trainer,
            frozen,
            iterator,
            lambda: inputs.validation_batches(
                val_source, plan.batch_size, tuple(spec), plan.validate_batches
            ),
            loop.Outputs(workdir.trained / plan.stage, record, writer, advice),
            lr_fn=learning_rate,
            stop=stop,
            first=first,
        )
    return planned.steps
