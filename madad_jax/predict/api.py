"""A model's folder as a detector of scans, and as files of its own.

import madad_jax
detector = madad_jax.load()            # the model that comes with the package
detector = madad_jax.load("runs/x")    # a run of one's own
result = detector(nibabel.load("scan.nii.gz"))
result.anomaly_image, result.mask_image, result.score, result.candidates
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from madad_jax.core import errors
from madad_jax.predict import model_names


def load(
    checkpoint: str | os.PathLike = "",
    *,
    voxel_fpr: float | None = None,
    false_positives_per_scan: float | None = None,
    threshold: float | None = None,
    signal: str = "map",
    postprocess: str = "none",
    changes: dict[str, float] | None = None,
    registration: str = "",
    brain_mask: str = "",
    slices: str = "",
    calibration: str = "",
    batch_size: int = 16,
    series: str = "",
    dcm2niix: bool = False,
    files: Mapping[str, str] | None = None,
    template: str = "",
    gestational_age: float | None = None,
) -> Any:
    """A `predict.detector.Detector` of a model that comes with the package, or of a folder.

    Args:
      checkpoint: name of a model as `madad-jax models` lists them, workdir of a run, or folder of
        a packaged model; "" the default model. Path objects are never names.
      voxel_fpr: share of healthy brain voxels that may lie above the threshold.
      false_positives_per_scan: candidates that a healthy scan may have on average.
      threshold: the threshold itself, 0 to 1. At most one of the three; without any a
        calibrated run takes `voxel_fpr` from its config (`eval.false_positive_rate`).
      signal: `map` (image difference), `mask_map` (mask head) or `latent_map`.
      postprocess: `none`, `min_volume`, or the published `pddpm` and `dae`: see
        `metrics.scan_stacks`.
      changes: single fields of the post-processing.
      registration: `none` or `affine`; "" as the run was trained with.
      brain_mask: a method of `scans.brain_mask`; "" as the run was trained with.
      slices: `first:last:step` numbers; "" those of the calibration or of training.
      calibration: file made by `--mode=calibrate`; "" the run's own.
      batch_size: slices on the device at a time.
      series: number of the DICOM series, where a folder has several; "" = by the stated rules.
      dcm2niix: whether the installed dcm2niix converts DICOM that is not read here.
      files: paths by contrast of the one person to be scored, for a run on several contrasts.
      template: file or folder of templates that the training scans were registered to, where it
        was the user's own; its digest is held against the model's record.
      gestational_age: of the scans, weeks, for a folder of templates.

    Raises:
      UserError: no run, an unknown value, or a rate without calibration.
    """
    # Inside the functions of this file: `import madad_jax` must not start JAX.
    from madad_jax.predict import detector as detector_lib
    from madad_jax.predict import operating

    files = files or {}
    model = open_model(model_names.locate(checkpoint), calibration, tuple(files))
    if files and model.calibration is None and threshold is None:
        raise errors.UserError(_explain_uncalibrated(model, files))
    setting = operating.choose_setting(
        model.calibration,
        where=model.where,
        signal=signal,
        postprocess=postprocess,
        changes=changes or {},
        rates={
            "voxel_fpr": voxel_fpr,
            "false_positives_per_scan": false_positives_per_scan,
            "threshold": threshold,
        },
        default_rate=model.parts.evaluation.false_positive_rate,
    )
    made = build_detector(
        detector_lib,
        find_template(model, template, gestational_age),
        setting,
        registration,
        brain_mask,
        slices,
        batch_size,
        files,
    )
    made.wish = dataclasses.replace(made.wish, series=series, dcm2niix=dcm2niix)
    return made


def _explain_uncalibrated(model: Any, files: Mapping[str, str]) -> str:
    names = model.parts.data.contrasts
    given = ",".join(name for name in names if name in files)
    return (
        f"--checkpoint={model.where}: no calibration for {given} of its contrasts "
        f"{','.join(names)}; accepted: --mode=evaluate on the run with "
        f"--config.eval.contrasts=\"('{given}',)\", or --threshold"
    )


def export(checkpoint: str | os.PathLike, output: str, calibration: str = "") -> str:
    """Writes a detector as files that need none of this package's code.

    Args:
      checkpoint: as in `load`.
      output: folder to write, see `predict.export`.
      calibration: file made by `--mode=calibrate`; "" the run's own.

    Returns:
      A line that says what was written.

    Raises:
      UserError: no run, or a folder that cannot be written.
    """
    from madad_jax.predict import export as export_lib

    return export_lib.write(open_model(model_names.locate(checkpoint), calibration), output)


def open_model(folder: str, calibration: str, contrasts: tuple[str, ...] = ()) -> Any:
    """The model of a run's or a packaged model's folder.

    Its config becomes the one ConfigDict of this command.

    Args:
      folder: as `model_names.locate` gives it.
      calibration: file made by `--mode=calibrate`; "" the model's own.
      contrasts: that are at hand, for a run on several.

    Raises:
      UserError: no model there, or one whose parts do not belong together.
    """
    from etils import epath
    from ml_collections import config_dict

    from madad_jax.assembly import process_settings
    from madad_jax.predict import package_files, packaged_model, run_model

    place = epath.Path(folder)
    of_contrasts = {"contrasts": contrasts} if contrasts else {}
    if contrasts and package_files.is_one(place):
        raise errors.UserError(
            f"--input: found {', '.join(contrasts)} for a packaged model; accepted: a path alone"
        )
    reader: Any = packaged_model if package_files.is_one(place) else run_model
    known = reader.read_calibration(place, calibration, **of_contrasts)
    config = config_dict.ConfigDict(reader.read_config(place, known))
    # Thresholds hold for maps of the precision that the run was calibrated with.
    if "matmul_precision" in config:
        process_settings.set_precision(config)
    return reader.load(place, config, known, **of_contrasts)


def contrasts_of(folder: str) -> tuple[str, ...]:
    """The contrasts that each person's files are given by; () for a model that takes a scan alone.

    Args:
      folder: as `model_names.locate` gives it.

    Raises:
      UserError: no model there.
    """
    from etils import epath

    from madad_jax.predict import package_files, run_model

    place = epath.Path(folder)
    return () if package_files.is_one(place) else run_model.contrasts_of(place)


def find_template(model: Any, path: str, weeks: float | None) -> Any:
    """The model with the template that scans of this age are registered to.

    Args:
      model: from `open_model`.
      path: file or folder of the user's own; "" for models on ICBM152.
      weeks: gestational age; None: not given.

    Raises:
      UserError: another template than its training slices were registered to, or none.
    """
    from madad_jax.scans import given_template

    known = model.preparation
    if weeks is not None:
        given_template.check_weeks(weeks, "--gestational_age")
    recorded = () if known is None else known.template
    where = f"--checkpoint={model.where}"
    found = given_template.find_recorded(recorded, path, weeks, where)
    if not found:
        return model
    return dataclasses.replace(model, preparation=dataclasses.replace(known, template=found))


def build_detector(
    detector: Any,
    model: Any,
    setting: Any,
    registration: str,
    brain_mask: str,
    slices: str,
    batch_size: int,
    files: Mapping[str, str] | None = None,
) -> Any:
    """A `Detector` of a model that is open; with `files` a `StackedDetector` of them.

    Args:
      detector: the module `predict.detector`, which commands import late.
      model: from `open_model`, or `find_template`.
      setting: signal, post-processing and operating point.
      registration, brain_mask, slices, batch_size: as in `load`.

    Raises:
      UserError: where the training slices lie is not known, or a value is not accepted.
    """
    from madad_jax.predict import model as model_lib

    if model.preparation is None:
        raise errors.UserError(
            f"--checkpoint={model.where}: the run does not say where its training slices lie, so "
            "that no scan can be cut alike; put a preparation.json there, with 'geometry' and "
            "'modality' (see data/provenance.py), or train on slices made by madad_jax.prepare"
        )
    changes: dict[str, Any] = {"registration": registration, "brain_mask": brain_mask}
    # An empty value keeps what training did.
    preparation = dataclasses.replace(model.preparation, **{k: v for k, v in changes.items() if v})
    facts = None if model.calibration is None else model.calibration.facts
    numbers = _choose_numbers(slices, preparation, facts)
    # A scan's score is taken over its slices: healthy scans on other slices are no yardstick.
    if setting.healthy is not None and slices and list(facts["numbers"]) != list(numbers):
        raise errors.UserError(
            f"slices: found {slices}, but the calibration holds for "
            f"{':'.join(map(str, facts['numbers']))}; leave it out, or calibrate with it"
        )
    first, last, step = numbers
    known = model.calibration
    # Looks of other slices are no yardstick either.
    same = known is not None and list(known.facts.get("numbers", ())) == list(numbers)
    rows = model_lib.compiled_batch_size(model, batch_size)
    positional = (model.scorer, preparation, tuple(range(first, last + 1, step)), setting)
    named = {
        "batch_size": rows,
        "facts": model.facts,
        "looks": known.looks if same else None,
    }
    if files:
        from madad_jax.predict import stacked_detector

        data = model.parts.data
        of_run = {"names": data.contrasts, "neighbours": data.neighbours}
        return stacked_detector.StackedDetector(*positional, files=files, **of_run, **named)
    size = model.parts.data.image_size
    return detector.Detector(*positional, warm=lambda: model.scorer.prepare(rows, size), **named)


def _choose_numbers(
    text: str, preparation: Any, facts: dict[str, Any] | None
) -> tuple[int, int, int]:
    """(first, last, step) of the slices to score."""
    if text:
        try:
            first, last, step = (int(part) for part in text.split(":"))
        except ValueError:
            first, last, step = 0, -1, 0
        if step < 1 or last < first:
            raise errors.UserError(f"slices: found '{text}', accepted: first:last:step, as 60:90:2")
        return first, last, step
    # Before the training's own: thresholds hold for the slices that were calibrated.
    if facts is not None:
        from madad_jax.scans import preparation as preparation_lib

        return preparation_lib.check_numbers(facts["numbers"])
    if preparation.numbers is not None:
        return preparation.numbers
    from madad_jax.scans import slices as slices_lib

    # Nothing is known of the training slices' numbers: all levels of the template.
    every = slices_lib.numbers("volume", preparation.geometry)
    return every[0], every[-1], 1
