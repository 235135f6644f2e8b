"""A run from its config: the order of its stages, each skipped when done and resumed when not.

`workdir.py` says how a stage knows that it is done.
"""

import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import config_dict

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.data.input import cached_latents
from madad_jax.data.sources import labelled
from madad_jax.devices import batches
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import (
    fit_stage,
    frozen_weights,
    healthy_atlas,
    latent_cache,
    layer_inputs,
    lesion_bank,
    preflight,
    report_stage,
    score_stage,
    slice_changes,
    stage_inputs,
    time_shares,
    trained_weights,
    training_stage,
)
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.models import interfaces
from madad_jax.runtime import agreement, wall_time
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)

# Slices that the scaling factor is measured on; they settle two digits more than it needs.
_MEASURED_SLICES = 2048

MODES = {
    "run": ("autoencoder", "denoiser", "evaluate", "report"),
    "train_autoencoder": ("autoencoder",),
    "train": ("autoencoder", "denoiser"),
    "evaluate": ("evaluate", "report"),
    "report": ("report",),
}


def execute(
    config: config_dict.ConfigDict,
    folder: str,
    mode: str,
    stop: stop_lib.GracefulStop,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Runs the stages of `mode` in `folder`, on all devices or the given ones.

    Raises UserError for what the user can mend.
    """
    parts = parts_lib.assemble(config)
    if parts.tasks:
        raise errors.UserError(
            f"train.tasks: found {len(parts.tasks)} in one run, as a cell of a table; "
            "accepted: none"
        )
    workdir = workdir_lib.of_parts(parts, folder)
    # Before the inputs: how many rows this process reads depends on the mesh.
    mesh = mesh_lib.make_mesh(**parts.mesh, devices=devices)
    inputs = inputs_lib.Inputs(parts.data, mesh, parts.evaluation.batch_size)
    if mode == "report":
        # It only reads; the time of a run is that of what it makes.
        preflight.once(parts, workdir, inputs, mode)
        report_stage.write_report(parts, workdir)
        return
    with time_shares.counted(workdir):
        preflight.once(parts, workdir, inputs, mode)
        _run_stages(parts, workdir, inputs, mode, stop)


def _run_stages(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    mode: str,
    stop: stop_lib.GracefulStop,
) -> None:
    for stage in MODES[mode]:
        stop_lib.check(f"before {stage}", shared=False)
        if stage == "autoencoder":
            train_autoencoder(parts, workdir, inputs, stop)
        elif stage == "denoiser":
            # First of all: latents of other weights than the denoiser's would cost hours.
            open_stage(parts, workdir, inputs, "denoiser")
            with wall_time.spend("input"):
                latents = cache_latents(parts, workdir, inputs, stop)
            train_denoiser(parts, workdir, inputs, stop, latents)
        elif stage == "evaluate":
            # A run of other training options is refused before its weights are read.
            workdir.is_complete("denoiser")
            steps = int(workdir.number("denoiser", "steps"))
            lesion_bank.check_sets(parts, workdir, inputs)
            open_stage(parts, workdir, inputs, "denoiser")
            frozen = load_frozen(parts, workdir, inputs)
            wall_time.begin("evaluate", 0)
            with wall_time.spend("evaluation"):
                score_stage.score_sets(parts, workdir, inputs, frozen, steps)
            wall_time.end("evaluate")
        else:
            with wall_time.spend("evaluation"):
                report_stage.write_report(parts, workdir)


def open_stage(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs, stage: str
) -> bool:
    """Whether a stage is finished, after all that it was made from was compared: the config, the
    weights that it reads, and its slices.

    Raises UserError for another config or other weights; other slices are said in a line.
    """
    complete = workdir.is_complete(stage)
    trained_weights.bind(parts, workdir, stage)
    splits = ["train", "val"]
    if stage == "denoiser" and parts.learns_from_labels:
        splits.append(labelled.ABNORMAL_SPLIT)
    slice_changes.compare(workdir, stage, {split: inputs.source(split) for split in splits})
    return complete


def train_autoencoder(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
) -> None:
    """The KL autoencoder, unless a trained one is named or the method works on images."""
    made = parts.autoencoder
    if made is None:
        return
    # A named run comes first: its weights are used even where this folder has some of its own.
    if made.run or open_stage(parts, workdir, inputs, "autoencoder"):
        _LOG.info("autoencoder: complete")
        return
    if not made.lpips:
        _LOG.warning("autoencoder: perceptual term off (autoencoder.lpips names no weights)")
    begun = [s for s in ("autoencoder", "denoiser") if workdir.is_begun(s)]
    if begun == ["denoiser"]:
        _LOG.warning(
            "autoencoder: gone from %s, where a denoiser stands on it; trained again, and the "
            "denoiser is refused if the weights differ",
            workdir.trained,
        )
    budget = made.plan.budget(len(inputs.source("train"))).steps
    if not made.method.acts_within(budget):
        _LOG.warning(
            "autoencoder: the discriminator never acts: autoencoder.loss.disc_start=%d, and the "
            "training ends after step %d; lower disc_start, or set autoencoder.discriminator="
            "False, which saves the time that it takes in every step",
            made.method.loss_options.disc_start,
            budget,
        )
    steps = training_stage.train(
        made.plan,
        made.method,
        parts.image_spec(made.plan.batch_size),
        made.training_weights(),
        (inputs.source("train"), inputs.source("val")),
        inputs=inputs,
        workdir=workdir,
        record=parts.record,
        stop=stop,
    )
    workdir.mark("autoencoder", steps=steps)


def load_frozen(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs
) -> frozen_weights.FrozenWeights:
    """What the method reads and does not train; a scaling factor of 0 is measured once."""

    def measure(weights: Params, digest: str) -> frozen_weights.Factor:
        return scaling_factor(parts, workdir, inputs, weights, digest)

    def measure_atlas() -> Params:
        return healthy_atlas.measure(parts, workdir, inputs)

    return frozen_weights.FrozenWeights.restore(parts, workdir, inputs.mesh, measure, measure_atlas)


def scaling_factor(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    weights: Params,
    digest: str,
) -> frozen_weights.Factor:
    """The measured scaling factor of a run, from its folder where it was measured before on
    weights of this digest; of several contrasts one for each.

    Raises UserError where a denoiser was trained with the factor of others.
    """

    def known() -> frozen_weights.Factor | None:
        # Nothing stands on a factor before the denoiser has weights.
        if frozen_weights.measured_on(workdir, digest) or workdir.is_begun("denoiser"):
            return frozen_weights.recorded_factor(workdir, digest)
        _LOG.info("latents: the factor is that of other autoencoder weights; measured again")
        return None

    factor = agreement.from_first(known) if workdir.is_complete("latents") else None
    if factor is None:
        network, data = parts.autoencoder.network, parts.data
        factor = (
            [
                measure_scaling_factor(network, weights, inputs, channel)
                for channel in range(len(data.contrasts))
            ]
            if data.channels
            else measure_scaling_factor(network, weights, inputs)
        )
        workdir.mark("latents", scaling_factor=factor, autoencoder=digest)
    shown = ", ".join(f"{one:.5f}" for one in np.atleast_1d(factor))
    _LOG.info("latents: scaling factor %s (measured)", shown)
    return factor


def measure_scaling_factor(
    network: interfaces.Autoencoder,
    weights: Params,
    inputs: inputs_lib.Inputs,
    channel: int | None = None,
) -> float:
    """1 / the posterior's spread over brain cells of the training slices, so that the noise
    schedule meets latents of unit variance.

    `channel` is that of a contrast, of the slices that have it; None: there is but one.

    Raises UserError when no slice holds brain.
    """

    @jax.jit
    def moments(params: Params, image: jax.Array, brain: jax.Array):
        mean, logvar = network.encode(params, image)
        h, w = mean.shape[1:3]
        b = brain.reshape(len(brain), h, network.factor, w, network.factor).mean((2, 4))
        # Cells that are mostly brain: the background encodes to one value, and would make the
        # spread depend on how much of it a picture has.
        weight = (b > 0.5)[..., None] * jnp.ones_like(mean)
        # The posterior's own variance counts, since training draws from it.
        power = jnp.square(mean) + jnp.exp(logvar)
        return weight.sum(), (weight * mean).sum(), (weight * power).sum()

    total = np.zeros(3)  # float64 on the host: sums of millions of cells lose digits in float32
    limit = max(1, _MEASURED_SLICES // inputs.eval_batch_size)
    for i, batch in enumerate(inputs.eval_batches(inputs.source("train"))):
        if i >= limit:
            break
        stop_lib.check("latents: scaling factor")
        arrays = {k: batch[k] for k in ("image", "brain_mask")}
        if channel is not None:
            has = batch["available"][:, channel]
            arrays["image"] = arrays["image"][..., channel : channel + 1]
            arrays["brain_mask"] = arrays["brain_mask"] & has[:, None, None]
        arrays = batches.global_batch(inputs.mesh, arrays)
        sums = moments(weights, arrays["image"], arrays["brain_mask"])
        total += np.array([float(v) for v in sums])
    count, mean, power = total
    if not count:
        raise errors.UserError("data.train: no brain in any slice; look at the brain masks")
    return float(1.0 / np.sqrt(max(power / count - (mean / count) ** 2, 1e-12)))


def cache_latents(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
) -> dict[str, cached_latents.CachedLatents]:
    """Every training and validation slice encoded once, where `data.latents` asks for it; else
    nothing."""
    if not parts.data.cached_latents or workdir.is_complete("denoiser"):
        return {}
    weights = trained_weights.restore_autoencoder(parts, workdir, inputs.mesh)
    return latent_cache.prepare(parts, workdir, inputs, stop, weights)


def train_denoiser(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
    latents: dict[str, cached_latents.CachedLatents],
) -> None:
    """The method itself, on images or on the frozen autoencoder's latents."""
    if workdir.is_complete("denoiser"):
        _LOG.info("denoiser: complete")
        return
    if parts.features is not None:
        steps = fit_stage.fit(parts, workdir, inputs, stop)
        workdir.mark("denoiser", steps=steps)
        return
    frozen, first = load_frozen(parts, workdir, inputs), None
    if frozen.autoencoder:
        key = stage_inputs.AUTOENCODER
        stage_inputs.renew(workdir, "denoiser", key, frozen.autoencoder)
    # What is begun has weights of its own, and the run that it started from may be gone.
    if parts.initial_run and not agreement.from_first(lambda: workdir.is_begun("denoiser")):
        folder = trained_weights.checkpoints_of(parts.initial_run, "denoiser", "denoiser.init")
        first = trained_weights.restore_denoiser(parts, folder, inputs.mesh)
        stage_inputs.warn_of_other_latents(parts.initial_run, frozen.autoencoder)
    if parts.plan.projection != "none":
        frozen = frozen.with_bases(layer_inputs.protected(parts, workdir))
    if latents:
        # The step neither encodes nor decodes then, and devices keep the memory for the denoiser.
        frozen = frozen.without_autoencoder()
        sources = latents["train"], latents["val"]
    else:
        sources = inputs.source("train"), inputs.source("val")
    if parts.learns_from_labels:
        sources = inputs.labelled_pair(*sources)
    steps = training_stage.train(
        parts.plan,
        parts.method,
        parts.train_spec(),
        frozen.values | lesion_bank.prepare(parts, workdir),
        sources,
        inputs=inputs,
        workdir=workdir,
        record=parts.record,
        stop=stop,
        first=first,
    )
    workdir.mark("denoiser", steps=steps)
