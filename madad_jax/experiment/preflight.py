"""What is checked before hours are spent or a file is written: every program, every input."""

import logging
import pathlib

import jax
import jax.numpy as jnp

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import atomic_files, errors, json_digest
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches
from madad_jax.experiment import (
    contrast_views,
    frozen_weights,
    healthy_only,
    latent_cache,
    lesion_bank,
    score_stage,
    trained_weights,
)
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.methods import base
from madad_jax.runtime import startup
from madad_jax.training import trackers

_LOG = logging.getLogger(__name__)

_MARKER = "checked.json"
_TRAINS = ("run", "train", "train_autoencoder")


def once(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs, mode: str
) -> None:
    """All checks of a mode; makes the folder of the run when they pass.

    Programs are traced once a folder, config and version of the code: the same command started
    again need not trace everything a second time.

    Raises UserError for the first that does not fit.
    """
    known = mode == "report" or passed(parts, workdir)
    if not known:
        check_programs(parts)
    # After the programs: a config that cannot run leaves no folder behind.
    workdir.create()
    if not known and workdir.primary:
        remember(parts, workdir)
    if mode != "report":
        check_inputs(parts, workdir, inputs, mode)
        score_stage.keep_preparation(parts, workdir, inputs)


def passed(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> bool:
    """Whether `check_programs` found nothing wrong in this folder, by the same code."""
    marker = workdir.folder / _MARKER
    return marker.exists() and marker.read_bytes() == _identity(parts).encode()


def remember(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> None:
    """Notes that `check_programs` passed."""
    atomic_files.write_text(workdir.folder / _MARKER, _identity(parts))


def _identity(parts: parts_lib.Parts) -> str:
    """Of the config, our files as they are on disk, and the packages that trace."""
    root = pathlib.Path(__file__).parents[1]
    # Sizes and times and not contents: no file has to be opened for them.
    states = [(path, path.stat()) for path in sorted(root.rglob("*.py"))]
    code = [[str(p.relative_to(root)), s.st_size, s.st_mtime_ns] for p, s in states]
    packages = [startup.package_version(name) for name in startup.PACKAGES]
    # Attention of a library may be there on one machine and missing on the next.
    return json_digest.json_digest([parts.record, code, packages, jax.default_backend()])


def check_programs(parts: parts_lib.Parts) -> None:
    """Options and shapes of every program.

    Losses and maps are traced and not computed: many options are first read there.
    Raises UserError for the first that does not fit.
    """
    spec = parts.image_spec()
    if parts.autoencoder is not None:
        _trace(parts.autoencoder.method, {}, spec, spec)
    if parts.features is not None and parts.features.pretraining is not None:
        _trace(parts.features.pretraining, {}, spec, spec)
    frozen = frozen_weights.FrozenWeights.abstract(parts).values | lesion_bank.abstract(parts)
    _trace(parts.method, frozen, parts.train_spec(1), spec)


def _trace(method: base.Method, frozen: Params, trains_on: Batch, scores: Batch) -> None:
    """Traces the method's initial weights, its loss and its maps."""
    key = jax.random.key(0)
    # The key is an argument, so that initial weights are traced too and nothing is drawn.
    params = jax.eval_shape(lambda k: method.init(k, scores), key)
    batch = trains_on | {"step": jax.ShapeDtypeStruct((), jnp.int32)}
    jax.eval_shape(method.loss, params, frozen, batch, key)
    jax.eval_shape(method.anomaly_map, params, frozen, scores, key)


def check_inputs(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs, mode: str
) -> None:
    """Opens everything that the stages of a training mode will read, so that a mistake in
    what comes last is found before what comes first is trained.

    Raises UserError for the first that is missing or does not fit.
    """
    plan = parts.evaluation
    batches.check_batch_size(plan.batch_size, inputs.mesh, key="eval.batch_size")
    if mode not in _TRAINS:
        return
    if mode == "train_autoencoder" and parts.autoencoder is None:
        raise errors.UserError(
            f"--mode={mode}: method={parts.method_name} works on images and needs no autoencoder"
        )
    _check_stages(parts, inputs, mode)
    if parts.autoencoder is not None:
        trained_weights.autoencoder_checkpoints(parts, workdir)
    if mode != "train_autoencoder":
        lesion_bank.check(parts, inputs)
        if parts.data.cached_latents:
            latent_cache.folder_of(parts, workdir)
        # What is begun has weights of its own.
        if parts.initial_run and not workdir.is_begun("denoiser"):
            trained_weights.checkpoints_of(parts.initial_run, "denoiser", "denoiser.init")
    if mode == "run":
        if not plan.sets:
            raise errors.UserError("eval.sets is empty: nothing to score; use --mode=train")
        # Millimetres and the table of lesions.
        plan.options(parts.data.preparation())
        sets = healthy_only.sets_to_score(parts)
        if not sets:
            # Before hours are spent: somebody may have forgotten the folder.
            _LOG.warning("%s", healthy_only.explain(parts))
        for name in sets:
            inputs.source(name)
            inputs.healthy_source(name)
        for view in contrast_views.views(parts, inputs) if parts.data.channels else ():
            for name in ("train", "val", *sets):
                view.source(name)


def _check_stages(parts: parts_lib.Parts, inputs: inputs_lib.Inputs, mode: str) -> None:
    """Budgets, optimisers and batch sizes of the stages that will train."""
    plans = []
    if parts.autoencoder is not None and not parts.autoencoder.run:
        plans.append(parts.autoencoder.plan)
    if mode != "train_autoencoder":
        plans.append(parts.plan)
    trackers.check(parts.plan.track)
    slices = len(inputs.source("train"))
    inputs.source("val")  # opened for its errors alone
    for plan in plans:
        key = f"{plan.key}.batch_size"
        batches.check_batch_size(plan.batch_size, inputs.mesh, plan.accum_steps, key=key)
        plan.optimizer(plan.budget(slices))
