"""A trained detector, put together: config, weights, preparation and calibration, all checked to
belong together. `run_model` reads a run's folder, `packaged_model` one that was handed on.
"""

import dataclasses
import os
from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors, messages, version
from madad_jax.core.types import Params
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.metrics import calibration as calibration_lib


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained detector.

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


@dataclasses.dataclass(frozen=True)
class Weights:
    """What was read of a model.

    Attributes:
      params, frozen: as `Model` has them.
      digest: of `params`.
      frozen_digests: of `frozen`.
    """

    params: Params
    frozen: Params
    digest: str
    frozen_digests: dict[str, Any]


def assemble(
    where: epath.PathLike, config: config_dict.ConfigDict, contrasts: Collection[str] = ()
) -> parts_lib.Parts:
    """The parts of a model's config; `contrasts` are named where each scan comes with its own.

    Raises UserError for one of another version, or of other contrasts.
    """
    try:
        parts = parts_lib.assemble(config)
        _check_contrasts(where, parts, contrasts)
        return parts
    except (AttributeError, KeyError) as error:
        raise errors.UserError(
            f"--checkpoint={where}: its config lacks {error}; it was made by another version, "
            "evaluate it with this one"
        ) from error


def _check_contrasts(
    where: epath.PathLike, parts: parts_lib.Parts, contrasts: Collection[str]
) -> None:
    names = parts.data.contrasts
    if parts.data.channels and not contrasts:
        form = ",".join(f"{name}=FILE" for name in names)
        raise errors.UserError(
            f"--checkpoint={where}: found a run on several pictures of a slice "
            f"(data.modality={parts.data.modality}, data.neighbours={parts.data.neighbours}); "
            f"accepted: predict with --input={form}, of which some may be left out"
        )
    unknown = sorted(set(contrasts) - {*names})
    if unknown or (contrasts and not parts.data.channels):
        raise errors.UserError(
            f"--input: found {', '.join(contrasts)} for a run on {', '.join(names)}; accepted: "
            + (f"some of {', '.join(names)}" if parts.data.channels else "a path alone")
        )


def read_calibration_file(path: str) -> calibration_lib.Calibration:
    """The file of `--calibration`. Raises UserError: missing or damaged."""
    try:
        content = epath.Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(f"--calibration={path}: {error.strerror or error}") from error
    return calibration_lib.from_bytes(content, path)


def build(
    where: epath.PathLike,
    parts: parts_lib.Parts,
    weights: Weights,
    preparation: provenance.SourcePreparation | None,
    calibration: calibration_lib.Calibration | None,
    mesh: jax.sharding.Mesh,
    facts: Mapping[str, Any] | None = None,
) -> Model:
    """Puts a model together, after everything was held against everything.

    Args:
      where: its folder.
      parts, weights: of the run that it is.
      preparation: of its training slices; None: not known.
      calibration: None: it has none.
      mesh: that batches are divided over.
      facts: for summaries, before or instead of those that every model has.

    Raises:
      UserError: a calibration of other weights, or of slices that were made otherwise.
    """
    params, frozen = weights.params, weights.frozen
    if jax.process_count() > 1:  # each has scans of its own: none may wait for another's devices
        mesh = mesh_lib.make_mesh(devices=jax.local_devices())
        params, frozen = _copy_to_host((params, frozen))
    if calibration is not None:
        check_calibrated(where, calibration.facts, weights.digest, weights.frozen_digests)
    _check_prepared_alike(where, preparation, calibration)
    usual = {
        "run": os.fspath(where),
        "name": parts.name,
        "method": parts.method.name,
        "preset": parts.preset,
        "modality": parts.data.modality,
        "image_size": parts.data.image_size,
        "denoiser": parts.summary["denoiser"],
        "weights": weights.digest[:16],
        "version": version.VERSION,
        "calibrated_on": calibration.facts.get("source") if calibration else None,
        "synthetic_training_data": parts.data.synthetic,
    }
    return Model(
        where=os.fspath(where),
        parts=parts,
        params=params,
        frozen=frozen,
        scorer=scorer_lib.Scorer(parts.method, params, frozen, mesh, parts.seed),
        preparation=preparation,
        calibration=calibration,
        shards=mesh_lib.batch_shards(mesh),
        weights=weights.digest,
        frozen_digests=weights.frozen_digests,
        facts={**usual, **(facts or {})},
    )


def _copy_to_host(tree: Params) -> Params:
    """Replicated arrays as this process's own."""
    return jax.tree.map(
        lambda x: np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x, tree
    )


def check_calibrated(
    where: epath.PathLike, facts: dict[str, Any], weights: str, frozen: dict[str, Any]
) -> None:
    """A threshold holds for the weights that it was chosen with, read-only ones among them.

    Raises UserError for others. Older calibrations do not know those that are only read.
    """
    if facts.get("weights") != weights:
        raise errors.UserError(
            f"{where}: its calibration was made with other weights (trained on since?); "
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
            f"{where}: its calibration was made with other weights beside the denoiser's "
            f"({shown}); give it those of before, or evaluate it again"
        )


def _check_prepared_alike(where, preparation, calibration) -> None:
    """A threshold means nothing on pictures that were made otherwise."""
    if preparation is None or calibration is None:
        return
    trained, calibrated = preparation.to_dict(), calibration.facts.get("preparation", {})
    # What changes a pixel's value. How brains were found and registered may differ by site.
    for key in ("geometry", "intensity", "low", "high", "n4", "interpolation"):
        if key in calibrated and calibrated[key] != trained[key]:
            raise errors.UserError(
                f"{where}: calibrated on slices with {key} {calibrated[key]}, trained on "
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
