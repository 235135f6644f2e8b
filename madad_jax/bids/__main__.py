"""A BIDS app: anomaly maps of a BIDS data set, as a derived data set.

    madad-jax bids BIDS_DIR OUTPUT_DIR participant --n-procs=2
    madad-jax bids BIDS_DIR OUTPUT_DIR participant --participant-label 01 02
    madad-jax bids BIDS_DIR OUTPUT_DIR group

participant: scores sub-*/[ses-*/]anat/*_T1w.nii.gz, or the images of the model's contrast; of a
model of several, those of a session together, whichever are there. The same command again
continues. Jobs of different people may share OUTPUT_DIR.
group: one table and one page of all images, from what the participant level has left.

Research software, not a medical device. Exit status: 0 done; 1 some images failed; 2 bad input, one
line; 130 and 143 stopped by ctrl-C and SIGTERM after the images in work.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from madad_jax.core import command_line, errors
from madad_jax.core.version import VERSION
from madad_jax.predict import api, model_names
from madad_jax.runtime import huge_pages

LEVELS = PARTICIPANT, GROUP = ("participant", "group")
_CHANGES = ("smooth_mm", "median_mm", "erode_mm", "min_volume_ml")
_RATES = ("voxel_fpr", "false_positives_per_scan", "threshold")
_TEXTS = {  # as `madad-jax predict` has them
    "checkpoint": "name of a shipped model, or folder; the default model when left out",
    "signal": "map | mask_map | latent_map; map when left out",
    "postprocess": "none | min_volume | pddpm | dae; none when left out",
    "registration": "none | affine; as in training when left out",
    "brain_mask": "how the brain is found; as in training when left out",
    "slices": "first:last:step numbers of the slices; as calibrated when left out",
    "calibration": "file made by madad-jax calibrate; the model's own when left out",
    "space": "native | MNI152NLin2009aSym (beside native)",
}
_NUMBERS = {
    "voxel_fpr": "share of healthy brain voxels above the threshold",
    "false_positives_per_scan": "candidates that a healthy scan may have",
    "threshold": "the threshold itself, 0 to 1",
    "smooth_mm": "sigma of a Gaussian in 3-D",
    "median_mm": "side of a median filter",
    "erode_mm": "rim of the brain that is not scored",
    "min_volume_ml": "smaller candidates are dropped",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise errors.UserError(f"{message}; see --help")


def make_parser() -> argparse.ArgumentParser:
    """The command line that BIDS apps share, and the options of `predict`."""
    parser = _Parser(
        prog="madad-jax bids",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A shortened option would be another one's in the next version.
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", help="the source data set")
    parser.add_argument("output_dir", help="the derived data set: new, empty, or made by this")
    parser.add_argument("analysis_level", choices=LEVELS)
    for name, metavar, meaning in (
        ("participant_label", "LABEL", "people, with or without sub-; all when left out"),
        ("session_label", "LABEL", "sessions, with or without ses-; all when left out"),
    ):
        parser.add_argument(*_spell(name), nargs="+", default=[], metavar=metavar, help=meaning)
    parser.add_argument(
        *_spell("skip_bids_validation"),
        action="store_true",
        help="do not run bids-validator-deno first, which is run where it is installed",
    )
    parser.add_argument(
        "-w",
        *_spell("work_dir"),
        default="",
        help="folder of temporary files and compiled programs; the system's and the user's own",
    )
    parser.add_argument(*_spell("n_procs"), type=int, default=1, help="images at a time (1)")
    parser.add_argument(*_spell("batch_size"), type=int, default=16, help="slices at a time (16)")
    for name, meaning in _TEXTS.items():
        parser.add_argument(*_spell(name), default="", help=meaning)
    for name, meaning in _NUMBERS.items():
        parser.add_argument(*_spell(name), type=float, help=meaning)
    parser.add_argument(*_spell("no_report"), action="store_true", help="write no sub-*.html")
    parser.add_argument("--traceback", action="store_true", help="show tracebacks of user errors")
    parser.add_argument("--version", action="version", version=f"madad_jax {VERSION}")
    return parser


def _spell(name: str) -> list[str]:
    """`--n-procs` as BIDS apps write it, and `--n_procs` as the other commands do."""
    return list(dict.fromkeys([f"--{name.replace('_', '-')}", f"--{name}"]))


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_parser().parse_args(list(argv)[1:])
    for name in ("n_procs", "batch_size"):
        if getattr(options, name) < 1:
            found = getattr(options, name)
            raise errors.UserError(f"{_spell(name)[0]}: found {found}, accepted: 1 or more")
    if options.analysis_level == GROUP:
        return _write_group(options)
    # Before JAX starts: a mistyped name is answered at once.
    options.checkpoint = model_names.locate(options.checkpoint)
    if options.work_dir:
        _use_work_dir(options.work_dir)
    # May start this program again, for larger pages of memory: nothing may have happened yet.
    huge_pages.restart()
    return _score(options)


def _use_work_dir(folder: str) -> None:
    """Temporary files and compiled programs go there, of child processes too."""
    place = pathlib.Path(folder).absolute()
    try:
        (place / "tmp").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--work-dir={folder}: {error.strerror or error}") from error
    os.environ["TMPDIR"] = str(place / "tmp")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(place / "programs")


def _score(options: argparse.Namespace) -> int:
    """The analysis level `participant`."""
    from etils import epath

    from madad_jax.bids import output_dataset, participant_level, raw_dataset, validator
    from madad_jax.predict import scan_folder, spaces

    in_template = spaces.choose(options.space)
    dataset = raw_dataset.read(options.bids_dir, options.participant_label, options.session_label)
    if not options.skip_bids_validation:
        validator.check(options.bids_dir)
    # After the checks: starting JAX and reading a model takes seconds.
    from madad_jax.runtime import startup
    from madad_jax.runtime import stop as stop_lib

    startup.start()
    with stop_lib.GracefulStop(alone=True) as stop:
        out, contrasts = epath.Path(options.output_dir), api.contrasts_of(options.checkpoint)
        if contrasts:
            contrast, images = ",".join(contrasts), raw_dataset.select_together(dataset, contrasts)
            detector_of = _load_each(options, images)
        else:
            detector = _load(options)
            contrast = detector.preparation.modality
            images, detector_of = raw_dataset.select(dataset, contrast), lambda image: detector
        output_dataset.begin(out, dataset, contrast)
        rows = participant_level.score_images(
            detector_of,
            images,
            out,
            dataset.root,
            report=not options.no_report,
            in_template=in_template,
            workers=options.n_procs,
            stopped=lambda: stop.signal is not None,
        )
        for row in rows:
            if row["status"] != "failed":
                print(scan_folder.describe_row(row))
        failed = sum(row["status"] == "failed" for row in rows)
        print(f"{len(rows) - failed} of {len(images)} images in {out}; {failed} failed")
        print("Research software: not a medical device.")
        return stop.exit_status or (1 if failed else 0)


def _load_each(options: argparse.Namespace, images: Sequence[Any]) -> Callable[[Any], Any]:
    """image -> detector of its files: one is loaded for each set of contrasts that is there.

    Raises:
      UserError: no set can be scored; else the images of a set that cannot raise it.
    """
    made: dict[frozenset, Any] = {}
    for image in images:
        given = frozenset(image.files)
        if not image.fault and given not in made:
            try:
                made[given] = _load(options, image.files)
            except errors.UserError as error:  # not calibrated, as a rule: others may be
                made[given] = error
    failed = [found for found in made.values() if isinstance(found, errors.UserError)]
    if failed and len(failed) == len(made):
        raise failed[0]

    def detector_of(image: Any) -> Any:
        found = made[frozenset(image.files)]
        if isinstance(found, errors.UserError):
            raise found
        return found.of(image.files)

    return detector_of


def _load(options: argparse.Namespace, files: dict[str, str] | None = None) -> Any:
    """The detector that the options describe; with `files` one of their contrasts."""
    changes = {name: getattr(options, name) for name in _CHANGES}
    detector = api.load(
        pathlib.Path(options.checkpoint),
        **{name: getattr(options, name) for name in _RATES},
        signal=options.signal or "map",
        postprocess=options.postprocess or "none",
        changes={name: value for name, value in changes.items() if value is not None},
        registration=options.registration,
        brain_mask=options.brain_mask,
        slices=options.slices,
        calibration=options.calibration,
        batch_size=options.batch_size,
        files=files,
    )
    # A run's folder is a path of this machine: derived data sets are handed on.
    run_name = pathlib.PurePath(str(detector.facts["run"])).name
    detector.facts = {**detector.facts, "run": run_name}
    point = detector.setting.point
    of = f" with {', '.join(files)}" if files else ""
    print(f"threshold{of} {point.threshold:.4f} ({point.chosen_by} {point.asked:g})")
    return detector


def _write_group(options: argparse.Namespace) -> int:
    """The analysis level `group`."""
    from etils import epath

    from madad_jax.bids import entities, group_table, index_page, output_dataset, raw_dataset

    out = epath.Path(options.output_dir)
    contrast = output_dataset.read_contrast(out)
    dataset = raw_dataset.read(options.bids_dir)
    several = contrast.split(",")
    images = [image for image in dataset.images if image.name.contrast in several]
    if len(several) > 1:
        images = raw_dataset.join_sessions(images, several)
    rows = group_table.collect_rows(out, images)
    labels = (options.participant_label, options.session_label)
    if any(labels):
        chosen = {str(image.name) for image in raw_dataset.read(options.bids_dir, *labels).images}
        rows = [row for row in rows if row["image"] in chosen]
    suffix = entities.suffix(contrast)
    table = group_table.write(out, rows, suffix)
    index_page.write(out, rows, contrast, table.name)
    count = {s: sum(r["status"] == s for r in rows) for s in ("done", "failed", "missing")}
    said = ", ".join(f"{number} {status}" for status, number in count.items())
    print(f"{table}: {len(rows)} images ({said})")
    print(f"{out / index_page.FILE}: the same to sort and filter")
    return 0


def main() -> None:
    """Entry point of `madad-jax bids`."""
    command_line.show_log()
    sys.exit(command_line.status("madad_jax bids", run, sys.argv))


if __name__ == "__main__":
    main()
