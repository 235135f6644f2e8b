"""Gestational ages of scans: one for all, or a table's, each with a template near it."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence

from etils import epath

from madad_jax.core import atomic_files, errors, messages
from madad_jax.prepare import splits, subject
from madad_jax.scans import given_template

_COLUMNS = ("weeks", "gestational_age", "gestational_weeks", "ga")


@dataclasses.dataclass(frozen=True)
class Ages:
    """What is known of the scans' ages, in weeks of gestation.

    Attributes:
      of_all: one for every scan; None: not given.
      of_each: by the id of a scan or person; None: no table.
    """

    of_all: float | None = None
    of_each: dict[str, float] | None = None


def read(path: str) -> dict[str, float]:
    """{id: weeks} of a CSV or TSV file with a column of ids, as `splits` names them, and one of
    weeks.

    Raises:
      UserError: no such columns, no age in weeks, or two for one id.
    """
    place = epath.Path(path)
    try:
        text = atomic_files.read_bytes(place).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.UserError(f"--ages: '{path}' is no text file (UTF-8)") from error
    tabs = "\t" in text.partition("\n")[0]
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if tabs else ","))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    who = next((header.index(name) for name in splits.ID_COLUMNS if name in header), None)
    what = next((header.index(name) for name in _COLUMNS if name in header), None)
    if who is None or what is None:
        raise errors.UserError(
            f"--ages: '{path}' has the columns {messages.shorten(header)}; accepted: one of "
            f"{', '.join(splits.ID_COLUMNS)} and one of {', '.join(_COLUMNS)}"
        )
    found: dict[str, float] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        where = f"--ages: '{path}', line {number}"
        cell = row[what].strip() if len(row) > what else ""
        try:
            weeks = float(cell)
        except ValueError as error:
            raise errors.UserError(
                f"{where}: found '{messages.shorten(cell)}', accepted: weeks of gestation"
            ) from error
        weeks, name = given_template.check_weeks(weeks, where), row[who].strip()
        if found.setdefault(name, weeks) != weeks:
            raise errors.UserError(
                f"{where}: '{messages.shorten(name)}' has {found[name]:g} and {weeks:g} weeks; "
                "accepted: one age"
            )
    return found


def assign(
    items: Iterable[subject.Item], ages: Ages, templates: Sequence[given_template.Template]
) -> tuple[list[subject.Item], dict[str, str]]:
    """(items with their ages, {scan: why it is refused}).

    A table may name scans, people or files, as lists of splits do; the scan goes before the person.

    Args:
      items: scans.
      ages: of them.
      templates: that they are registered to; (): ICBM152, for which ages are recorded alone.

    Raises:
      UserError: the table names none of the scans.
    """
    placed, refused, named = [], {}, False
    for item in items:
        weeks = ages.of_all
        if ages.of_each is not None:
            names = splits.list_names(item)
            weeks = next((ages.of_each[name] for name in names if name in ages.of_each), None)
            named |= weeks is not None
        try:
            if ages.of_each is not None and weeks is None:
                raise errors.UserError("gestational age is missing: --ages does not name it")
            if templates:
                given_template.choose(templates, weeks)
            placed.append(dataclasses.replace(item, weeks=weeks))
        except errors.UserError as error:
            refused[item.scan] = str(error)
    if ages.of_each is not None and not named:
        raise errors.UserError(
            f"--ages: none of {len(refused)} scans is named; the table names "
            f"'{next(iter(ages.of_each), '')}', the scans are called '{next(iter(refused), '')}'"
        )
    return placed, refused
