"""Restoring the trained weights of a run."""

import jax
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import saver
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.methods import base


def checkpoints_of(run: str, stage: str, key: str) -> epath.Path:
    """Checkpoints of `stage` in another run, which the config names under `key`.

    Raises:
      UserError: that run has none.
    """
    folder = epath.Path(run) / stage / "checkpoints"
    if not folder.is_dir():
        raise errors.UserError(
            f"{key}: found {run!r}, which has no {stage}/checkpoints; give the workdir of a run"
        )
    return folder


def restore_autoencoder(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, mesh: jax.sharding.Mesh
) -> Params:
    """The averaged weights of the autoencoder, of this run or of `autoencoder.checkpoint`.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    made = parts.autoencoder
    if made is None:
        raise ValueError(f"method {parts.method.name} has no autoencoder")
    abstract = _abstract(parts, mesh, made.method)
    folder = workdir.checkpoints("autoencoder")
    if made.run:
        folder = checkpoints_of(made.run, "autoencoder", "autoencoder.checkpoint")
    if "converted_from" in saver.read_config(folder):  # files of others hold no discriminator
        abstract = {"autoencoder": abstract["autoencoder"]}
    return saver.restore_ema(folder, abstract)[0]["autoencoder"]


def restore_denoiser(
    parts: parts_lib.Parts,
    folder: epath.Path,
    mesh: jax.sharding.Mesh,
    step: str | int = "best",
) -> Params:
    """The averaged weights of the method in a folder of checkpoints.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    return saver.restore_ema(folder, _abstract(parts, mesh, parts.method), step)[0]


def _abstract(parts: parts_lib.Parts, mesh: jax.sharding.Mesh, method: base.Method) -> Params:
    """Shapes of a method's weights, whole on every device."""
    spec = parts.image_spec()  # weights do not depend on how many slices a batch has
    abstract = jax.eval_shape(lambda: method.init(jax.random.key(0), spec))
    whole = mesh_lib.replicated(mesh)
    return parameter_rules.with_shardings(abstract, jax.tree.map(lambda _: whole, abstract))
