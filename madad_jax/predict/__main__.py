"""Scans in, anomaly maps in the scanner's own space out.

    python -m madad_jax predict --input=scan.nii.gz --output=out/
    python -m madad_jax predict --example --output=out/
    python -m madad_jax predict --checkpoint=runs/x --input=scan.nii.gz --output=out/
    python -m madad_jax predict --checkpoint=runs/x --input=folder/ --output=out/ --voxel_fpr=0.005
    python -m madad_jax predict --checkpoint=runs/x --mode=calibrate --input=healthy/ \
        --output=site.npz
    python -m madad_jax predict --checkpoint=runs/x --mode=export --output=model/
    python -m madad_jax predict --checkpoint=runs/x --task=pixel --input=in/ --output=out/  (MOOD)

--checkpoint is the name of a model that comes with the package (`madad-jax models` lists them;
left out, the default one), the workdir of a run, or a folder made by `madad-jax package`. A plain
word is a name before it is a folder: ./NAME is the folder.

--example is the scan that comes with the package, in place of --input.

--image_pattern='{id}/anat/*_T1w{nii}' --brain_mask_pattern='{id}/anat/*_mask{nii}' pair the scans
of a folder with their brain masks, as the tables of `madad-jax prepare` do (docs/preparation.md).

A folder's masks, segmentations, `derivatives/` and scans named for another contrast are left out,
each with a line; --include='*_T1w.nii.gz' chooses by a pattern instead.

Per scan: anomaly.nii.gz, anomaly_mask.nii.gz, reconstruction.nii.gz, summary.json, report.html, of
a DICOM series dicom/anomaly_seg.dcm; beside them scans.csv and candidates.tsv (docs/dicom.md).
In Python:

    import madad_jax
    detector = madad_jax.load("runs/x")
    result = detector(nibabel.load("scan.nii.gz"))
    result.anomaly_image, result.mask_image, result.score, result.candidates

Research software, not a medical device. Exit status: 0 done; 1 some scans of a folder failed;
2 bad input, one line; 130 and 143 stopped by ctrl-C and SIGTERM after the scans in work; 75
another process of the job is gone.

`--distributed` shares a folder's scans over the processes of a job (found as `main` finds them):
process k of n takes every n-th from the k-th, on its own devices, and process 0 writes the table.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import atomic_files, command_line, errors
from madad_jax.predict import api, model_names
from madad_jax.runtime import huge_pages

MODES = ("predict", "calibrate", "export")
TASKS = ("files", "sample", "pixel")
_CHANGES = ("smooth_mm", "median_mm", "erode_mm", "min_volume_ml")
_RATES = ("voxel_fpr", "false_positives_per_scan", "threshold")


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    text = {
        "checkpoint": "Name of a shipped model, or folder; the default model when left out.",
        "input": "Image file, folder or .zip of DICOM files, or folder of these; for a run on "
        "several contrasts T1=FILE,FLAIR=FILE.",
        "series": "Number of the DICOM series; by the stated rules when left out.",
        "include": "Pattern of paths below --input (* fits anything): these are the scans.",
        "image_pattern": "Pattern with {id} of paths below --input: these are the scans.",
        "brain_mask_pattern": "The same of their brain masks, on each scan's grid.",
        "output": "Folder to write; with --mode=calibrate a .npz file.",
        "signal": "map | mask_map | latent_map; map when left out.",
        "postprocess": "none | min_volume | pddpm | dae (published); none when left out.",
        "registration": "none | affine; as in training when left out.",
        "brain_mask": "How the brain is found; as in training when left out.",
        "brain_mask_file": "A brain mask on the scan's grid (one scan).",
        "template": "File or folder of the training's own template; left out with ICBM152.",
        "slices": "first:last:step numbers of the slices; as calibrated when left out.",
        "calibration": "File made by --mode=calibrate; the model's own when left out.",
        "output_format": "nifti[,dicom][,dicom_map]; nifti,dicom of a series when left out.",
        "space": "native | MNI152NLin2009aSym (beside native).",
    }
    for name, meaning in text.items():
        flags.DEFINE_string(name, "", meaning, flag_values=values)
    numbers = {
        "voxel_fpr": "Share of healthy brain voxels above the threshold.",
        "false_positives_per_scan": "Candidates that a healthy scan may have.",
        "threshold": "The threshold itself, 0 to 1.",
        "smooth_mm": "Sigma of a Gaussian in 3-D.",
        "median_mm": "Side of a median filter.",
        "erode_mm": "Rim of the brain that is not scored.",
        "min_volume_ml": "Smaller candidates are dropped.",
        "gestational_age": "Of the scans, weeks, for a folder of templates.",
    }
    for name, meaning in numbers.items():
        flags.DEFINE_float(name, None, meaning, flag_values=values)
    flags.DEFINE_enum("mode", "predict", MODES, "What to do.", flag_values=values)
    flags.DEFINE_enum(
        "task", "files", TASKS, "sample | pixel: the MOOD challenge's.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 16, "Slices at a time.", 1, flag_values=values)
    flags.DEFINE_integer("workers", 1, "Scans at a time.", 1, 64, flag_values=values)
    flags.DEFINE_bool(
        "distributed", False, "Share the scans with other processes.", flag_values=values
    )
    flags.DEFINE_bool(
        "example", False, "Score the scan that comes with the package.", flag_values=values
    )
    flags.DEFINE_bool("dcm2niix", False, "Have dcm2niix convert DICOM that is not read here.",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_bool("report", True, "Write report.html.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("output",)):
        return 0
    if options.example:
        options.input = _locate_example(options)
    if options.mode != "export":
        command_line.require(options, ("input",))
    # Before JAX starts: a mistyped name is answered at once.
    options.checkpoint = model_names.locate(options.checkpoint)
    # May start this program again, for larger pages of memory: nothing may have happened yet.
    huge_pages.restart()
    # Here and not above: `--help` and mistyped flags answer without starting JAX.
    from madad_jax.runtime import startup
    from madad_jax.runtime import stop as stop_lib

    if options.distributed and options.mode != "predict":
        raise errors.UserError(f"--distributed: found with --mode={options.mode}, which is for one")
    startup.start(distributed=options.distributed)
    if options.mode == "export":
        print(api.export(options.checkpoint, options.output, options.calibration))
        return 0
    with stop_lib.GracefulStop(alone=True) as stop:
        work = _calibrate if options.mode == "calibrate" else _predict
        status = work(options, lambda: stop.signal is not None)
        return stop.exit_status or status


def _locate_example(options: flags.FlagValues) -> str:
    """The path of the scan that comes with the package.

    Raises:
      UserError: there is another scan, or nothing is predicted.
    """
    if options.input:
        raise errors.UserError(f"--example: found with --input={options.input}; accepted: one")
    if options.mode != "predict":
        raise errors.UserError(f"--example: found with --mode={options.mode}; accepted: predict")
    from madad_jax.predict import example

    return str(example.path())


def _find_scans(options: flags.FlagValues) -> tuple[list[Any], bool]:
    """(scans of --input, whether it is one scan), by patterns where they are given.

    Raises:
      UserError: nothing there, or flags that exclude each other.
    """
    from madad_jax.data import discovery, pairs

    if not options.image_pattern:
        if options.brain_mask_pattern:
            raise errors.UserError(
                "--brain_mask_pattern: found without --image_pattern, which says whose mask it is"
            )
        return discovery.discover(options.input, options.include)
    unfit = [name for name in ("include", "brain_mask_file") if options[name].value]
    if unfit:
        raise errors.UserError(f"--{unfit[0]}: found with --image_pattern; accepted: one of them")
    return pairs.find(options.input, options.image_pattern, options.brain_mask_pattern), False


def _find_files(options: flags.FlagValues, files: dict[str, str]) -> tuple[list[Any], bool]:
    """The scans of one person, one for each contrast, as one; and True.

    Raises:
      UserError: a path that does not exist, or a flag that is for folders.
    """
    from madad_jax.predict import stacked_detector

    unfit = [n for n in ("include", "image_pattern", "brain_mask_pattern") if options[n].value]
    if unfit or options.task != "files":
        flag = unfit[0] if unfit else "task"
        raise errors.UserError(f"--{flag}: found with --input=NAME=FILE; accepted: one of them")
    return stacked_detector.as_scans(files), True


def _predict(options: flags.FlagValues, stopped: Any) -> int:
    import jax

    from madad_jax.data import discovery
    from madad_jax.predict import stacked_detector
    from madad_jax.runtime import agreement

    _check_outputs(options)
    files = stacked_detector.parse(options.input)
    found, single = _find_files(options, files) if files else _find_scans(options)
    if single and jax.process_count() > 1:
        raise errors.UserError(f"--input={options.input}: one scan cannot be shared; no folder")
    # Its grid is that of one scan.
    if options.brain_mask_file and not single:
        raise errors.UserError(
            "--brain_mask_file belongs to one scan; give one as --input, or --image_pattern and "
            "--brain_mask_pattern for a folder"
        )
    detector = api.load(
        options.checkpoint,
        **{name: options[name].value for name in _RATES},
        signal=options.signal or "map",
        postprocess=options.postprocess or "none",
        changes=_postprocess_changes(options),
        registration=options.registration,
        brain_mask=options.brain_mask,
        slices=options.slices,
        calibration=options.calibration,
        batch_size=options.batch_size,
        series=options.series,
        dcm2niix=options.dcm2niix,
        files=files,
        template=options.template,
        gestational_age=options.gestational_age,
    )
    asked = single or bool(options.include or options.image_pattern)
    if not files:
        found = discovery.keep_contrast(found, detector.preparation.modality, asked=asked)
    point = detector.setting.point
    print(f"threshold {point.threshold:.4f} ({point.chosen_by} {point.asked:g})")
    with agreement.lock(options.output, "--output"):
        rows = _write_all(options, detector, found, single, stopped)
    failed = sum(row["status"] == "failed" for row in rows)
    print(f"{len(rows) - failed} of {len(found)} scans in {options.output}; {failed} failed")
    print("Research software: not a medical device.")
    return 1 if failed else 0


def _check_outputs(options: flags.FlagValues) -> None:
    """Refuses a mistyped output before anything is read.

    Raises:
      UserError: an unknown format or space, or one that the task does not write.
    """
    from madad_jax.predict import dicom_objects, spaces

    dicom_objects.choose(options.output_format)
    spaces.choose(options.space)
    for name in ("output_format", "space"):
        if options.task != "files" and options[name].value:
            raise errors.UserError(f"--{name}: found with --task={options.task}; accepted: files")


def _write_all(
    options: flags.FlagValues, detector: Any, found: list[Any], single: bool, stopped: Any
) -> list[dict[str, Any]]:
    """Scores this process's share of the scans into the output folder; the rows of the table."""
    import jax
    from etils import epath

    from madad_jax.predict import scan_folder

    index, count, out = jax.process_index(), jax.process_count(), epath.Path(options.output)
    common = {"workers": options.workers, "stopped": stopped}
    if options.task == "files":
        # Every n-th scan: processes' shares differ by one scan at most.
        rows = scan_folder.predict_scans(
            detector,
            found[index::count],
            out,
            single=single,
            brain_mask=options.brain_mask_file,
            report=options.report,
            output_format=options.output_format,
            space=options.space,
            process=index if count > 1 else None,
            **common,
        )
    else:
        rows = scan_folder.predict_for_mood(
            detector, found[index::count], out, options.task, **common
        )
    for row in rows:
        if row["status"] != "failed":
            print(scan_folder.describe_row(row))
    if count > 1 and options.task == "files":
        rows = _gather_rows(out, count)
    return rows


def _gather_rows(out: Any, count: int) -> list[dict[str, Any]]:
    """The rows of all processes, once the last has ended its share; process 0 writes the table."""
    from madad_jax.predict import scan_folder
    from madad_jax.runtime import agreement, watchdog

    # The table is merged from files that the slowest process has yet to write.
    watchdog.wait_for_all("scans")
    return agreement.from_first(lambda: scan_folder.merge_tables(out, count))


def _postprocess_changes(options: flags.FlagValues) -> dict[str, float]:
    found = {name: options[name].value for name in _CHANGES}
    return {name: value for name, value in found.items() if value is not None}


def _calibrate(options: flags.FlagValues, stopped: Any) -> int:
    """Healthy scans -> a calibration file, under every post-processing and the one asked for."""
    from madad_jax.data import discovery
    from madad_jax.predict import from_scans

    if not options.output.endswith(".npz"):
        raise errors.UserError(f"--output={options.output}: must end in .npz")
    found, single = _find_scans(options)
    if options.brain_mask_file:
        raise errors.UserError(
            "--brain_mask_file: found with --mode=calibrate; accepted: --image_pattern and "
            "--brain_mask_pattern"
        )
    model = api.open_model(options.checkpoint, "")
    model = api.find_template(model, options.template, options.gestational_age)
    if model.preparation is not None:
        asked = single or bool(options.include or options.image_pattern)
        found = discovery.keep_contrast(found, model.preparation.modality, asked=asked)

    def build(setting: Any, detector: Any) -> Any:
        names = ("registration", "brain_mask", "slices", "batch_size")
        given = [options[name].value for name in names]
        made = api.build_detector(detector, model, setting, *given)
        wish = {"series": options.series, "dcm2niix": options.dcm2niix}
        made.wish = dataclasses.replace(made.wish, **wish)
        return made

    calibration = from_scans.calibrate(
        model,
        build,
        found,
        postprocess=options.postprocess or "none",
        changes=_postprocess_changes(options),
        workers=options.workers,
        stopped=stopped,
    )
    if calibration is None:
        return 0  # stopped: the status says so
    content, scans, failed = calibration
    from etils import epath

    atomic_files.write_bytes(epath.Path(options.output), content)
    print(f"{options.output}: {scans} healthy scans; {failed} failed")
    return 1 if failed else 0


def main() -> None:
    """Entry point of `python -m madad_jax predict`."""
    command_line.show_log()
    status = command_line.status("madad_jax predict", run, sys.argv)
    if status == 2 and "jax" in sys.modules:
        from madad_jax.runtime import watchdog

        if watchdog.several():  # the ordinary way out waits for those who know nothing of it
            watchdog.end(status, "bad input, see its own line")
    sys.exit(status)


if __name__ == "__main__":
    main()
