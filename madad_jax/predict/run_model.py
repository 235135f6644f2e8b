"""A run's folder as a `model.Model`. Nothing is written there."""

from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record
from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests, saver
from madad_jax.core import errors, json_file
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import calibrate
from madad_jax.experiment import frozen_weights, trained_weights
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.predict import model as model_lib


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
    return model_lib.read_calibration_file(path) if path else calibrate.load(workdir)


def load(
    workdir: epath.Path,
    config: config_dict.ConfigDict,
    calibration: calibration_lib.Calibration | None,
) -> model_lib.Model:
    """Restores the weights and puts the parts together.

    Raises:
      UserError: an unfinished run, or a calibration of other weights.
    """
    mesh = mesh_lib.make_mesh()
    parts = model_lib.assemble(workdir, config)
    run = workdir_lib.Workdir(workdir)
    frozen = frozen_weights.FrozenWeights.restore(parts, run, mesh)
    preparation = _read_preparation(workdir, parts)
    step = parts.evaluation.checkpoint
    params = trained_weights.restore_denoiser(parts, run.checkpoints("denoiser"), mesh, step)
    weights = model_lib.Weights(
        params, frozen.values, digests.weights_digest(params), frozen.digests()
    )
    return model_lib.build(workdir, parts, weights, preparation, calibration, mesh)


def _read_preparation(
    workdir: epath.Path, parts: parts_lib.Parts
) -> provenance.SourcePreparation | None:
    # The run's own file first: its data may have moved or changed since.
    path = workdir / provenance.FILE
    return provenance.read(path) if path.exists() else parts.data.preparation()
