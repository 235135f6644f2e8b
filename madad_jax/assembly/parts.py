"""From a config to the objects of a run: data, optimisers, budgets, the autoencoder's training.

This file, `build_networks.py` and `build_methods.py` are the last places that know the config's
keys; below them everything takes plain arguments.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from etils import epath

from madad_jax.assembly import methods, networks
from madad_jax.core import errors
from madad_jax.core.types import Batch
from madad_jax.data import provenance
from madad_jax.data import registry as data_registry
from madad_jax.data.input import pipeline
from madad_jax.devices import batches
from madad_jax.methods import autoencoder as autoencoder_method
from madad_jax.methods import base
from madad_jax.models import registry
from madad_jax.training import batch_specs, trainer
from madad_jax.training import optimizer as optimizer_lib


def autoencoder_training(config: Any) -> autoencoder_method.KLAutoencoder:
    """The method that trains the autoencoder."""
    c = config.autoencoder
    network, discriminator = networks.autoencoder(config), None
    if c.discriminator:
        discriminator = registry.discriminator(
            channels=c.disc_channels, num_layers=c.disc_layers, dtype=c.dtype
        )
    return autoencoder_method.KLAutoencoder(
        autoencoder=network,
        discriminator=discriminator,
        loss_options=autoencoder_method.Loss(**c.loss.to_dict()),
        crop=c.crop,
        sigma=networks.smoothing_sigma(config),
    )


def detector(config: Any) -> base.Method:
    """The method whose maps are reported. Raises UserError for an unknown `config.method`."""
    return methods.detector(config)


def detector_spec(config: Any, batch_size: int) -> Batch:
    """Shapes of a batch that the detector trains on: images, or latents from the cache."""
    size = config.data.image_size
    if config.data.latents != "cached":
        spec = batch_specs.image_spec(batch_size, size)
        if methods.learns_from_labels(config):
            spec["unhealthy"] = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
        return spec
    network = networks.autoencoder(config)
    side = size // network.factor
    return batch_specs.latent_spec(batch_size, size, (side, side, network.latent_channels))


def source(config: Any, split: str) -> Any:
    """One split of the configured data."""
    c = config.data
    cache = c.cache_dir or str(epath.Path("~/.cache/madad_jax/cohort").expanduser())
    return data_registry.make_source(
        split,
        name=c.source,
        root=c.root,
        modality=c.modality,
        image_size=c.image_size,
        cache_dir=cache,
        seed=config.seed,
        cohort=c.cohort.to_dict(),
    )


def preparation(config: Any) -> provenance.SourcePreparation | None:
    """How the configured slices were made from scans; None when nobody said."""
    c = config.data
    return provenance.describe_source(
        name=c.source,
        root=c.root,
        modality=c.modality,
        image_size=c.image_size,
        cohort=c.cohort.to_dict(),
    )


def train_iterator(
    config: Any, train_section: Any, data: Any, mesh: jax.sharding.Mesh
) -> pipeline.TrainIterator:
    """Endless training batches of this process."""
    index, count = batches.data_process(mesh)
    style = config.data.augment
    return pipeline.train_iterator(
        data,
        batch_size=train_section.batch_size,
        seed=config.seed,
        augment=None if style == "none" else {"style": style},
        process_index=index,
        process_count=count,
        num_threads=config.data.num_threads,
    )


def eval_batches(
    config: Any, data: Any, batch_size: int, mesh: jax.sharding.Mesh
) -> pipeline.EvalBatches:
    """Padded batches of this process, every slice once."""
    index, count = batches.data_process(mesh)
    return pipeline.eval_batches(
        data,
        batch_size=batch_size,
        process_index=index,
        process_count=count,
        num_threads=config.data.num_threads,
    )


@dataclasses.dataclass(frozen=True)
class Budget:
    """Steps of a stage and of one pass over its data."""

    steps: int
    steps_per_epoch: int
    epochs: float


def budget(train_section: Any, num_slices: int) -> Budget:
    """`train.steps` when positive, else `train.epochs` passes over `num_slices`.

    Raises UserError when that is no step at all.
    """
    per_epoch = max(1, math.ceil(num_slices / train_section.batch_size))
    steps = train_section.steps or round(train_section.epochs * per_epoch)
    if steps < 1:
        raise errors.UserError(
            f"train.steps, train.epochs: found {train_section.steps}, {train_section.epochs}; one "
            "of them must be positive"
        )
    return Budget(steps, per_epoch, steps / per_epoch)


def optimizer(section: Any, planned: Budget) -> tuple[optax.GradientTransformation, Any]:
    """(tx, learning rate by step) of an `optim` section."""
    return optimizer_lib.make_optimizer(
        name=section.name,
        lr=section.lr,
        schedule=section.schedule,
        warmup_steps=round(section.warmup_epochs * planned.steps_per_epoch),
        warmup_epochs=round(section.warmup_epochs),
        total_steps=planned.steps,
        steps_per_epoch=planned.steps_per_epoch,
        epochs=max(1, round(planned.epochs)),
        final_lr_ratio=section.final_lr_ratio,
        weight_decay=section.weight_decay,
        decay_mask=section.decay_mask,
        beta1=section.beta1,
        beta2=section.beta2,
        eps=section.eps,
        grad_clip_norm=section.grad_clip_norm,
        muon_lr_ratio=section.muon_lr_ratio,
    )


def train_options(config: Any, train_section: Any, stage: str, steps: int) -> trainer.Options:
    """How long a stage runs and how often it logs, validates and saves."""
    return trainer.Options(
        stage=stage,
        steps=steps,
        batch_size=train_section.batch_size,
        accum_steps=train_section.accum_steps,
        ema_decay=train_section.ema_decay,
        log_every=config.log.every_steps,
        validate_every=config.log.validate_every_steps,
        checkpoint_every=config.checkpoint.every_steps,
        checkpoint_minutes=config.checkpoint.every_minutes,
        keep_latest=config.checkpoint.keep_latest,
    )
