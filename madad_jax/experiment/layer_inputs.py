"""What the inputs of each layer span in the tasks of a run and before it: measured and kept.

`<workdir>/denoiser/bases.npz` is measured once, when a run is finished and another task begins; a
task keeps what it was trained with as `earlier_bases.npz` beside its checkpoints.
"""

import hashlib
import logging
import math
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests
from madad_jax.core import atomic_files, errors, random_keys, units
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import frozen_weights, latent_cache, stage_inputs, trained_weights
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.methods import base
from madad_jax.metrics import archives
from madad_jax.runtime import agreement, executables, watchdog
from madad_jax.runtime import stop as stop_lib
from madad_jax.training import input_bases, projection

_LOG = logging.getLogger(__name__)

FILE, EARLIER = "bases.npz", "earlier_bases.npz"
_NAME = "bases of earlier tasks"  # in `inputs.json`
_WHAT = "bases of layers' inputs"


def check(parts: parts_lib.Parts) -> None:
    """Traces alone. Raises UserError for a method whose layers' inputs cannot be recorded."""
    key, method = jax.random.key(0), base.recording(parts.method)
    frozen = frozen_weights.FrozenWeights.abstract(parts).values
    params = jax.eval_shape(lambda k: method.init(k, parts.image_spec()), key)
    batch = parts.train_spec() | {"step": jax.ShapeDtypeStruct((), np.int32)}
    _, metrics = jax.eval_shape(method.loss, params, frozen, batch, key)
    for moments in metrics["moments"]:
        projection.check_layers(params, moments, method.name)


def measure(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
    *,
    options: input_bases.Options,
    slices: int,
) -> dict[str, np.ndarray]:
    """The bases of a finished run's task and of those before it: {path of a layer: [d, r]}.

    Args:
      parts, workdir, inputs: of the run.
      stop: asks for an end between batches.
      options: how much is kept.
      slices: of the training split, as training meets them.

    Raises:
      UserError: no trained weights, or a method that trains more than a denoiser.
    """
    path, earlier = path_of(workdir), workdir.trained / "denoiser" / EARLIER
    before = read(earlier)[1] if earlier.exists() else {}
    params = trained_weights.restore_denoiser(
        parts, workdir.checkpoints("denoiser"), inputs.mesh, "best"
    )
    facts = {
        "options": [options.kind, options.energy, options.max_rank, slices],
        "weights": digests.weights_digest(params),
        "earlier": _digest(earlier.read_bytes()) if earlier.exists() else "",
    }
    if not agreement.from_first(lambda: path.exists() and read(path)[0].get("facts") == facts):
        gathering = input_bases.Gathering(options, before)
        for moments in _moments(parts, workdir, inputs, stop, params, slices):
            gathering.add(moments)

        def write() -> None:
            # By one process: decompositions of two machines may differ in their last digits.
            found = gathering.result()
            atomic_files.write_bytes(path, archives.to_bytes({"facts": facts}, _named(found)))

        agreement.from_first(write)
    bases = read(path)[1]
    _LOG.info("%s: %s", path, describe(bases))
    return bases


def protected(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> dict[str, np.ndarray]:
    """What the run must leave as it is: the bases of the run that it starts from.

    They are copied once, so that the other run may go.

    Raises:
      UserError: that run has none, or they are not those of before.
    """
    own = workdir.trained / "denoiser" / EARLIER

    def on_first() -> None:
        if not workdir.is_begun("denoiser"):
            source = epath.Path(parts.initial_run) / "denoiser" / FILE
            if not source.exists():
                raise errors.UserError(
                    f"denoiser.init: found {parts.initial_run!r}, which has no denoiser/{FILE} for "
                    f"train.continual.projection={parts.plan.projection}; accepted: a task of "
                    "train.tasks that others follow"
                )
            atomic_files.write_bytes(own, source.read_bytes())
            stage_inputs.note_measured(workdir, "denoiser", _NAME, _digest(own.read_bytes()))

    agreement.from_first(on_first)
    content = atomic_files.read_bytes(own)
    stage_inputs.check_measured(workdir, "denoiser", _NAME, _digest(content), str(own))
    bases = read(own)[1]
    _LOG.info("denoiser: %s stay as they are: %s", own, describe(bases))
    return bases


def path_of(workdir: workdir_lib.Workdir) -> epath.Path:
    """Where the bases of a run lie."""
    return workdir.trained / "denoiser" / FILE


def read(path: epath.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, {path of a layer: [d, r]}). Raises UserError for a file that is damaged."""
    with archives.open_bytes(atomic_files.read_bytes(path), str(path), _WHAT) as (meta, arrays):
        return meta, {name.replace(":", "/"): array for name, array in arrays.items()}


def _named(bases: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    # A slash in the name of an archive's member would be a folder.
    return {layer.replace("/", ":"): basis for layer, basis in bases.items()}


def describe(bases: dict[str, np.ndarray]) -> str:
    """Layers, bytes and ranks in a line."""
    ranks = [basis.shape[1] / basis.shape[0] for basis in bases.values()]
    size = units.human(sum(basis.nbytes for basis in bases.values()))
    return (
        f"bases of {len(bases)} layers, {size}; share of each input's directions "
        f"{min(ranks):.2f} to {max(ranks):.2f}, median {float(np.median(ranks)):.2f}"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _moments(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
    params: Any,
    slices: int,
) -> Any:
    """Moments of batch after batch, whole on every process."""
    method, mesh = base.recording(parts.method), inputs.mesh
    frozen = frozen_weights.FrozenWeights.restore(parts, workdir, mesh)
    source: Any = inputs.source("train")
    if parts.data.cached_latents and parts.autoencoder is not None:
        weights = frozen.values["autoencoder"]
        source = latent_cache.prepare(parts, workdir, inputs, stop, weights)["train"]
        frozen = frozen.without_autoencoder()
    replicated = mesh_lib.replicated(mesh)
    key = random_keys.stream(random_keys.root_key(parts.seed), "bases")

    def moments(params: Any, frozen: Any, batch: Any, number: jax.Array) -> Any:
        # The loss as validation takes it: corrupted as in training, at levels that are drawn anew
        # for each slice, without dropout.
        draw = jax.random.fold_in(key, number)
        _, metrics = method.loss(params, frozen, {**batch, "step": number}, draw, train=False)
        return jax.tree.map(lambda *calls: sum(calls), *metrics["moments"])

    rows = {name: mesh_lib.batch_sharding(mesh) for name in parts.train_spec()}
    program = jax.jit(
        moments,
        in_shardings=(replicated, replicated, rows, replicated),
        out_shardings=replicated,
    )
    weights = jax.device_put((params, frozen.values), replicated)
    made: Any = None
    iterator = inputs.data.train_iterator(source, parts.plan.batch_size, mesh)
    for number in range(math.ceil(min(slices, len(source)) / parts.plan.batch_size)):
        stop_lib.check("inputs of layers")
        watchdog.progress(f"inputs of layers: batch {number}")
        batch = batches_lib.global_batch(mesh, next(iterator))
        arguments = (*weights, batch, np.int32(number))
        if made is None:
            reads, devices = (method, parts.seed), list(mesh.devices.flat)
            made = executables.compiled("inputs of layers", program, arguments, reads, devices)
        found = made(*arguments)
        if not number:
            size = units.human(sum(moment.nbytes for moment in found.values()))
            _LOG.info("inputs of layers: %d moments, %s while gathering", len(found), size)
        yield {layer: np.asarray(moment) for layer, moment in found.items()}
