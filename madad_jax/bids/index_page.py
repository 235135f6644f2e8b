"""`index.html`: all images of a derived data set, to sort and to filter; one file, no network.

The table stands in the page itself, so that it is read without scripts too. Everything that comes
out of a record is escaped.
"""

import html
import importlib.resources
import urllib.parse
from typing import Any

from etils import epath

from madad_jax.bids import derivative, group_table
from madad_jax.core import atomic_files
from madad_jax.predict import result

# (column, head, whether its cells are numbers, places behind the point)
_SHOWN = (
    ("participant_id", "Person", False, 0),
    ("session_id", "Session", False, 0),
    ("image", "Image", False, 0),
    ("status", "Status", False, 0),
    ("score", "Score", True, 3),
    ("percentile", "Percentile", True, 0),
    ("candidates", "Candidates", True, 0),
    ("candidates_ml", "Volume, ml", True, 2),
    ("largest_region", "Largest lies in", False, 0),
    ("warnings", "Warnings, reasons", False, 0),
)
FILE = "index.html"


def write(out: epath.Path, rows: list[dict[str, Any]], contrast: str, table: str) -> None:
    """Writes the page.

    Args:
      out: the derived data set.
      rows: from `group_table.collect_rows`.
      contrast: of the images.
      table: name of the TSV file beside it.

    Raises:
      UserError: the folder cannot be written.
    """
    atomic_files.write_text(out / FILE, render(out, rows, contrast, table))


def render(out: epath.Path, rows: list[dict[str, Any]], contrast: str, table: str) -> str:
    """The page's text; arguments as `write` takes them."""
    people = {row["participant_id"] for row in rows}
    count = {status: sum(r["status"] == status for r in rows) for status in _statuses()}
    said = ", ".join(f"{number} {status}" for status, number in count.items() if number)
    parts = {
        "css": _asset("index.css"),
        "js": _asset("index.js"),
        "title": _text(f"Anomaly maps: {len(rows)} {contrast} images of {len(people)} people"),
        "not_a_device": _text(result.NOT_A_DEVICE),
        "headline": _text(f"{said or 'no images'}."),
        "table": _text(table),
        "heads": "".join(
            f'<th scope="col" aria-sort="none"{_kind(number)}><button type="button">{head}'
            "</button></th>"
            for _, head, number, _ in _SHOWN
        ),
        "options": "".join(f"<option>{status}</option>" for status in _statuses()),
        "rows": "\n".join(_row(out, row) for row in rows),
    }
    # One pass over the template's own marks: what is put in is never looked at again.
    pieces = _asset("index.html").split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _statuses() -> tuple[str, ...]:
    return group_table.DONE, group_table.FAILED, group_table.MISSING


def _row(out: epath.Path, row: dict[str, Any]) -> str:
    figure = derivative.figure_path(out, row["name"])
    picture = ""
    if row["status"] == group_table.DONE and figure.exists():
        picture = f' data-picture="{_link(out, figure)}"'
    cells = "".join(_cell(out, row, *column) for column in _SHOWN)
    return f'<tr data-status="{_text(row["status"])}"{picture}>{cells}</tr>'


def _cell(
    out: epath.Path, row: dict[str, Any], key: str, head: str, number: bool, places: int
) -> str:
    value = row[key]
    if key == "image":
        page = derivative.page_path(out, row["name"])
        shown = _text(value)
        if row["status"] == group_table.DONE and page.exists():
            shown = f'<a href="{_link(out, page)}">{shown}</a>'
        return f'<th scope="row">{shown}</th>'
    if key == "warnings":
        texts = [*value, *([row["reason"]] if row["reason"] else [])]
        return f"<td>{'<br>'.join(_text(text) for text in texts)}</td>"
    if value is None:
        return f"<td{_kind(number)}></td>"
    if number:
        # Sorted by the whole number, and not by what is shown of it.
        return f'<td{_kind(number)} data-value="{value!r}">{value:.{places}f}</td>'
    return f"<td>{_text(value)}</td>"


def _kind(number: bool) -> str:
    return ' class="number"' if number else ""


def _link(out: epath.Path, path: epath.Path) -> str:
    below = str(path)[len(str(out)) :].strip("/")
    return _text(urllib.parse.quote(below))


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _asset(name: str) -> str:
    return importlib.resources.files("madad_jax.bids").joinpath("assets", name).read_text()
