"""The models that come with the package.

    madad-jax models

A model of another folder is described by its model.json and README.md.
"""

import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from madad_jax.core import command_line, messages
from madad_jax.predict import model_names

if TYPE_CHECKING:
    from madad_jax.predict import package_files

_COLUMNS = ("name", "contrast", "levels scored (mm)", "ages", "licence")


def make_flags() -> flags.FlagValues:
    """The options."""
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def describe(models: "Sequence[package_files.About]") -> str:
    """A table with a row a model, and below it the figures of each."""
    rows = [_COLUMNS, *(_row(about) for about in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(word.ljust(n) for word, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for about in models:
        if about.figures:
            lines += ["", about.name]
        for label, text in about.figures.items():
            line = f"{messages.shorten(label)}: {messages.shorten(text, 1000)}"
            lines += textwrap.wrap(line, 100, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _row(about: "package_files.About") -> tuple[str, ...]:
    low, high = about.levels_mm
    ages = "not known" if about.ages is None else f"{about.ages[0]:g} to {about.ages[1]:g}"
    words = (about.name, about.modality, f"{low:g} to {high:g}", ages, about.licence)
    return tuple(messages.shorten(word, 40) for word in words)


def run(argv: Sequence[str]) -> int:
    """Prints the table; returns the exit status.

    Raises:
      UserError: a shipped model is damaged.
    """
    if not command_line.parsed(make_flags(), argv, __doc__):
        return 0
    # Here and not above: `--help` needs no numpy.
    from madad_jax.predict import package_files

    found = model_names.shipped()
    if not found:
        print(
            "No model comes with this version; give --checkpoint the workdir of a run, or a folder "
            "made by madad-jax package."
        )
        return 0
    print(describe([package_files.read_about(folder) for folder in found.values()]))
    return 0


def main() -> None:
    """Entry point of `madad-jax models`."""
    sys.exit(command_line.status("madad_jax models", run, sys.argv))


if __name__ == "__main__":
    main()
