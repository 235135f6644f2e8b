"""Our figures beside the published ones: mean and interval over seeds, difference, in one table.

Two intervals are about two things and are never mixed: *over seeds* (Student's t, 95 %: another
training of the same method on the same kind of data) and *over subjects* (bootstrap, 95 %: other
patients, this training). Published numbers stand in `published.csv` with their source; they are
percent, ours are shares until they are written.
"""

import csv
import dataclasses
import importlib.resources
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from madad_jax.evaluation import tables

AVERAGE = "Avg"
# THOR leaves tiny lesions out of its mean, and so does `weighted`.
_SIZES = ("small", "medium", "large")
_CSV_COLUMNS = (
    "row",
    "column",
    "figure",
    "learns",
    "preset",
    "seeds",
    "mean",
    "seed_interval_low",
    "seed_interval_high",
    "subject_interval_low",
    "subject_interval_high",
    "published",
    "difference",
    "by_seed",
    "source",
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One evaluated cell: where it stands, the seed, and its result row."""

    row: str
    column: str
    seed: int
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its heading, the cells' column, the figure, and the published column.

    `figure` is a key of the result row; `by_size.small.KEY`; or `weighted.KEY`, the mean of KEY
    over small, medium and large lesions weighted by their number of slices, as THOR averages;
    `volumes.KEY` of whole scans, where they were judged; or `volumes.at.N.KEY` at the threshold
    for N false positives a scan.
    `better`: "high" or "low".
    """

    label: str
    cell: str
    figure: str
    published: str = ""
    better: str = "high"


@dataclasses.dataclass
class Entry:
    """One place of the table; figures are shares, `published` too."""

    row: str
    column: str
    figure: str
    learns: bool
    values: dict[int, float]
    mean: float | None
    low: float | None
    high: float | None
    subjects: list[float] | None
    published: float | None
    source: str
    presets: list[str]
    better: str = "high"

    @property
    def difference(self) -> float | None:
        """Ours minus the published figure."""
        if self.mean is None or self.published is None:
            return None
        return self.mean - self.published


def read_published(table: str) -> dict[tuple[str, str], tuple[float, str]]:
    """{(row, column): (share, source)} of a table of the paper."""
    text = importlib.resources.files("madad_jax.evaluation").joinpath("published.csv").read_text()
    return {
        (line["row"], line["column"]): (float(line["value"]) / 100.0, line["source"])
        for line in csv.DictReader(io.StringIO(text))
        if line["table"] == table
    }


def figure(result: Mapping[str, Any], name: str) -> float | None:
    """A figure of a result row; see `Column`."""
    kind, _, key = name.partition(".")
    if kind == "by_size":
        group, _, key = key.partition(".")
        return (result["by_size"].get(group) or {}).get(key)
    if kind == "weighted":
        groups = [result["by_size"][g] for g in _SIZES if g in result["by_size"]]
        if not groups or any(g[key] is None for g in groups):
            return None
        # A plain mean would let a handful of small lesions weigh as much as all the others.
        counts = [g["n_slices"] for g in groups]
        return float(np.average([g[key] for g in groups], weights=counts))
    if kind == "volumes":
        volumes = result.get("volumes") or {}
        if not key.startswith("at."):
            return volumes.get(key)
        asked, _, key = key[len("at.") :].partition(".")
        listed = volumes.get("at_false_positives", ())
        return next((one[key] for one in listed if one["asked"] == float(asked)), None)
    return result.get(name)


def seed_interval(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """(mean, low, high): Student's 95 % interval of the mean over seeds; no ends for one seed."""
    if not len(values):
        return None, None, None
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    # Few seeds: Student's t, 12.7 standard errors for two of them where a normal law says 1.96.
    half = special.stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(mean - half), float(mean + half)


def entries(
    results: Iterable[Result], rows: Sequence[str], columns: Sequence[Column], table: str
) -> list[Entry]:
    """Every place of the table in reading order; baselines first, then `rows`.

    With several cell columns whose last is `AVERAGE`, that one is the mean over the others of the
    same seed, where all of them are there.
    """
    results = list(results)
    published = read_published(table)
    baselines = [r.row for r in results if not r.result["learns"]]
    out = []
    for row in [*dict.fromkeys(baselines), *rows]:
        mine = [r for r in results if r.row == row]
        for column in columns:
            values = _values(mine, column, columns)
            mean, low, high = seed_interval(list(values.values()))
            if row in baselines and len(set(values.values())) == 1:
                low = high = None  # no seed was drawn, so that there is no spread to state
            here = [r for r in mine if r.column == column.cell]
            # Rows and columns that the paper does not have stay without a difference.
            known = published.get((row, column.published or column.label), (None, ""))
            # The lowest seed stands for its subjects: intervals over people cannot be averaged over
            # trainings.
            first = min(here, key=lambda r: r.seed).result if here else {}
            out.append(
                Entry(
                    row=row,
                    column=column.label,
                    figure=column.figure,
                    learns=row not in baselines,
                    values=values,
                    mean=mean,
                    low=low,
                    high=high,
                    subjects=(first.get("intervals") or {}).get(column.figure),
                    published=known[0],
                    source=known[1],
                    presets=sorted({str(r.result.get("preset")) for r in mine}),
                    better=column.better,
                )
            )
    return out


def _values(mine: Sequence[Result], column: Column, columns: Sequence[Column]) -> dict[int, float]:
    """The figure by seed."""
    if column.cell != AVERAGE:
        found = {r.seed: figure(r.result, column.figure) for r in mine if r.column == column.cell}
        return {seed: value for seed, value in sorted(found.items()) if value is not None}
    parts = [_values(mine, c, columns) for c in columns if c.cell != AVERAGE]
    # A seed that lacks a column would have an average over other columns than the rest.
    seeds = set.intersection(*(set(p) for p in parts)) if parts else set()
    return {seed: float(np.mean([p[seed] for p in parts])) for seed in sorted(seeds)}


# Writing.


def _cell(entry: Entry) -> str:
    """`76.0 ± 0.8 (76.2, -0.2)`: ours over seeds, the published figure, the difference."""
    ours = tables.MISSING
    if entry.mean is not None:
        ours = f"{100 * entry.mean:.1f}"
        if entry.high is not None:
            ours += f" ± {100 * (entry.high - entry.mean):.1f}"
    if entry.published is None:
        return ours
    theirs = f"{100 * entry.published:.1f}"
    if entry.difference is not None:
        theirs += f", {100 * entry.difference:+.1f}"
    return f"{ours} ({theirs})"


def _grid(found: Sequence[Entry], write) -> tuple[list[dict[str, Any]], list[tables.Column]]:
    # A dict keeps the order of first appearance, which a set would lose.
    labels = list(dict.fromkeys(e.column for e in found))
    rows: dict[str, dict[str, Any]] = {}
    for e in found:
        line = rows.setdefault(e.row, {"method": e.row, "preset": ", ".join(e.presets) or "—"})
        line[e.column] = write(e)
    plain = [tables.Column(name, name, "text", "") for name in labels]
    columns = [tables.METHOD, *plain, tables.Column("preset", "Preset", "text", "")]
    return list(rows.values()), columns


def markdown(found: Sequence[Entry]) -> str:
    """The table with `_cell`s."""
    return tables.markdown(*_grid(found, _cell))


def subjects_markdown(found: Sequence[Entry]) -> str:
    """The lowest seed's figure with its bootstrap interval over subjects; "" where none has."""

    def write(e: Entry) -> str:
        if not e.values:
            return tables.MISSING
        shown = f"{100 * next(iter(e.values.values())):.1f}"
        if e.subjects is None:
            return shown
        return f"{shown} [{100 * e.subjects[0]:.1f}, {100 * e.subjects[1]:.1f}]"

    if all(e.subjects is None for e in found):
        return ""
    return tables.markdown(*_grid([e for e in found if e.values], write))


def costs_markdown(results: Iterable[Result], rows: Sequence[str]) -> str:
    """Parameters and CPU minutes a learned row; "" where no row says them."""
    results, lines = list(results), []
    for row in rows:
        mine = [r.result for r in results if r.row == row and r.result["learns"]]
        numbers = {r["parameters"] for r in mine if r.get("parameters")}
        minutes = [r["cpu_minutes"] for r in mine if r.get("cpu_minutes") is not None]
        if numbers or minutes:
            line = {"method": row}
            if numbers:
                line["numbers"] = ", ".join(f"{n / 1e6:.2f} M" for n in sorted(numbers))
            if minutes:
                line["minutes"] = f"{np.mean(minutes):.1f}"
            lines.append(line)
    columns = [
        tables.METHOD,
        tables.Column("numbers", "Parameters", "text", ""),
        tables.Column("minutes", "CPU minutes", "text", ""),
    ]
    return tables.markdown(lines, columns) if lines else ""


def latex(found: Sequence[Entry], caption: str) -> str:
    """The same as `markdown`, with booktabs."""
    return tables.latex(*_grid(found, _cell), caption=caption).replace("±", r"$\pm$")


def csv_text(found: Sequence[Entry]) -> str:
    """One line a place, full precision, every seed's figure, and where the published one stands."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for e in found:
        # repr keeps every digit of a float, so that the table can be computed again from the file.
        by_seed = " ".join(f"{seed}:{value!r}" for seed, value in e.values.items())
        line = [e.row, e.column, e.figure, e.learns, " ".join(e.presets), len(e.values), e.mean]
        line += [e.low, e.high, *(e.subjects or (None, None)), e.published, e.difference]
        writer.writerow(["" if v is None else v for v in (*line, by_seed, e.source)])
    return out.getvalue()


def verdicts(found: Sequence[Entry]) -> list[str]:
    """One sentence a learned row: where it is not above every baseline."""
    out = []
    for row in dict.fromkeys(e.row for e in found if e.learns):
        ahead, behind = [], []
        for mine in (e for e in found if e.row == row and e.mean is not None):
            rivals = [
                e for e in found if not e.learns and e.column == mine.column and e.mean is not None
            ]
            if not rivals:
                continue
            # False alarms are better low: the comparison turns round with the figure.
            sign = -1 if mine.better == "low" else 1
            best = max(rivals, key=lambda e: sign * e.mean)
            words = (
                f"{mine.column} {100 * mine.mean:.1f} against {100 * best.mean:.1f} of {best.row}"
            )
            (ahead if sign * mine.mean > sign * best.mean else behind).append(words)
        if behind:
            out.append(f"**{row} does not beat what learns nothing** in {'; '.join(behind)}.")
        elif ahead:
            out.append(f"{row} is better than every row that learns nothing: {'; '.join(ahead)}.")
    return out
