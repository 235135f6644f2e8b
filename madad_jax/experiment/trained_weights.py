"""The trained weights of a run: where they lie, what they are, and restoring them."""

import logging

import jax
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import reader, saver
from madad_jax.core import atomic_files, errors, messages, trees
from madad_jax.core.types import Batch, Params
from madad_jax.devices import mesh as mesh_lib
from madad_jax.devices import parameter_rules
from madad_jax.experiment import stage_inputs
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.methods import base
from madad_jax.runtime import executables

_LOG = logging.getLogger(__name__)
_READER = "denoiser"  # the stage that reads the autoencoder


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


def autoencoder_checkpoints(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> epath.Path:
    """Checkpoints of the autoencoder: of this run, or of `autoencoder.checkpoint`.

    A folder that moved together with the run, or that a relative path does not reach from here,
    is found where the run noted it.

    Raises:
      UserError: there are none, or the key that named them for this run is missing.
    """
    run, key = parts.autoencoder.run, stage_inputs.AUTOENCODER
    if not run:
        own = workdir.checkpoints("autoencoder")
        place = "" if own.is_dir() else stage_inputs.named_before(workdir, _READER, key)
        if place:
            # Else an autoencoder would be trained for hours, and the denoiser refused beside it.
            raise errors.UserError(
                f"{key}: found none, but {workdir.trained / _READER} was trained on the "
                f"autoencoder of another run; give --config.{key}={messages.shorten(place, 200)}"
            )
        return own
    if (epath.Path(run) / "autoencoder" / "checkpoints").is_dir():
        return checkpoints_of(run, "autoencoder", key)
    for place in stage_inputs.places(workdir, _READER, key, run):
        folder = epath.Path(place) / "autoencoder" / "checkpoints"
        if folder.is_dir():
            _LOG.info("%s: nothing at %s; taken from %s", key, run, place)
            return folder
    return checkpoints_of(run, "autoencoder", key)


def weights_read_by(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, stage: str
) -> list[stage_inputs.Weights]:
    """The weights of other stages and files that a stage reads, as they are today.

    Raises:
      UserError: the autoencoder is missing, or has no whole checkpoint.
    """
    made, found = parts.autoencoder, []
    if stage == "autoencoder":
        if made.lpips:
            digest = _digest_at(workdir, stage_inputs.LPIPS, made.lpips)
            found.append(stage_inputs.Weights(stage_inputs.LPIPS, made.lpips, made.lpips, digest))
        return found
    if made is not None:
        folder = autoencoder_checkpoints(parts, workdir)
        _, digest = _same_step(workdir, folder)
        place = str(folder.parent.parent)
        found.append(stage_inputs.Weights(stage_inputs.AUTOENCODER, made.run, place, digest))
    if parts.features is not None and parts.features.weights:
        path, key = parts.features.weights, stage_inputs.FEATURES
        found.append(stage_inputs.Weights(key, path, path, _digest_at(workdir, key, path)))
    if parts.initial_run:
        run = parts.initial_run
        digest = _digest_at(workdir, stage_inputs.INITIAL, run)
        found.append(stage_inputs.Weights(stage_inputs.INITIAL, run, run, digest))
    return found


def bind(parts: parts_lib.Parts, workdir: workdir_lib.Workdir, stage: str) -> None:
    """Binds a stage to the weights that it reads. Every process must call it.

    Raises:
      UserError: the stage was begun with others, or some are missing.
    """
    stage_inputs.bind(
        workdir,
        stage,
        weights_read_by(parts, workdir, stage),
        lambda key, path: _digest_at(workdir, key, path),
    )


def _digest_at(workdir: workdir_lib.Workdir, key: str, path: str) -> str | None:
    """Digest of what lies at a path that the config has under `key`; None: nothing whole."""
    try:
        if key in stage_inputs.FILES:
            return atomic_files.sha256(path)
        if key == stage_inputs.INITIAL:
            folder, part = checkpoints_of(path, "denoiser", key), ""
        else:
            folder, part = workdir.checkpoints("autoencoder"), "autoencoder"
            if path:
                folder = checkpoints_of(path, "autoencoder", key)
        return next(iter(reader.weights_digests(folder, part).values()))
    except errors.UserError:
        return None


def _same_step(workdir: workdir_lib.Workdir, folder: epath.Path) -> tuple[str | int, str]:
    """(step, digest) of the autoencoder that the denoiser was begun with, if it is still there,
    though another may be the best by now; else of the best."""
    known = reader.weights_digests(folder, "autoencoder")
    before = stage_inputs.noted(workdir, _READER).get(stage_inputs.AUTOENCODER, {}).get("digest")
    if workdir.is_begun(_READER):
        for step, digest in known.items():
            if digest == before:
                return step, digest
    return "best", next(iter(known.values()))


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
    folder = autoencoder_checkpoints(parts, workdir)
    if "converted_from" in saver.read_config(folder):  # files of others hold no discriminator
        abstract = {"autoencoder": abstract["autoencoder"]}
    step, _ = _same_step(workdir, folder)
    return saver.restore_ema(folder, abstract, step)[0]["autoencoder"]


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


def restore_encoder(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, mesh: jax.sharding.Mesh
) -> Params:
    """The averaged weights of a network for tokens that was trained here.

    Raises:
      UserError: no checkpoint, or one of another model.
    """
    abstract = _abstract(parts, mesh, parts.features.pretraining)
    return saver.restore_ema(workdir.checkpoints("encoder"), abstract)[0]


def _abstract(parts: parts_lib.Parts, mesh: jax.sharding.Mesh, method: base.Method) -> Params:
    """Shapes of a method's weights, whole on every device."""
    spec = parts.image_spec()  # weights do not depend on how many slices a batch has
    abstract = initial_shapes(method, spec)
    whole = mesh_lib.replicated(mesh)
    return parameter_rules.with_shardings(abstract, jax.tree.map(lambda _: whole, abstract))


def initial_shapes(method: base.Method, spec: Batch) -> Params:
    """Shapes and types of a method's weights for batches of `spec`; nothing is drawn.

    Traced once a machine: the result is kept beside the compiled programs.
    """

    def create() -> Params:
        return method.init(jax.random.key(0), spec)

    reads = (method, trees.tree_signatures(spec))
    return executables.shapes(f"{method.name} weights", create, reads)
