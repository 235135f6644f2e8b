"""Templates of the user's own: which file, for which week of gestation, and what is kept of them.

A file alone serves all scans. A folder holds one file a week of gestation, and a name says which
by the one number in it, as STA28.nii.gz does. Records keep names and digests and no paths: who
prepares a scan later gives the files again.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, messages

ENDINGS = (".nii.gz", ".nii")
WEEKS = (10.0, 45.0)  # Of gestation: what lies outside counts something else.
_MOST_WEEKS_OFF = 1.0
_MOST = 64  # Templates of a folder.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FORM = "a list of {file, sha256, week}"


@dataclasses.dataclass(frozen=True)
class Template:
    """A template's file.

    Attributes:
      file: its name.
      sha256: of its bytes.
      week: of gestation that it shows; None: not known, and not asked.
      path: where it lies here; "" in what was read from a record.
    """

    file: str
    sha256: str
    week: float | None = None
    path: str = dataclasses.field(default="", compare=False)


def find(path: epath.PathLike) -> tuple[Template, ...]:
    """The template of a file, or those of a folder by rising week.

    Raises:
      UserError: nothing there, another kind of file, or a folder whose names do not say one week
        each.
    """
    place = epath.Path(path)
    if not place.is_dir():
        if not place.exists():
            raise errors.UserError(f"template: found no '{place}'; accepted: a file or a folder")
        if not place.name.endswith(ENDINGS):
            raise errors.UserError(
                f"template: found '{place.name}', accepted: {', '.join(ENDINGS)}, or a folder"
            )
        return (_make(place, None),)
    names = sorted(inner.name for inner in place.iterdir())
    names = [name for name in names if name.endswith(ENDINGS) and not name.startswith(".")]
    if not 1 <= len(names) <= _MOST:
        raise errors.UserError(
            f"template: '{place}' holds {len(names)} files that end in {' or '.join(ENDINGS)}; "
            f"accepted: 1 to {_MOST}, one a week"
        )
    by_week: dict[float, str] = {}
    for name in names:
        week = _read_week(name)
        if week in by_week:
            raise errors.UserError(
                f"template: '{place}': found '{by_week[week]}' and '{name}' for week {week:g}; "
                "accepted: one file a week"
            )
        by_week[week] = name
    return tuple(_make(place / by_week[week], week) for week in sorted(by_week))


def _make(path: epath.Path, week: float | None) -> Template:
    return Template(path.name, atomic_files.sha256(path), week, str(path))


def _read_week(name: str) -> float:
    stem = next(name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending))
    numbers = re.findall(r"\d+(?:\.\d+)?", stem)
    if len(numbers) != 1:
        found = ", ".join(numbers) or "no number"
        raise errors.UserError(
            f"template: '{messages.shorten(name)}': found {found}; accepted: names with exactly "
            "one number, the week of gestation, as STA28.nii.gz"
        )
    return check_weeks(float(numbers[0]), f"template: '{messages.shorten(name)}'")


def check_weeks(weeks: float, where: str) -> float:
    """A gestational age. Raises UserError, which begins with `where`, for no age in weeks."""
    if not WEEKS[0] <= weeks <= WEEKS[1]:  # NaN is not.
        raise errors.UserError(
            f"{where}: found {weeks:g}, accepted: {WEEKS[0]:g} to {WEEKS[1]:g} weeks of gestation"
        )
    return weeks


def choose(templates: Sequence[Template], weeks: float | None) -> Template:
    """The one that a scan of this age is registered to: a file alone, else the nearest week's.

    Of two weeks that are equally near it is the younger.

    Raises:
      UserError: an age is needed, or no template is within a week of it.
    """
    if len(templates) == 1 and (weeks is None or templates[0].week is None):
        return templates[0]
    known = f"{templates[0].week:g} to {templates[-1].week:g} weeks"
    if weeks is None:
        raise errors.UserError(
            f"gestational age is missing: the templates show {known}; accepted: "
            "--gestational_age=WEEKS, or --ages=TABLE where scans are prepared"
        )
    nearest = min(templates, key=lambda template: (abs(template.week - weeks), template.week))
    if abs(nearest.week - weeks) > _MOST_WEEKS_OFF:
        raise errors.UserError(
            f"gestational age: found {weeks:g} weeks, the nearest template '{nearest.file}' shows "
            f"{nearest.week:g}; accepted: within {_MOST_WEEKS_OFF:g} week of a template ({known})"
        )
    return nearest


def find_recorded(
    recorded: Sequence[Template], path: str, weeks: float | None, where: str
) -> tuple[Template, ...]:
    """What a scan is registered to by a model whose slices were registered to `recorded`.

    Args:
      recorded: of the model's record; () for the built-in one.
      path: file or folder that is given now; "" = none.
      weeks: gestational age of the scan.
      where: names the model in messages.

    Returns:
      One template with its path; () for the built-in one.

    Raises:
      UserError: none is given and one is needed, or the other way round, or another one.
    """
    if not recorded:
        if path or weeks is not None:
            flag = "--template" if path else "--gestational_age"
            raise errors.UserError(
                f"{flag}: found with {where}, which was trained on scans registered to ICBM152; "
                "accepted: a model of slices that prepare --template=... made"
            )
        return ()
    files = messages.shorten(", ".join(template.file for template in recorded))
    if not path:
        raise errors.UserError(
            f"--template is missing: {where} was trained on scans registered to {files}; "
            "accepted: predict --template=... with the same file or folder"
        )
    found = choose(find(path), weeks)
    same = next((template for template in recorded if template.sha256 == found.sha256), None)
    if same is None:
        raise errors.UserError(
            f"--template: found '{found.file}' (sha256 {found.sha256[:12]}...), accepted for "
            f"{where}: {files} ({', '.join(t.sha256[:12] + '...' for t in recorded[:3])})"
        )
    # A file of a folder that is given alone is held against the age as the folder is.
    return (choose((dataclasses.replace(same, path=found.path),), weeks),)


def to_list(templates: Iterable[Template]) -> list[dict[str, Any]]:
    """For JSON; see `from_list`."""
    kept = ("file", "sha256", "week")
    return [{key: getattr(template, key) for key in kept} for template in templates]


def from_list(values: Any) -> tuple[Template, ...]:
    """The inverse of `to_list`.

    Raises:
      UserError: something else.
    """
    if not isinstance(values, (list, tuple)) or len(values) > _MOST:
        raise errors.UserError(f"template: found {messages.shorten(values)}, accepted: {_FORM}")
    found = []
    for value in values:
        known = isinstance(value, dict) and {"file", "sha256"} <= value.keys()
        week = value.get("week") if known else None
        known = known and isinstance(value["file"], str) and isinstance(value["sha256"], str)
        known = known and (week is None or type(week) in (int, float))
        if not known or not _DIGEST.fullmatch(value["sha256"]):
            raise errors.UserError(f"template: found {messages.shorten(value)}, accepted: {_FORM}")
        if week is not None:
            week = check_weeks(float(week), "template: week")
        found.append(Template(value["file"], value["sha256"], week))
    if len(found) > 1 and any(template.week is None for template in found):
        raise errors.UserError("template: found several without a week; accepted: a week each")
    return tuple(found)
