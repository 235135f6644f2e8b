"""What a check found: rows of a table, lines of problems, and the exit status they come to."""

import dataclasses

from madad_jax.core import messages
from madad_jax.prepare import panels as panels_lib

_MOST_LINES = 5  # Of one kind: a split of 10,000 broken files is one fault.


@dataclasses.dataclass(frozen=True)
class Row:
    """One scan, or one split and modality.

    Attributes:
      name: as a person knows it.
      cells: of the report's columns after the first.
      problems: a sentence each.
      usable: whether anything can be done with it.
    """

    name: str
    cells: tuple[str, ...]
    problems: tuple[str, ...]
    usable: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """All rows, with a few pictures.

    Attributes:
      what: "scans" or "splits", for the summary.
      columns: of the table, the first for names; problems are counted in one more.
      rows: in the order of the table.
      panels: of the contact sheet.
      notes: about the folder as a whole, which are no problems.
    """

    what: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    panels: tuple[panels_lib.Panel, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 without a problem, 2 where no row is usable, else 1."""
        if not any(row.usable for row in self.rows):
            return 2
        return 1 if any(row.problems for row in self.rows) else 0

    def table(self) -> str:
        """Columns of equal width, one line a row."""
        lines = [(*self.columns, "problems")]
        for row in self.rows:
            state = str(len(row.problems)) if row.usable else "not usable"
            lines.append((messages.shorten(row.name, 48), *row.cells, state))
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def summary(self) -> str:
        """How many rows are without a problem; what was noted about the folder."""
        good = sum(not row.problems for row in self.rows)
        lost = sum(not row.usable for row in self.rows)
        text = f"{good} of {len(self.rows)} {self.what} without a problem"
        text += f", {lost} not usable" if lost else ""
        return "\n".join([*self.notes, text])


def print_problems(row: Row) -> None:
    """A line for each problem of a row."""
    for problem in row.problems:
        print(f"{messages.shorten(row.name, 48)}: {messages.shorten(problem, 1000)}", flush=True)


def first_few(found: list[str]) -> list[str]:
    """Lines of one kind: the first five and how many more there are."""
    left = len(found) - _MOST_LINES
    return found if left <= 0 else [*found[:_MOST_LINES], f"and {left} more like this"]
