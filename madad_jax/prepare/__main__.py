"""From the scanner to slices.

    python -m madad_jax prepare --cohort=ixi --in=IXI-T1 --out=data/ixi --modality=T1
    python -m madad_jax prepare --cohort=brats --in=BraTS2021 --out=data/brats21 \\
        --modality=T1,T1CE,T2,FLAIR --protocol=s2 --workers=8
    python -m madad_jax prepare --cohort=folder --cohort_file=ours.yaml --in=scans \\
        --out=data/ours
    python -m madad_jax prepare --cohort=folder --cohort_file=fetal.yaml --in=scans \\
        --out=data/fetal --template=atlas --ages=ages.csv --field_of_view=128
    python -m madad_jax prepare --cohort=bids --in=raw --out=data/raw --modality=T1 --healthy

Reads NIfTI files and DICOM series in any orientation, finds the brain, registers it to ICBM152
or to a template of your own, and writes slices in the layout that `data.source=png_folder` reads
(--format: and as `array_record` and `tfds` read them), with a manifest, a dataset card and a
contact sheet to look at. The same command again continues a stopped run and changes
nothing when all is done. docs/preparation.md has the details.

Exit status: 0 done; 1 some scans were refused (each is named with the reason, the rest is
prepared); 2 bad input, one line; 130 and 143 stopped by ctrl-C and SIGTERM.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import command_line, errors, folder_lock

_TEXT = {
    "in": ("", "Folder of the scans."),
    "out": ("", "Folder to write: new, empty, or prepared with the same options before."),
    "cohort_file": ("", "Table of --cohort=folder (YAML)."),
    "modality": ("", "One or more, with commas; the first gives brain mask and registration."),
    "splits": ("", "CSV with subject and split, or train=a.csv,val=b.csv,test=c.csv."),
    "format": (
        "png",
        "png, array_record, tfds, or several with commas: the same slices packed beside the PNG "
        "files, which are always kept (a later run continues from them).",
    ),
    "runner": (
        "local",
        "local (--workers processes here), or an Apache Beam runner: DirectRunner, DataflowRunner, "
        "FlinkRunner, SparkRunner, ... (pip install 'madad_jax[beam]').",
    ),
    "beam_options": ("", "Options of Apache Beam, e.g. '--project=p --region=r'."),
    "template": (
        "",
        "Brain without its skull, 0 outside (.nii, .nii.gz), that scans are registered to in place "
        "of ICBM152; or a folder with one a week of gestation, as STA28.nii.gz; the cohort's own.",
    ),
    "ages": ("", "CSV or TSV with id and weeks (of gestation); the cohort's own."),
    "fractions": ("", "Shares of train, val and test, e.g. 0.8,0.1,0.1; the cohort's own."),
}
_CHOICES = {
    "cohort": (
        None,
        ("brats", "ixi", "atlas", "mslub", "wmh", "bids", "folder"),
        "Table of the files.",
    ),
    "protocol": ("volume", ("s1", "s2", "volume"), "Which slices: mid-axial, twenty, or all."),
    "registration": (None, ("none", "affine"), "To the template; the cohort's own."),
    "brain_mask": (
        None,
        ("auto", "given", "nonzero", "template", "builtin", "hd-bet", "synthstrip"),
        "How the brain is found; the cohort's own.",
    ),
    "intensity": ("percentile", ("percentile", "zscore"), "Scaling inside the brain."),
    "interpolation": ("linear", ("linear", "cubic"), "Of images; masks take the nearest voxel."),
}
_NUMBERS = {
    "low": (1.0, "Percentile that becomes 0; 0 stands for the value 0."),
    "high": (99.0, "Percentile that becomes 1 (THOR: --low=0 --high=98)."),
    "field_of_view": (256.0, "Side of a slice, mm."),
    "least_brain": (0.02, "Slices with less brain than this share of the picture are left out."),
}
_COUNTS = {
    "image_size": (256, "Side of a slice, px."),
    "slice_step": (1, "Every so many mm (volume)."),
    "bits": (8, "Of a pixel, 8 or 16."),
    "seed": (0, "Of the division into splits."),
    "workers": (1, "Processes; each holds one scan (about 0.7 GB)."),
}
_SWITCHES = {
    "n4": "Correct the bias field first.",
    "dry_run": "Say what would be done with each scan, and do nothing.",
    "dcm2niix": "Have dcm2niix convert DICOM that is not read here.",
    "prune": "Remove scans prepared earlier whose files are gone.",
    "traceback": "Show tracebacks of user errors.",
}


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    for name, (default, meaning) in _TEXT.items():
        flags.DEFINE_string(name, default, meaning, flag_values=values)
    for name, (default, accepted, meaning) in _CHOICES.items():
        flags.DEFINE_enum(name, default, accepted, meaning, flag_values=values)
    for name, (default, meaning) in _NUMBERS.items():
        flags.DEFINE_float(name, default, meaning, flag_values=values)
    for name, (default, meaning) in _COUNTS.items():
        flags.DEFINE_integer(name, default, meaning, flag_values=values)
    for name, meaning in _SWITCHES.items():
        flags.DEFINE_bool(name, False, meaning, flag_values=values)
    flags.DEFINE_bool(
        "healthy",
        None,
        "Nobody in it has a lesion; the cohort's own. --cohort=bids needs it, or --nohealthy.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "gestational_age", None, "Of all scans, weeks; in place of --ages.", flag_values=values
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
        UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("cohort", "in", "out")):
        return 0
    # Here and not above: `--help` and mistyped flags answer at once.
    from madad_jax.data.sources import pack
    from madad_jax.prepare import card, dry_run
    from madad_jax.prepare import job as job_lib

    job = make_job(options)
    # PNG files are always written: they say what is done, and the others are packed from them.
    formats = [name for name in options.format.split(",") if name != "png"]
    # A mistyped format is found before hours of preparation, not after.
    pack.check(formats)
    if options.dry_run:
        return dry_run.show(job)
    summary = job_lib.prepare(job)
    if summary.rows and formats:
        with folder_lock.hold(job.out, "--out"):
            print("\n".join(pack.pack(job.out, job.out, formats)))
    print(f"\n{card.screen_text(summary)}\nwritten to {job.out}; look at contact_sheet.png")
    return 1 if summary.refused else 0


def make_job(options: flags.FlagValues):
    """The `run.Job` of a command line; the cohort's table fills in what is not given.

    Raises:
      UserError: unknown cohort, modality, split, or a value out of range.
    """
    from madad_jax.prepare import job as job_lib
    from madad_jax.prepare import splits, subject

    cohort = _load_cohort(options)
    modalities = tuple(name.strip() for name in options.modality.split(",") if name.strip())
    if not modalities:
        if len(cohort.images) > 1:
            raise errors.UserError(f"--modality is missing; accepted: {', '.join(cohort.images)}")
        modalities = tuple(cohort.images)
    # Its pictures would overwrite each other.
    if len(set(modalities)) < len(modalities):
        raise errors.UserError(f"--modality: '{options.modality}' names one twice")
    if options.splits and options.fractions:
        raise errors.UserError("--splits and --fractions exclude each other")
    fractions = cohort.fractions
    if options.fractions:
        shares = [share.strip() for share in options.fractions.split(",")]
        if len(shares) != 3:
            raise errors.UserError(
                f"--fractions: found '{options.fractions}', accepted: three shares of train, val "
                "and test"
            )
        fractions = dict(zip(splits.SPLITS, shares, strict=True))
    scan_ages = _read_ages(options, cohort.options)
    return job_lib.Job(
        cohort=cohort,
        # `in` is a keyword: no attribute of that name. Without a slash at its end, as paths are
        # kept relative to it.
        root=options["in"].value.rstrip("/") or "/",
        out=options.out,
        modalities=modalities,
        options=subject.Options(
            preparation=make_preparation(options, cohort.options, scan_ages),
            protocol=options.protocol,
            slice_step=options.slice_step,
            bits=options.bits,
            labels=cohort.labels,
            unjudged=cohort.unjudged,
            dcm2niix=options.dcm2niix,
        ),
        fractions=splits.check_fractions(fractions, "--fractions"),
        seed=options.seed,
        lists=splits.read_lists(options.splits) if options.splits else None,
        workers=options.workers,
        prune=options.prune,
        runner=options.runner,
        beam_options=options.beam_options,
        ages=scan_ages,
    )


def _load_cohort(options: flags.FlagValues):
    """The cohort's table, with what the command line says of its people's health."""
    from madad_jax.prepare import cohorts

    cohort = cohorts.load(options.cohort, options.cohort_file)
    if options.healthy is not None:
        return dataclasses.replace(cohort, healthy=options.healthy)
    # No file of the layout says it, and a guess would train on lesions or on nothing.
    if options.cohort == "bids":
        raise errors.UserError(
            "--healthy is missing: a BIDS data set does not say who has a lesion; accepted: "
            "--healthy (nobody), or --nohealthy (nobody knows; then no slice reaches train or val)"
        )
    return cohort


def _read_ages(options: flags.FlagValues, own: dict[str, Any]):
    """Gestational ages of a command line, or else of the cohort's table."""
    from madad_jax.prepare import ages
    from madad_jax.scans import given_template

    one, table = options.gestational_age, options.ages
    if one is not None and table:
        raise errors.UserError("--gestational_age and --ages exclude each other")
    if one is not None:
        return ages.Ages(of_all=given_template.check_weeks(one, "--gestational_age"))
    table = table or own.get("ages", "")
    return ages.Ages(of_each=ages.read(table)) if table else ages.Ages()


def make_preparation(options: flags.FlagValues, own: dict[str, Any], ages: Any = None):
    """The `preparation.Preparation` of a command line.

    Args:
      options: the flags.
      own: of the cohort's table, where flags leave them open.
      ages: of the scans: where one is that of all, the nearest template of a folder is taken.

    Raises:
      UserError: sizes of the slices out of range, or a template that cannot be used.
    """
    from madad_jax.scans import geometry, given_template, preparation, target

    path = options.template or own.get("template", "")
    templates = given_template.find(path) if path else ()
    if templates and (ages is None or ages.of_each is None):
        templates = (given_template.choose(templates, None if ages is None else ages.of_all),)
    sizes = (options.image_size, options.field_of_view)
    return preparation.Preparation(
        geometry=target.lay_slices(templates, *sizes) if path else geometry.Geometry(*sizes),
        registration=options.registration or own.get("registration", "affine"),
        shift=tuple(float(mm) for mm in own.get("shift", (0.0, 0.0, 0.0))),
        brain_mask=options.brain_mask or own.get("brain_mask", "auto"),
        intensity=options.intensity,
        low=options.low,
        high=options.high,
        n4=options.n4,
        interpolation=options.interpolation,
        least_brain=options.least_brain,
        template=templates,
    )


def main() -> None:
    """Entry point of `python -m madad_jax prepare`."""
    sys.exit(command_line.status("madad_jax prepare", run, sys.argv))


if __name__ == "__main__":
    main()
