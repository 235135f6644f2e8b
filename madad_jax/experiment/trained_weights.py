"""The trained weights of a run, for whoever scores with them."""

from typing import Any

import jax
from etils import epath

from madad_jax.assembly import networks, parts
from madad_jax.checkpoints import saver
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from madad_jax.training import batch_specs


def checkpoints_of(config: Any, stage: str, key: str) -> epath.Path:
    """Checkpoints of `stage` in the other run that the config names under `key`.

    Raises:
      UserError: that run has none.
    """
    other = config[stage][key]
    folder = epath.Path(other) / stage / "checkpoints"
    if not folder.is_dir():
        raise errors.UserError(
            f"{stage}.{key}: found {other!r}, which has no {stage}/checkpoints; give the workdir "
            "of a run"
        )
    return folder


def autoencoder(config: Any, workdir: epath.Path, mesh: jax.sharding.Mesh) -> tuple[Any, Params]:
    """(network, its averaged weights) of a run or of `autoencoder.checkpoint`.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    network = networks.autoencoder(config)
    method = parts.autoencoder_training(config)
    abstract = _abstract(config, mesh, method)
    folder = workdir / "autoencoder" / "checkpoints"
    if config.autoencoder.checkpoint:
        folder = checkpoints_of(config, "autoencoder", "checkpoint")
    if "converted_from" in saver.read_config(folder):  # files of others hold no discriminator
        abstract = {"autoencoder": abstract["autoencoder"]}
    params, _ = saver.restore_ema(folder, abstract)
    return network, params["autoencoder"]


def denoiser(
    config: Any,
    folder: epath.Path,
    mesh: jax.sharding.Mesh,
    method: Any,
    step: str | int = "best",
) -> Params:
    """The averaged weights of `method` in a folder of checkpoints.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    return saver.restore_ema(folder, _abstract(config, mesh, method), step)[0]


def _abstract(config: Any, mesh: jax.sharding.Mesh, method: Any) -> Params:
    """Shapes of a method's weights, whole on every device."""
    spec = batch_specs.image_spec(1, config.data.image_size)
    abstract = jax.eval_shape(lambda: method.init(jax.random.key(0), spec))
    whole = mesh_lib.replicated(mesh)
    return parameter_rules.with_shardings(abstract, jax.tree.map(lambda _: whole, abstract))
