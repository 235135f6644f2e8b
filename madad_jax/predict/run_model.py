"""A run's folder as a `model.Model`. Nothing is written there."""

from collections.abc import Collection

from etils import epath
from ml_collections import config_dict

from madad_jax.assembly import config_record
from madad_jax.assembly import data as data_lib
from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests, saver
from madad_jax.core import errors, json_file
from madad_jax.data import provenance
from madad_jax.devices import mesh as mesh_lib
from madad_jax.evaluation import calibrate
from madad_jax.experiment import contrast_views, frozen_weights, trained_weights
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


def read_calibration(
    workdir: epath.Path, path: str, contrasts: Collection[str] = ()
) -> calibration_lib.Calibration | None:
    """The calibration file at `path`, or the run's own when that is empty.

    Args:
      workdir: of the run.
      path: of a file; "": the run's.
      contrasts: the run's own is that of these, where a run has several.

    Raises:
      UserError: missing or damaged, or of other contrasts.
    """
    if path:
        found = model_lib.read_calibration_file(path)
    else:
        found = calibrate.load(workdir, _calibration_name(workdir, contrasts))
    known = None if found is None else found.facts.get("contrasts")
    if contrasts and known is not None and set(known) != set(contrasts):
        raise errors.UserError(
            f"--calibration={path}: found one of {', '.join(known)}, accepted: one of "
            f"{', '.join(contrasts)}, which the scans are"
        )
    return found


def contrasts_of(workdir: epath.Path) -> tuple[str, ...]:
    """The contrasts of a run that takes several, or neighbouring slices; () for any other.

    Raises:
      UserError: no run there.
    """
    record = read_config(workdir, None)
    names = data_lib.recorded_contrasts(record)
    # Records of earlier versions have no neighbours.
    return names if len(names) > 1 or record["data"].get("neighbours", 0) else ()


def _calibration_name(workdir: epath.Path, contrasts: Collection[str]) -> str:
    if not contrasts:
        return calibrate.FILE
    names = data_lib.recorded_contrasts(read_config(workdir, None))
    given = tuple(name for name in names if name in contrasts)
    return contrast_views.calibration_file(given if len(given) < len(names) else ())


def load(
    workdir: epath.Path,
    config: config_dict.ConfigDict,
    calibration: calibration_lib.Calibration | None,
    contrasts: Collection[str] = (),
) -> model_lib.Model:
    """Restores the weights and puts the parts together; `contrasts` as in `model.assemble`.

    Raises:
      UserError: an unfinished run, or a calibration of other weights.
    """
    mesh = mesh_lib.make_mesh()
    parts = model_lib.assemble(workdir, config, contrasts)
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
