"""Result rows as Markdown, CSV and LaTeX tables.

Figures are shares in the rows and percent in the tables; † marks a figure whose threshold was
chosen with the truth, — a figure that could not be computed.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

ORACLE_MARK = "†"
MISSING = "—"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: the row's key, its heading, and how its values are written.

    `kind`: "percent" (with the interval of the same key when the row has one), "number", "text".
    `better`: "high" or "low" sets the best value in bold; "" does not.
    """

    key: str
    label: str
    kind: str = "percent"
    better: str = "high"


METHOD = Column("method", "Method", "text", "")
MAIN = (
    METHOD,
    Column("ap", "AP"),
    Column("pooled_max_dice", f"Pooled max Dice{ORACLE_MARK}"),
    Column("max_dice", f"Max Dice per slice{ORACLE_MARK}"),
    Column("max_dice_lesion_slices", f"The same, slices with a lesion{ORACLE_MARK}"),
    Column("auroc", "AUROC"),
    Column("pooled_dice_healthy", "Pooled Dice, healthy threshold"),
    Column("dice_healthy", "Dice per slice, healthy threshold"),
)
ALARMS = (
    METHOD,
    Column("healthy_threshold", "Threshold", "number", ""),
    Column("precision_healthy", "Pixel precision"),
    Column("recall_healthy", "Pixel recall"),
    Column("alarm_pixels", "Pixels that make an alarm", "number", ""),
    Column("false_alarm_slices_healthy", "Healthy slices alarmed", better="low"),
    Column("false_alarm_pixels_healthy", "Healthy brain pixels above", better="low"),
    Column("false_alarm_pixels_oracle", f"The same, oracle threshold{ORACLE_MARK}", better="low"),
    Column("image_auroc_max", "Slice AUROC (max)"),
    Column("image_auroc_mean", "Slice AUROC (mean)"),
)
REGIONS = (
    METHOD,
    Column("aupro", "AUPRO (to 30 % FPR)"),
    Column("n_regions", "Regions", "number", ""),
    Column("n_subjects", "Subjects", "number", ""),
)
SCANS = (
    METHOD,
    Column("dice_healthy", "3-D Dice, healthy threshold"),
    Column("dice_oracle", f"3-D Dice, best common threshold{ORACLE_MARK}"),
    Column("sensitivity_healthy", "Lesions found, healthy threshold"),
    Column("false_positives_per_scan", "False positives a scan", "number", "low"),
    Column("false_positives_per_healthy_scan", "The same, healthy scans", "number", "low"),
    Column("sensitivity_at_1", f"Lesions found at 1 false positive{ORACLE_MARK}"),
    Column("sensitivity_at_4", f"at 4{ORACLE_MARK}"),
    Column("sensitivity_at_8", f"at 8{ORACLE_MARK}"),
)
GROUP = (
    Column("group", "Group", "text", ""),
    Column("n_slices", "Slices", "number", ""),
    METHOD,
    Column("ap", "AP"),
    Column("pooled_max_dice", f"Pooled max Dice{ORACLE_MARK}"),
    Column("max_dice", f"Max Dice per slice{ORACLE_MARK}"),
    Column("dice_oracle", f"Dice per slice, one threshold for all{ORACLE_MARK}"),
    Column("dice_healthy", "Dice per slice, healthy threshold"),
)


def text(row: dict[str, Any], column: Column) -> str:
    """One cell, e.g. `66.2 [57.6, 72.9]` for a percent with its interval."""
    value = row.get(column.key)
    if value is None:
        return MISSING
    if column.kind == "percent":
        interval = (row.get("intervals") or {}).get(column.key)
        shown = f"{100 * value:.1f}"
        return f"{shown} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else shown
    # Four digits: a threshold must be told from its neighbour, and a count is an int anyway.
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """A GitHub table; the best value of each column in bold when there are several rows."""
    best = [_best(rows, c) for c in columns]
    lines = [
        _line([_escape_markdown(c.label) for c in columns]),
        _line(["---" if c.kind == "text" else "---:" for c in columns]),
    ]
    for row in rows:
        cells = []
        for column, top in zip(columns, best, strict=True):
            cell = _escape_markdown(text(row, column))
            cells.append(f"**{cell}**" if top is not None and row.get(column.key) == top else cell)
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def csv_text(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> str:
    """CSV with one column a figure (a share, full precision) and two for its interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    # Two more columns for a figure if any row has its interval, so that all lines are as long.
    with_interval = {
        c.key for c in columns for r in rows if (r.get("intervals") or {}).get(c.key) is not None
    }
    writer.writerow(
        name
        for c in columns
        for name in ([c.key, *_ends(c.key)] if c.key in with_interval else [c.key])
    )
    for row in rows:
        line = []
        for column in columns:
            value = row.get(column.key)
            line.append("" if value is None else value)
            if column.key in with_interval:
                line.extend((row.get("intervals") or {}).get(column.key) or ["", ""])
        writer.writerow(line)
    return out.getvalue()


def latex(rows: Sequence[dict[str, Any]], columns: Sequence[Column], caption: str = "") -> str:
    """A `booktabs` table, best values in bold."""
    best = [_best(rows, c) for c in columns]
    body = []
    for row in rows:
        cells = []
        for column, top in zip(columns, best, strict=True):
            cell = _escape_latex(text(row, column))
            bold = top is not None and row.get(column.key) == top
            cells.append(rf"\textbf{{{cell}}}" if bold else cell)
        body.append(" & ".join(cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            *([rf"\caption{{{_escape_latex(caption)}}}"] if caption else []),
            rf"\begin{{tabular}}{{{''.join('l' if c.kind == 'text' else 'r' for c in columns)}}}",
            r"\toprule",
            " & ".join(_escape_latex(c.label) for c in columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def group_rows(
    rows: Sequence[dict[str, Any]], field: str, order: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Rows of `GROUP` from `row[field]` ("by_kind", "by_size"): groups in order, then methods."""
    names = list(order) + sorted({g for r in rows for g in r.get(field) or {}} - set(order))
    return [
        {"group": name, "method": row["method"], **row[field][name]}
        for name in names
        for row in rows
        if name in (row.get(field) or {})
    ]


def _best(rows: Sequence[dict[str, Any]], column: Column) -> float | None:
    values = [r[column.key] for r in rows if r.get(column.key) is not None]
    # Bold among one would say that it won against somebody.
    if not column.better or len(values) < 2:
        return None
    return max(values) if column.better == "high" else min(values)


def _ends(key: str) -> list[str]:
    return [f"{key}_low", f"{key}_high"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_markdown(cell: str) -> str:
    return cell.replace("|", r"\|").replace("\n", " ")


def _escape_latex(cell: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "†": r"\textsuperscript{$\dagger$}",
        "—": "--",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    # Letter by letter: replacing in turn would escape what the last replacement wrote.
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in cell)
