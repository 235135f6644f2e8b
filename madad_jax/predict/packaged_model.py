"""A packaged model's folder as a `model.Model`: files that are held against their digests.

The digest of the weights that a calibration is bound to stands in `model.json`, whose own table
says which weights' file it belongs to: reading computes one sha256 and nothing on the devices.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import errors, json_file, messages, trees
from madad_jax.core.types import Params
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import frozen_weights, trained_weights
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.predict import model as model_lib
from madad_jax.predict import package_files

_DENOISER = "denoiser"
_CHECKED = (_DENOISER, "autoencoder", "scaling_factor")


def read_calibration(folder: epath.Path, path: str) -> calibration_lib.Calibration:
    """The calibration file at `path`, or the model's own when that is empty.

    Raises:
      UserError: missing or damaged.
    """
    if path:
        return model_lib.read_calibration_file(path)
    about = package_files.read_about(folder)
    content = package_files.read_file(folder, package_files.CALIBRATION, about)
    return calibration_lib.from_bytes(content, str(folder / package_files.CALIBRATION))


def read_config(folder: epath.Path, calibration: calibration_lib.Calibration) -> dict[str, Any]:
    """The config of the model, or the one that it was calibrated with.

    Raises:
      UserError: a damaged description.
    """
    about = package_files.read_about(folder)
    config = json_file.as_object(
        calibration.facts.get("config", about.config), f"{folder}: calibration: config"
    )
    return config_record.runs_anywhere(config_record.rename(config))


def load(
    folder: epath.Path,
    config: config_dict.ConfigDict,
    calibration: calibration_lib.Calibration,
) -> model_lib.Model:
    """Reads the weights and puts the parts together.

    Raises:
      UserError: a damaged file, weights of another network, or a calibration of other weights.
    """
    about = package_files.read_about(folder)
    parts = model_lib.assemble(folder, config)
    flat = package_files.read_weights(folder, about)
    params, frozen = split_weights(parts, flat, str(folder / package_files.WEIGHTS))
    weights = model_lib.Weights(params, frozen, about.weights, about.frozen)
    where = str(folder / package_files.ABOUT)
    preparation = provenance.from_dict(about.preparation, where)
    facts: dict[str, Any] = {"run": about.name, "name": about.name, "licence": about.licence}
    if about.ages is not None:
        facts["ages"] = f"{about.ages[0]:g} to {about.ages[1]:g}"
    mesh = mesh_lib.make_mesh()
    return model_lib.build(folder, parts, weights, preparation, calibration, mesh, facts)


def split_weights(
    parts: parts_lib.Parts, flat: dict[str, np.ndarray], source: str
) -> tuple[Params, Params]:
    """(trained weights, frozen weights) of flat ones.

    Args:
      parts: of the model.
      flat: {path: array}, as `predict.export.flat_weights` names them.
      source: the file, for messages.

    Raises:
      UserError: a name or a shape that is not the networks'.
    """
    # LPIPS and the like have no shapes of their own here: they come as the file has them.
    others = dataclasses.replace(parts, method_weights=lambda: _other_weights(flat))
    frozen = frozen_weights.FrozenWeights.abstract(others).values
    trained = trained_weights.initial_shapes(parts.method, parts.image_spec())
    tree = {_DENOISER: trained, **frozen}
    wanted, found = trees.tree_signatures(tree), trees.tree_signatures(flat)
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise errors.UserError(
                f"'{source}': weights of another network: '{messages.shorten(name)}' is "
                f"{found.get(name, 'missing')}, accepted: {wanted.get(name, 'no such name')}"
            )
    leaves = [flat[name] for name in trees.flatten(tree)]
    values = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    return values.pop(_DENOISER), values


def _other_weights(flat: dict[str, np.ndarray]) -> Params:
    """What a method reads beside autoencoder and scaling factor, as nested tables."""
    out: dict[str, Any] = {}
    for name, array in flat.items():
        first, *way = name.split("/")
        if first in _CHECKED:
            continue
        section = out
        for key in (first, *way)[:-1]:
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                raise errors.UserError(f"weights: '{messages.shorten(name)}' lies below an array")
        section[(first, *way)[-1]] = array
    return out
