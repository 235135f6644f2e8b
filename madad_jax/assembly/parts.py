"""`assemble(config) -> Parts`: the one place where a config becomes objects.

This room alone knows the config's keys. Everything else takes `Parts`, or plain arguments.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from madad_jax.anomaly_maps import healthy_groups as atlas_lib
from madad_jax.assembly import config_record, methods, networks, preset_changes, values
from madad_jax.assembly import data as data_lib
from madad_jax.assembly import evaluation as evaluation_lib
from madad_jax.assembly import training as training_lib
from madad_jax.core.types import Batch, Params
from madad_jax.methods import autoencoder as autoencoder_method
from madad_jax.methods import base
from madad_jax.models import interfaces
from madad_jax.training import batch_specs

# Options of the encoder that its weights alone do not tell; they are part of a latent cache's name.
_ENCODER_KEYS = (
    "patch",
    "channels",
    "channel_mult",
    "num_res_blocks",
    "latent_channels",
    "num_groups",
    "dtype",
)


@dataclasses.dataclass(frozen=True)
class AutoencoderParts:
    """The autoencoder of a method on latents.

    Attributes:
      network: encodes and decodes.
      method: trains it.
      plan: how it trains.
      run: folder of another run whose autoencoder is taken; "": this run trains one.
      scaling_factor: multiplies latents; 0: to be measured.
      lpips: file with weights of LPIPS-VGG; "": no perceptual term.
      encoder: options that decide what it encodes, for digests.
      dtype: that it computes in.
    """

    network: interfaces.Autoencoder
    method: autoencoder_method.KLAutoencoder
    plan: training_lib.StagePlan
    run: str
    scaling_factor: float
    lpips: str
    encoder: Mapping[str, Any]
    dtype: str

    def training_weights(self) -> Params:
        """What its training reads and does not train. Raises UserError for a bad LPIPS file."""
        return {"lpips": networks.read_lpips_weights(self.lpips)} if self.lpips else {}


@dataclasses.dataclass(frozen=True)
class FeatureParts:
    """The network of a method on tokens, and the method.

    Attributes:
      method: computed from healthy slices.
      weights: file of published weights; "": none.
      read: gives the network's parameters from that file. Raises UserError where they do not fit.
      pretraining: trains the network here; None: it is published, or stays as it was drawn.
      plan: how it is trained, in a stage of its own.
    """

    method: base.Fitted
    weights: str
    read: Callable[[], Params]
    pretraining: base.Method | None
    plan: training_lib.StagePlan


@dataclasses.dataclass(frozen=True)
class Parts:
    """All that a run is made of.

    Attributes:
      name: a word for titles and the default folder.
      title: of reports.
      note: a sentence for the report.
      seed: data order, draws and initial weights follow from it.
      method_name: as `config.method` has it.
      method: the detector whose maps are reported.
      autoencoder: None for a method on images.
      method_weights: reads weights, beside the autoencoder's, that the method does not train.
      learns_from_labels: batches say which slices are abnormal.
      plan: how the method trains.
      initial_run: folder of a run whose denoiser training starts from; "": fresh weights.
      dtype: that the denoiser computes in.
      data: where slices come from.
      evaluation: how a trained method is judged.
      mesh: sizes of the mesh's axes.
      matmul_precision: JAX's default for products.
      memory_gib: what a compiled program may need on a device; 0: what the machine has.
      preset: the preset's name, with "changed" where it is not quite that.
      preset_changes: keys of the preset that have another value, in words.
      summary: {label: value} for the report.
      record: the whole config as JSON holds it.
      atlas: of healthy slices, which the method reads; 0 groups: none.
      features: None for a method that is trained by gradients.
      lesion_bank: file with lesions that training pastes; "": none.
      needs_lesion_bank: training cannot do without one.
      stage_keys: {stage: keys that its result depends on}.
      tasks: `train.tasks`, which make a chain of runs (`tasks.py`) of this config.
    """

    name: str
    title: str
    note: str
    seed: int
    method_name: str
    method: base.Method
    autoencoder: AutoencoderParts | None
    method_weights: Callable[[], Params]
    learns_from_labels: bool
    plan: training_lib.StagePlan
    initial_run: str
    dtype: str
    data: data_lib.DataPlan
    evaluation: evaluation_lib.EvaluationPlan
    mesh: Mapping[str, int]
    matmul_precision: str
    memory_gib: float
    preset: str
    preset_changes: list[str]
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    stage_keys: Mapping[str, tuple[str, ...]]
    atlas: atlas_lib.Options
    tasks: tuple[str, ...]
    lesion_bank: str
    needs_lesion_bank: bool
    features: FeatureParts | None = None

    def image_spec(self, batch_size: int = 1) -> Batch:
        """Shapes of a batch of images."""
        return batch_specs.image_spec(batch_size, self.data.image_size, self.data.channels)

    def train_spec(self, batch_size: int = 0) -> Batch:
        """Shapes of a batch that the method trains on: images, or latents from the cache.

        A batch size of 0 is the plan's.
        """
        count, size = batch_size or self.plan.batch_size, self.data.image_size
        if self.data.cached_latents and self.autoencoder is not None:
            network = self.autoencoder.network
            side = size // network.factor
            return batch_specs.latent_spec(count, size, (side, side, network.latent_channels))
        spec = self.image_spec(count)
        if self.learns_from_labels:
            spec["unhealthy"] = jax.ShapeDtypeStruct((count,), jnp.bool_)
        return spec

    def stage_record(self, stage: str) -> dict[str, Any]:
        """{dotted key: value} of what the stage's result depends on."""
        return config_record.flatten(self.record, self.stage_keys[stage])


def assemble(config: config_dict.ConfigDict, *, plain_convolutions: bool = False) -> Parts:
    """Reads a config once.

    Args:
      config: a ConfigDict with the keys of configs/default.py.
      plain_convolutions: "auto" convolutions are plain ones, as on a machine other than the CPU
        that compiles in its place.

    Raises:
      UserError: the first key whose value cannot be, with what is accepted.
    """
    if plain_convolutions:
        config = _with_plain_convolutions(config)
    # Before the builders, whose errors would name what a wrong value led to.
    values.check_values(config)
    on_latents, fitted = methods.stands_on_latents(config), methods.fitted(config)
    return Parts(
        name=config.name,
        title=f"{methods.title(config)}: {config.name}",
        note=config.note,
        seed=config.seed,
        method_name=config.method,
        method=methods.detector(config),
        autoencoder=_autoencoder_parts(config) if on_latents else None,
        # Read when asked for: files of weights take seconds, and a report needs none.
        method_weights=lambda: methods.read_weights(config),
        learns_from_labels=methods.learns_from_labels(config),
        plan=training_lib.stage_plan(config, "denoiser"),
        initial_run=config.denoiser.init,
        dtype=config.denoiser.dtype,
        data=data_lib.data_plan(config),
        evaluation=evaluation_lib.evaluation_plan(config),
        mesh=config.mesh.to_dict(),
        matmul_precision=config.matmul_precision,
        memory_gib=config.compile.memory_gib,
        preset=preset_changes.label(config),
        preset_changes=preset_changes.list_changes(config),
        summary=_summary(config),
        record=config_record.plain(config),
        stage_keys=config_record.stage_keys(config, on_latents, fitted is not None),
        atlas=networks.atlas_options(config),
        features=_feature_parts(config, fitted),
        tasks=tuple(config.train.get("tasks", ())),
        lesion_bank=config.lesions.bank if "lesions" in config else "",
        needs_lesion_bank=methods.draws_learned(config),
    )


def _with_plain_convolutions(config: config_dict.ConfigDict) -> Any:
    config = config.copy_and_resolve_references()
    for section in (config.autoencoder, config.denoiser):
        if section.convolution == "auto":
            section.convolution = "plain"
    return config


def _autoencoder_parts(config: config_dict.ConfigDict) -> AutoencoderParts:
    c = config.autoencoder
    return AutoencoderParts(
        network=networks.autoencoder(config),
        method=networks.autoencoder_training(config),
        plan=training_lib.stage_plan(config, "autoencoder"),
        run=c.checkpoint,
        scaling_factor=c.scaling_factor,
        lpips=c.lpips,
        encoder={key: c[key] for key in _ENCODER_KEYS},
        dtype=c.dtype,
    )


def _feature_parts(
    config: config_dict.ConfigDict, fitted: base.Fitted | None
) -> FeatureParts | None:
    if fitted is None:
        return None
    plan = training_lib.stage_plan(config, "denoiser")
    return FeatureParts(
        method=fitted,
        weights=config.features.weights,
        read=lambda: networks.read_features(config),
        pretraining=networks.masked_pretraining_of(config),
        plan=dataclasses.replace(plan, stage="encoder"),
    )


def _summary(config: config_dict.ConfigDict) -> dict[str, Any]:
    """What of the config a reader of the report asks for first."""
    own = config.methods[config.method].to_dict()
    inference = own.pop("inference", {})
    network = f"{config.denoiser.name} {config.denoiser.size}"
    if methods.fitted(config) is not None:
        trained = networks.features(config).trained
        network = config.features.network + ("" if trained else ", untrained backbone")
    return {
        "seed": config.seed,
        "modality": config.data.modality,
        "image size": config.data.image_size,
        "denoiser": network,
        "method": config.method,
        "its settings": own,
        "its inference": inference,
    }
