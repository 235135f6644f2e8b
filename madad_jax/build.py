"""From a config to the objects of a run: networks, methods, data, optimisers.

The last place that knows the config's keys; below it everything takes plain arguments.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
import safetensors.numpy
from etils import epath

from madad_jax import errors, optim, sharding, train
from madad_jax.data import pipeline
from madad_jax.data import preparation as preparation_lib
from madad_jax.data import registry as data_registry
from madad_jax.diffusion import schedule, synthesis
from madad_jax.methods import autoencoder as autoencoder_method
from madad_jax.methods import madad
from madad_jax.models import lpips, registry
from madad_jax.typing import Batch

METHODS = ("madad",)
_DIT_NUMBERS = ("hidden_size", "depth", "num_heads")
_UNET_NUMBERS = (
    *("model_channels", "channel_mult", "num_res_blocks", "attention_rates", "num_groups"),
)


def autoencoder(config: Any) -> registry.Autoencoder:
    """The KL autoencoder of `config.autoencoder`."""
    c = config.autoencoder
    optional = {
        "decoder_channels": c.decoder_channels or None,
        "decoder_channel_mult": tuple(c.decoder_channel_mult) or None,
        "decoder_num_res_blocks": (
            None if c.decoder_num_res_blocks < 0 else c.decoder_num_res_blocks
        ),
    }
    return registry.autoencoder(
        channels=c.channels,
        channel_mult=tuple(c.channel_mult),
        num_res_blocks=c.num_res_blocks,
        patch=c.patch,
        latent_channels=c.latent_channels,
        num_groups=c.num_groups,
        mid_attention=c.mid_attention,
        attention=c.attention,
        remat=c.remat,
        dtype=c.dtype,
        **optional,
    )


def autoencoder_training(config: Any) -> autoencoder_method.KLAutoencoder:
    """The method that trains the autoencoder."""
    c = config.autoencoder
    network, discriminator = autoencoder(config), None
    if c.discriminator:
        discriminator = registry.discriminator(
            channels=c.disc_channels, num_layers=c.disc_layers, dtype=c.dtype
        )
    return autoencoder_method.KLAutoencoder(
        autoencoder=network,
        discriminator=discriminator,
        loss_options=autoencoder_method.Loss(**c.loss.to_dict()),
        crop=c.crop,
        sigma=smoothing_sigma(config),
    )


def detector_spec(config: Any, batch_size: int) -> Batch:
    """Shapes of a batch that the detector trains on: images, or latents from the cache."""
    size = config.data.image_size
    if config.data.latents != "cached":
        return train.image_spec(batch_size, size)
    network = autoencoder(config)
    side = size // network.factor
    return train.latent_spec(batch_size, size, (side, side, network.latent_channels))


def smoothing_sigma(config: Any) -> float:
    """`score.sigma` is given in pixels of a 256 image, whatever the size in use."""
    return config.score.sigma * config.data.image_size / 256.0


def detector(config: Any) -> madad.MadAd:
    """The method whose maps are reported.

    Raises UserError for an unknown `config.method`.
    """
    if config.method not in METHODS:
        raise errors.UserError(f"method: found {config.method!r}, accepted: {', '.join(METHODS)}")
    c = {k: v for k, v in config.denoiser.to_dict().items() if k != "init"}
    # 0 and () in the config stand for "as the size says"; each network knows its own numbers.
    overrides = {k: c.pop(k) for k in (*_DIT_NUMBERS, *_UNET_NUMBERS)}
    c |= {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items() if v}
    score = config.score.to_dict() | {"sigma": smoothing_sigma(config)}
    masking = {k: tuple(v) if isinstance(v, list) else v for k, v in config.masking.items()}
    return madad.MadAd(
        denoiser=registry.denoiser(**c),
        autoencoder=autoencoder(config),
        schedule=schedule.make_schedule(config.diffusion.schedule, config.diffusion.timesteps),
        noise=config.diffusion.noise,
        synthesis=synthesis.Options(**config.synthesis.to_dict()),
        masking=madad.Masking(**masking),
        loss_options=madad.Loss(**config.loss.to_dict()),
        sampler=madad.Sampler(**config.sampler.to_dict()),
        score=madad.Score(**score),
    )


def lpips_weights(path: str) -> Any:
    """LPIPS-VGG weights from a `.npz` or `.safetensors` file (`models/lpips.py` names keys).

    Raises UserError when the file is missing, of another kind, or lacks a weight.
    """
    file = epath.Path(path)
    if not file.exists():
        raise errors.UserError(f"autoencoder.lpips: no file {path}; empty turns the term off")
    if file.suffix == ".safetensors":
        weights = safetensors.numpy.load(file.read_bytes())
    elif file.suffix == ".npz":
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            weights = {name: archive[name] for name in archive.files}
    else:
        raise errors.UserError(f"autoencoder.lpips: {path} must end in .npz or .safetensors")
    return lpips.prepare(weights)


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


def preparation(config: Any) -> preparation_lib.Preparation | None:
    """How the configured slices were made from scans; None when nobody said."""
    c = config.data
    return preparation_lib.of_source(
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
    index, count = sharding.data_process(mesh)
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
    index, count = sharding.data_process(mesh)
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
    return optim.make_optimizer(
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


def train_options(config: Any, train_section: Any, stage: str, steps: int) -> train.Options:
    """How long a stage runs and how often it logs, validates and saves."""
    return train.Options(
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
