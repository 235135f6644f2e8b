"""The atlas of healthy slices of a run: measured once on its training slices, before it trains.

It lies beside the detector's checkpoints, `<workdir>/denoiser/atlas.npz`, and is one of the weights
that the method reads and does not train.
"""

import hashlib
import logging
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax.anomaly_maps import healthy_groups as atlas_lib
from madad_jax.assembly import parts as parts_lib
from madad_jax.core import atomic_files, errors
from madad_jax.core.types import Params
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import stage_inputs
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.metrics import archives, baseline_maps
from madad_jax.runtime import agreement
from madad_jax.runtime import stop as stop_lib

_LOG = logging.getLogger(__name__)

FILE = "atlas.npz"
_NAME = "atlas"  # in `inputs.json`
_WHAT = "an atlas of healthy slices"
_ALL = (True,)  # one picture is always there
_MOST_SLICES = 20_000  # more change no mean by what one could see


def measure(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs
) -> Params:
    """The run's atlas: the one it has, or a new one where the detector has no weights yet.

    Raises:
      UserError: too few slices, or a detector without the atlas that it was trained with.
    """

    def on_first() -> None:
        path = path_of(workdir)
        if not workdir.is_begun("denoiser"):
            _write(parts, path, inputs)
        if path.exists():
            stage_inputs.note_measured(workdir, "denoiser", _NAME, _digest(path.read_bytes()))

    # Process 0 writes; the others read what it wrote.
    agreement.from_first(on_first)
    return load(parts, workdir)


def path_of(workdir: workdir_lib.Workdir) -> epath.Path:
    """Where it lies."""
    return workdir.trained / "denoiser" / FILE


def load(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> Params:
    """The atlas of a run that has one.

    Raises:
      UserError: it is missing, damaged, of another size, or not the one of the training.
    """
    path = path_of(workdir)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise errors.UserError(
            f"'{path}': {error.strerror or error}; the detector was trained with an atlas, which "
            "lies beside its checkpoints"
        ) from error
    wanted = shapes(parts)
    with archives.open_bytes(content, str(path), _WHAT) as (_, arrays):
        found = {name: arrays[name] for name in wanted}
        for name, spec in wanted.items():
            if found[name].shape != spec.shape or found[name].dtype != spec.dtype:
                array = found[name]
                raise ValueError(
                    f"{name}: found {array.dtype}{list(array.shape)}, accepted: "
                    f"{spec.dtype}{list(spec.shape)}"
                )
    stage_inputs.check_measured(workdir, "denoiser", _NAME, _digest(content), str(path))
    return found


def shapes(parts: parts_lib.Parts) -> Params:
    """Shapes of a run's atlas; of several contrasts an atlas for each, stacked."""
    of_one = atlas_lib.shapes(parts.atlas, parts.data.image_size)
    if not parts.data.channels:
        return of_one
    count = len(parts.data.contrasts)
    return {k: jax.ShapeDtypeStruct((count, *v.shape), v.dtype) for k, v in of_one.items()}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(parts: parts_lib.Parts, path: epath.Path, inputs: inputs_lib.Inputs) -> None:
    source = inputs.source("train")
    if parts.data.channels:
        each = [_fit(parts, source, channel) for channel in range(len(parts.data.contrasts))]
        arrays = {name: np.stack([one[name] for one in each]) for name in each[0]}
    else:
        arrays = _fit(parts, source, 0)
    atomic_files.write_bytes(path, archives.to_bytes({"slices": len(source)}, arrays))
    _LOG.info("atlas: %d groups of %d healthy slices", parts.atlas.groups, len(source))


def _fit(parts: parts_lib.Parts, source: Any, channel: int) -> dict[str, np.ndarray]:
    """The atlas of one channel, of the slices that have it."""
    step = -(-len(source) // _MOST_SLICES)
    fit = atlas_lib.Fit(parts.atlas, parts.seed)
    for show_again in (False, True):
        if show_again:
            fit.group()
        for index in range(0, len(source), step):
            stop_lib.check("atlas of healthy slices", shared=False)
            element = source[index]
            if not element.get("available", _ALL)[channel]:
                continue
            image, brain = element["image"][None, ..., channel], element["brain_mask"][None]
            fit.add(baseline_maps.z_score(image, brain), brain)
    return {name: np.asarray(value) for name, value in fit.result().items()}
