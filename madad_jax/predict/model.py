"""A run's folder to a scorer: config, weights, preparation, calibration, all checked to belong
together. Nothing is written there."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests, saver
from madad_jax.core import errors, json_file, messages, version
from madad_jax.core.types import Params
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import calibrate
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.experiment import frozen_weights, trained_weights
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.metrics import calibration as calibration_lib


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained run.

    Attributes:
      where: its folder, for messages.
      parts: what it is made of, the detector among them.
      params, frozen: its weights.
      scorer: batches -> maps.
      preparation: how its training slices were made; None: not known.
      calibration: None: it has none.
      shards: that a batch is divided over.
      weights: digest of `params`.
      frozen_digests: of `frozen`, as a calibration keeps them.
      facts: for summaries.
    """

    where: str
    parts: parts_lib.Parts
    params: Params
    frozen: Params
    scorer: scorer_lib.Scorer
    preparation: provenance.SourcePreparation | None
    calibration: calibration_lib.Calibration | None
    shards: int
    weights: str
    frozen_digests: dict[str, Any]
    facts: dict[str, Any]


def read_config(workdir: epath.Path, calibration: calibration_lib.Calibration | None) -> dict:
    """The config that the run was calibrated with, else the one that it was trained with.

    Its attention is one that any machine computes: a run that was trained with "cudnn" is read
    and exported everywhere.

    Raises:
      UserError: no run there.
    """
    if not workdir.is_dir():
        raise errors.UserError(f"--checkpoint={workdir}: no such folder; give the workdir of a run")
    if not (workdir / "denoiser" / "checkpoints").is_dir():
        raise errors.UserError(
            f"--checkpoint={workdir}: no denoiser/checkpoints in it; give the workdir of a run "
            "that was trained"
        )
    # The evaluation's options (sampling steps, smoothing) made the maps that thresholds stand on.
    if calibration is not None and "config" in calibration.facts:
        config = json_file.as_object(calibration.facts["config"], f"{workdir}: calibration: config")
        return config_record.runs_anywhere(config_record.rename(config))
    config = saver.read_config(workdir / "denoiser" / "checkpoints")
    if "data" not in config:
        raise errors.UserError(
            f"--checkpoint={workdir}: converted weights carry no config; run python -m "
            "madad_jax.main --mode=evaluate on them first, which keeps it"
        )
    return config_record.runs_anywhere(config_record.rename(config))


def read_calibration(workdir: epath.Path, path: str) -> calibration_lib.Calibration | None:
    """The calibration file at `path`, or the run's own when that is empty.

    Raises:
      UserError: missing or damaged.
    """
    if not path:
        return calibrate.load(workdir)
    try:
        content = epath.Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(f"--calibration={path}: {error.strerror or error}") from error
    return calibration_lib.from_bytes(content, path)


def load(
    workdir: epath.Path,
    config: config_dict.ConfigDict,
    calibration: calibration_lib.Calibration | None,
) -> Model:
    """Restores the weights and puts the parts together.

    Raises:
      UserError: an unfinished run, or a calibration of other weights.
    """
    mesh = mesh_lib.make_mesh()
    try:
        parts = parts_lib.assemble(config)
    except (AttributeError, KeyError) as error:
        raise errors.UserError(
            f"--checkpoint={workdir}: its config lacks {error}; it was made by another version, "
            "evaluate it with this one"
        ) from error
    run = workdir_lib.Workdir(workdir)
    restored = frozen_weights.FrozenWeights.restore(parts, run, mesh)
    frozen, frozen_digests = restored.values, restored.digests()
    preparation = _read_preparation(workdir, parts)
    step = parts.evaluation.checkpoint
    params = trained_weights.restore_denoiser(parts, run.checkpoints("denoiser"), mesh, step)
    if jax.process_count() > 1:  # each has scans of its own: none may wait for another's devices
        mesh = mesh_lib.make_mesh(devices=jax.local_devices())
        params, frozen = _copy_to_host((params, frozen))
    weights = digests.weights_digest(params)
    if calibration is not None:
        _check_calibrated(workdir, calibration.facts, weights, frozen_digests)
    _check_prepared_alike(workdir, preparation, calibration)
    facts = {
        "run": os.fspath(workdir),
        "name": parts.name,
        "method": parts.method.name,
        "preset": parts.preset,
        "modality": parts.data.modality,
        "image_size": parts.data.image_size,
        "denoiser": parts.summary["denoiser"],
        "weights": weights[:16],
        "version": version.VERSION,
        "calibrated_on": calibration.facts.get("source") if calibration else None,
        "synthetic_training_data": parts.data.synthetic,
    }
    return Model(
        where=os.fspath(workdir),
        parts=parts,
        params=params,
        frozen=frozen,
        scorer=scorer_lib.Scorer(parts.method, params, frozen, mesh, parts.seed),
        preparation=preparation,
        calibration=calibration,
        shards=mesh_lib.batch_shards(mesh),
        weights=weights,
        frozen_digests=frozen_digests,
        facts=facts,
    )


def _copy_to_host(tree: Params) -> Params:
    """Replicated arrays as this process's own."""
    return jax.tree.map(
        lambda x: np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x, tree
    )


def _read_preparation(
    workdir: epath.Path, parts: parts_lib.Parts
) -> provenance.SourcePreparation | None:
    # The run's own file first: its data may have moved or changed since.
    path = workdir / provenance.FILE
    return provenance.read(path) if path.exists() else parts.data.preparation()


def _check_calibrated(
    workdir: epath.PathLike, facts: dict[str, Any], weights: str, frozen: dict[str, Any]
) -> None:
    """A threshold holds for the weights that it was chosen with, read-only ones among them.

    Raises UserError for others. Older calibrations do not know those that are only read.
    """
    if facts.get("weights") != weights:
        raise errors.UserError(
            f"{workdir}: its calibration was made with other weights (trained on since?); "
            "evaluate it again"
        )
    then = facts.get("frozen", frozen)
    differ = sorted(k for k in {*then, *frozen} if then.get(k) != frozen.get(k))
    if differ:
        shown = ", ".join(
            f"{k} {messages.shorten(then.get(k), 12)} -> {messages.shorten(frozen.get(k), 12)}"
            for k in differ
        )
        raise errors.UserError(
            f"{workdir}: its calibration was made with other weights beside the denoiser's "
            f"({shown}); give it those of before, or evaluate it again"
        )


def _check_prepared_alike(workdir, preparation, calibration) -> None:
    """A threshold means nothing on pictures that were made otherwise."""
    if preparation is None or calibration is None:
        return
    trained, calibrated = preparation.to_dict(), calibration.facts.get("preparation", {})
    # What changes a pixel's value. How brains were found and registered may differ by site.
    for key in ("geometry", "intensity", "low", "high", "n4", "interpolation"):
        if key in calibrated and calibrated[key] != trained[key]:
            raise errors.UserError(
                f"{workdir}: calibrated on slices with {key} {calibrated[key]}, trained on "
                f"{trained[key]}; evaluate it on slices prepared as its training slices were"
            )


def compiled_batch_size(model: Model, batch_size: int) -> int:
    """`batch_size` rounded up to what the devices divide evenly."""
    if batch_size < 1:
        raise errors.UserError(f"batch_size: found {batch_size}, accepted: 1 or more")
    # Rounded up and not down: 1 slice on 8 devices must not become 0.
    return -(-batch_size // model.shards) * model.shards


def abstract_inputs(model: Model, batch: Any) -> tuple[Any, ...]:
    """Shapes of an image batch and of its brain masks; `batch` may be symbolic."""
    size = model.parts.data.image_size
    return (
        jax.ShapeDtypeStruct((batch, size, size, 1), np.float32),
        jax.ShapeDtypeStruct((batch, size, size), np.bool_),
    )
