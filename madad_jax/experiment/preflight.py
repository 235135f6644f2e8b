"""What is checked of a config and of a run's inputs before hours are spent or a file is written."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from madad_jax.assembly import methods, parts
from madad_jax.core import atomic_files, errors, json_digest
from madad_jax.core.types import Batch, Params
from madad_jax.data.input import augment
from madad_jax.devices import batches
from madad_jax.experiment import latent_cache, trained_weights
from madad_jax.experiment.workdir import Run
from madad_jax.methods import base
from madad_jax.metrics import scan_stacks
from madad_jax.runtime import startup
from madad_jax.training import batch_specs

_AT_LEAST_ONE = (
    *("data.image_size", "data.latent_draws", "eval.batch_size", "log.every_steps"),
    "log.validate_every_steps",
    *("checkpoint.every_steps", "checkpoint.keep_latest"),
)
_CHOICES = {
    "eval.checkpoint": ("best", "latest"),
    "eval.protocol": ("slices", "both"),
    "eval.postprocess": tuple(scan_stacks.PRESETS),
    "data.augment": ("none", *augment.STYLES),
    "data.latents": ("live", "cached"),
}


_MARKER = "checked.json"


def passed(config: Any, workdir: str) -> bool:
    """Whether `check` found nothing wrong with this config in this folder, by the same code: the
    same command started again need not trace everything a second time."""
    marker = epath.Path(workdir) / _MARKER
    return marker.exists() and marker.read_bytes() == _identity(config).encode()


def remember(config: Any, workdir: str) -> None:
    """Notes that `check` passed."""
    atomic_files.write_text(epath.Path(workdir) / _MARKER, _identity(config))


def _identity(config: Any) -> str:
    """Of the config, our files as they are on disk, and the packages that trace."""
    root = pathlib.Path(__file__).parents[1]
    states = [(path, path.stat()) for path in sorted(root.rglob("*.py"))]
    code = [[str(p.relative_to(root)), s.st_size, s.st_mtime_ns] for p, s in states]
    packages = [startup.package_version(name) for name in startup.PACKAGES]
    return json_digest.json_digest([json.loads(config.to_json()), code, packages])


def check(config: Any) -> None:
    """Options and shapes of every program, before hours are spent or a file is written.

    Losses and maps are traced and not computed: many options are first read there.
    Raises UserError for the first that does not fit.
    """
    _check_values(config)
    spec = batch_specs.image_spec(1, config.data.image_size)
    frozen = methods.frozen(config)
    if methods.uses_latents(config):
        trained = _trace(parts.autoencoder_training(config), {}, spec, spec)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        frozen |= {"autoencoder": trained["autoencoder"], "scaling_factor": scale}
    _trace(parts.detector(config), frozen, parts.detector_spec(config, 1), spec)


def _trace(method: base.Method, frozen: Params, trains_on: Batch, scores: Batch) -> Params:
    """Shapes of the method's weights; its loss and its maps are traced on the way."""
    key = jax.random.key(0)
    # The key is an argument, so that initial weights are traced too and nothing is drawn.
    params = jax.eval_shape(lambda k: method.init(k, scores), key)
    batch = trains_on | {"step": jax.ShapeDtypeStruct((), jnp.int32)}
    jax.eval_shape(method.loss, params, frozen, batch, key)
    jax.eval_shape(method.anomaly_map, params, frozen, scores, key)
    return params


def _check_values(config: Any) -> None:
    values = config.to_dict()
    for key in _AT_LEAST_ONE:
        section, name = key.split(".")
        if values[section][name] < 1:
            raise errors.UserError(f"{key}: found {values[section][name]}, must be at least 1")
    for key, accepted in _CHOICES.items():
        section, name = key.split(".")
        if values[section][name] not in accepted:
            found = values[section][name]
            raise errors.UserError(f"{key}: found {found!r}, accepted: {', '.join(accepted)}")
    cached = config.data.latents == "cached"
    if cached and not methods.uses_latents(config):
        raise errors.UserError(
            f"data.latents: found 'cached' with method={config.method}, which works on images; "
            "set data.latents=live"
        )
    if cached and config.synthesis.share > 0:
        raise errors.UserError(
            f"synthesis.share: found {config.synthesis.share} with data.latents=cached, whose "
            "latents hold no image to change; set synthesis.share=0 or data.latents=live"
        )
    rate = config.eval.false_positive_rate
    if not 0.0 < rate < 1.0:
        raise errors.UserError(f"eval.false_positive_rate: found {rate}, must lie between 0 and 1")
    for key, section in (("autoencoder.train", config.autoencoder.train), ("train", config.train)):
        if not 0.0 <= section.ema_decay < 1.0:
            raise errors.UserError(
                f"{key}.ema_decay: found {section.ema_decay}, accepted: 0 to below 1"
            )


def check_inputs(run: Run, mode: str) -> None:
    """Opens everything that the stages of a training mode will read, so that a mistake in
    what comes last is found before what comes first is trained.

    Raises UserError for the first that is missing or does not fit.
    """
    c = run.config
    batches.check_batch_size(c.eval.batch_size, run.mesh, key="eval.batch_size")
    if mode not in ("run", "train", "train_autoencoder"):
        return
    latent = methods.uses_latents(c)
    if mode == "train_autoencoder" and not latent:
        raise errors.UserError(
            f"--mode={mode}: method={c.method} works on images and needs no autoencoder"
        )
    trains_first = latent and not c.autoencoder.checkpoint
    sections = {"autoencoder.train": c.autoencoder} if trains_first else {}
    if mode != "train_autoencoder":
        sections["train"] = c
    slices = len(run.source("train"))
    run.source("val")
    for key, section in sections.items():
        sizes = section.train.batch_size, run.mesh, section.train.accum_steps
        batches.check_batch_size(*sizes, key=f"{key}.batch_size")
        parts.optimizer(section.optim, parts.budget(section.train, slices))
    if latent and c.autoencoder.checkpoint:
        trained_weights.checkpoints_of(c, "autoencoder", "checkpoint")
    if c.data.latents == "cached" and mode != "train_autoencoder":
        latent_cache.folder_of(run)
    if c.denoiser.init and mode != "train_autoencoder":
        trained_weights.checkpoints_of(c, "denoiser", "init")
    if mode == "run" and not c.eval.sets:
        raise errors.UserError("eval.sets is empty: nothing to score; use --mode=train")
    for name in c.eval.sets if mode == "run" else ():
        run.source(name)
        run.healthy_source(name)
