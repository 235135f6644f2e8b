"""What is wrong with scans or slices, before anybody prepares, trains or predicts with them.

    madad-jax check --input=scans
    madad-jax check --input=IXI-T1 --cohort=ixi
    madad-jax check --input=data/ixi

Reads every scan below a folder to its end (NIfTI files and DICOM series), or every slice of a data
set (`{split}/{id}-slice_{k}-{modality}.png`), with the guards of the other commands. Prints a line
for each problem and a table, and writes a contact sheet. `--cohort` pairs scans with their masks
and checks those too; `--locate` also finds each brain and registers it, as preparation does.

Exit status: 0 nothing found; 1 problems found; 2 nothing usable, or bad input.
"""

import sys
from collections.abc import Sequence

from absl import flags
from etils import epath

from madad_jax.core import atomic_files, command_line, errors

_COHORTS = ("", "brats", "ixi", "atlas", "mslub", "wmh", "folder")


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    for name, default, meaning in (
        ("input", "", "Folder of scans, one scan, or folder of a data set's splits."),
        ("include", "", "Scans: pattern of paths below --input that are scans, and no others."),
        ("series", "", "Scans: number of the DICOM series; by the stated rules when left out."),
        ("cohort_file", "", "Table of --cohort=folder (YAML)."),
        ("sheet", "check.png", "Where the contact sheet goes; empty = none."),
    ):
        flags.DEFINE_string(name, default, meaning, flag_values=values)
    flags.DEFINE_enum("kind", "auto", ["auto", "scans", "slices"], "What lies there.",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_enum("cohort", "", _COHORTS, "Scans: table of the files.", flag_values=values)
    flags.DEFINE_bool("dcm2niix", False, "Scans: have dcm2niix convert DICOM that is not read.",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_bool("locate", False, "Scans: find each brain and register it (slow).",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_integer("workers", 1, "Scans at a time.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("input",)):
        return 0
    from madad_jax.data import reading
    from madad_jax.prepare import check_scans, check_slices, panels

    root = epath.Path(options.input)
    if not root.exists():
        raise errors.UserError(f"--input={options.input}: no such file or folder")
    if options.kind == "slices" or (options.kind == "auto" and check_slices.is_data_set(root)):
        unfit = [n for n in ("include", "cohort", "cohort_file") if options[n].value]
        if unfit or options.locate:
            flag = unfit[0] if unfit else "locate"
            raise errors.UserError(f"--{flag} belongs to scans; '{root}' holds slices")
        report = check_slices.check(root)
    else:
        report = check_scans.check(
            options.input,
            include=options.include,
            cohort=options.cohort,
            cohort_file=options.cohort_file,
            locate=options.locate,
            workers=options.workers,
            wish=reading.Wish(series=options.series, dcm2niix=options.dcm2niix),
        )
    print(f"\n{report.table()}\n\n{report.summary()}")
    if options.sheet and (content := panels.draw_panels(list(report.panels))):
        atomic_files.write_bytes(epath.Path(options.sheet), content)
        print(f"contact sheet: {options.sheet}")
    return report.exit_status


def main() -> None:
    """Entry point of `madad-jax check`."""
    sys.exit(command_line.status("madad_jax check", run, sys.argv))


if __name__ == "__main__":
    main()
