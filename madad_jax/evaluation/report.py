"""Result rows to `results.jsonl` and `report.md`.

The report states what a reader would otherwise have to work out: whether the data is synthetic,
whether the detector beats the baselines, and which figures looked at the truth.
Every file is one atomic write.
"""

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.evaluation import lesion_tables, tables
from madad_jax.metrics import lesion_sums, threshold_counts

_LOG = logging.getLogger(__name__)

_INCLUDES_NONE = "which includes none at all"
_JUDGED = (("ap", "AP"), ("pooled_max_dice", "pooled max Dice"))
_ORACLE_NOTE = (
    f"{tables.ORACLE_MARK} oracle: the threshold was chosen with the truth in hand, as published "
    "tables do; no user without segmentations could choose it. *Healthy threshold*: chosen on "
    "healthy validation slices only.\n\n"
    "*Max Dice per slice* is the mean over slices at the best common threshold of 201; *pooled "
    "max Dice* (F1-max) takes all pixels as one pool. The two are not comparable, and published "
    'tables call both "max Dice". Percent; brackets: 95 % bootstrap interval over subjects.'
)


def append_results(path: epath.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds rows to a `results.jsonl`, all or none; those of the same method, set and step go.

    The method is known by `row["id"]` when there is one, else by `row["method"]`.

    Raises:
      UserError: the file holds a line that is not a JSON object, or cannot be written.
    """
    path = epath.Path(path)
    # The file is small and written anew: evaluating a run again must not leave two rows of one
    # method, of which a reader could take the older.
    kept = {_identity(row): row for row in read_results(path)}
    for row in rows:
        kept.pop(_identity(row), None)
        kept[_identity(row)] = dict(row)  # At the end, where the newest stand.
    # NaN is no JSON: other readers would refuse the line.
    lines = [json.dumps(r, allow_nan=False, default=_plain) + "\n" for r in kept.values()]
    atomic_files.write_text(path, "".join(lines))


def read_results(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of a `results.jsonl`; none when there is no file.

    A last line that breaks off, of a process that was killed, is left out with a warning.

    Raises:
      UserError: a whole line that is not a JSON object.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(atomic_files.read_bytes(path).splitlines(True), start=1):
        if not line.strip():
            continue
        try:
            row = json_file.parse_object(line, f"line {number}")
        except errors.UserError as error:
            if not line.endswith(b"\n"):
                _LOG.warning("%s: line %d breaks off and is left out", path, number)
                continue
            raise errors.UserError(
                f"{path}: found line {number} that is not a JSON object ({error}), "
                "accepted: one result row a line"
            ) from error
        rows.append(row)
    return rows


@contextlib.contextmanager
def explain_rows(path: epath.PathLike) -> Iterator[None]:
    """Names the file where a row of it is not as the program writes it, whatever is odd there.

    Raises UserError in place of what the look-ups and formats inside raise.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = messages.shorten(f"{type(error).__name__}: {error}")
        raise errors.UserError(
            f"{path}: a row is not as this program writes it ({reason}); evaluate the run again"
        ) from error


def write_report(
    path: epath.PathLike,
    *,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    panels: Sequence[epath.PathLike] = (),
    curves: Sequence[epath.PathLike] = (),
    config_summary: Mapping[str, Any] | str = "",
    cohort_note: str = "",
    notes: Sequence[str] | str = (),
) -> None:
    """Writes the Markdown report of a run.

    Args:
      path: the report; pictures are linked relative to its folder.
      title: its heading.
      rows: of `Evaluator.result`, any number of sets (`row["set"]`).
      panels: pictures of slices.
      curves: training and threshold curves.
      config_summary: what made the rows (preset, seed, sizes, command): a table or a sentence.
      cohort_note: for synthetic data, one sentence saying so; it becomes the first thing read.
      notes: further paragraphs.

    Raises:
      UserError: the file cannot be written.
    """
    path = epath.Path(path)
    notes = [notes] if isinstance(notes, str) else list(notes)
    out = [f"# {title}", ""]
    if cohort_note:
        out += ["> [!WARNING]", f"> **Synthetic data.** {cohort_note}", ""]
    for name, members in _by_set(rows).items():
        out += [f"## Results: {name}" if name else "## Results", "", *_set_section(members)]
    if rows:
        out += [_ORACLE_NOTE, ""]
    out += [note + "\n" for note in notes if note]
    out += _pictures("Slices", panels, path.parent)
    out += _pictures("Curves", curves, path.parent)
    out += _summary(config_summary, rows)
    atomic_files.write_text(path, "\n".join(out).rstrip() + "\n")


def put_baselines_first(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Baselines before the other rows; the order is kept otherwise."""
    return sorted((dict(r) for r in rows), key=lambda r: bool(r.get("learns", True)))


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence a learned row: does it beat every baseline, in AP and Dice?"""
    baselines = [r for r in rows if not r.get("learns", True)]
    out = []
    for row in rows:
        if not row.get("learns", True) or not baselines:
            continue
        # A set of healthy slices alone judges nobody.
        if all(row.get(key) is None for key, _ in _JUDGED):
            out.append(f"No lesion with a known outline was scored for {row['method']}.")
            continue
        out.append(_verdict(row, baselines))
    return out


def _verdict(row: Mapping[str, Any], baselines: Sequence[Mapping[str, Any]]) -> str:
    won, lost = [], []
    for key, label in _JUDGED:
        rivals = [r for r in baselines if r.get(key) is not None]
        if row.get(key) is None or not rivals:
            continue
        # The best baseline of each figure, even if they are two: the detector has to beat both.
        best = max(rivals, key=lambda r: r[key])
        words = f"{label} {_percent(row[key])} against {_percent(best[key])} of {best['method']}"
        (won if row[key] > best[key] else lost).append(words + _interval_words(row, best, key))
    name = row["method"]
    if lost:
        also = f" (It is ahead in {'; '.join(won)}.)" if won else ""
        return (
            f"**{name} does not beat what learns nothing:** {'; '.join(lost)}.{also} "
            "By this set it has not shown that it learned anything useful."
        )
    if not won:
        return f"{name}: no row that learns nothing could be scored beside it."
    if any(_INCLUDES_NONE in words for words in won):
        return (
            f"**{name} is ahead of every row that learns nothing, but not beyond chance:** "
            f"{'; '.join(won)}."
        )
    return f"**{name} beats every row that learns nothing:** {'; '.join(won)}."


def _interval_words(row: Mapping[str, Any], best: Mapping[str, Any], key: str) -> str:
    difference = row.get("difference") or {}
    # The stored difference is to the best baseline by AP; for another one nothing is known.
    if difference.get("to") != best["method"] or key not in difference:
        return ""
    low, high = difference[key]
    words = f" (difference [{100 * low:+.1f}, {100 * high:+.1f}] points"
    return words + (f", {_INCLUDES_NONE})" if low <= 0.0 <= high else ")")


def _set_section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = put_baselines_first(rows)
    out = [_census(rows[0]), "", tables.markdown(rows, tables.MAIN)]
    for sentence in verdicts(rows):
        out += [sentence, ""]
    bounds = [r for r in rows if r.get("error_bounds")]
    if bounds:
        worst = max(v for r in bounds for v in r["error_bounds"].values())
        out += [f"Pooled figures come from histograms, exact within {worst:.1e}.", ""]
    if any(r.get("n_healthy_slices") for r in rows):
        out += ["### On healthy slices", "", tables.markdown(rows, tables.ALARMS)]
    out += rates_section(rows)
    out += _scans(rows)
    if any(r.get("aupro") is not None for r in rows):
        out += [
            "### By region",
            "",
            "Per-region overlap: the mean over connected lesions of the share found, integrated "
            "over false positive rates up to 30 %; a small lesion counts as much as a large one.",
            "",
            tables.markdown(rows, tables.REGIONS),
        ]
    by_kind = tables.group_rows(rows, "by_kind")
    if {r["group"] for r in by_kind} - {"unknown"}:
        out += ["### By kind of lesion", "", tables.markdown(by_kind, _plain_columns())]
    by_size = tables.group_rows(rows, "by_size", threshold_counts.SIZE_GROUPS)
    if by_size:
        out += [
            "### By size of lesion",
            "",
            "Pixels of a slice at 128 × 128: tiny ≤ 3, small ≤ 71, medium ≤ 570, large above.",
            "",
            tables.markdown(by_size, _plain_columns()),
        ]
    return out


def rates_section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines: do thresholds keep their promise on healthy slices of the set?"""
    asked = sorted({e["asked"] for r in rows for e in r.get("rates") or ()})
    if not asked:
        return []
    lines = []
    for row in rows:
        found = {e["asked"]: e for e in row.get("rates") or ()}
        intervals = {f"{a}": e["interval"] for a, e in found.items() if "interval" in e}
        figures = {f"{a}": e["realised"] for a, e in found.items()}
        lines.append({"method": row["method"], "intervals": intervals, **figures})
    columns = [tables.Column(f"{a}", f"{100 * a:g} % asked", "percent", "") for a in asked]
    return [
        "### What a threshold promises, and keeps",
        "",
        "Share of healthy brain pixels of this set above the threshold that healthy validation "
        "slices gave for each rate; brackets: 95 % bootstrap interval over subjects.",
        "",
        tables.markdown(lines, [tables.METHOD, *columns]),
    ]


def _scans(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of whole scans, where they were asked for."""
    found = [{"method": r["method"], **r["volumes"]} for r in rows if r.get("volumes")]
    if not found:
        return []
    one = found[0]
    spacing = " x ".join(f"{s:g}" for s in one["spacing_mm"])
    by_volume = tables.group_rows(found, "by_volume", [name for name, _ in lesion_sums.VOLUMES])
    columns = [
        tables.Column("group", "Volume", "text", ""),
        tables.Column("n_lesions", "Lesions", "number", ""),
        tables.METHOD,
        tables.Column("sensitivity_healthy", "Found, healthy threshold", better=""),
    ]
    return [
        "### Whole scans",
        "",
        f"{one['n_scans']} scans of {spacing} mm voxels, {one['n_lesion_scans']} with a lesion, "
        f"{one['n_lesions']} lesions (3-D components). A lesion is found when "
        f"{100 * one['found_share']:g} % of its voxels lie above the threshold; a false positive "
        "is a component above it that touches none. Brackets: 95 % bootstrap interval over scans."
        + _outside(one),
        "",
        tables.markdown(found, tables.SCANS),
        *([tables.markdown(by_volume, columns)] if by_volume else []),
        *lesion_tables.section([r for r in rows if r.get("volumes")]),
    ]


def _outside(volumes: Mapping[str, Any]) -> str:
    """Lesions of the table that no scored slice shows."""
    count = volumes.get("n_lesions_outside")
    return f" {count} lesions of the table lie in no segmentation of these slices." if count else ""


def _plain_columns() -> list[tables.Column]:
    # A best value over several groups in one table would compare what is not comparable.
    return [tables.Column(c.key, c.label, c.kind, "") for c in tables.GROUP]


def _census(row: Mapping[str, Any]) -> str:
    parts = [
        f"{row.get('n_slices', 0)} slices of {row.get('n_subjects', 0)} subjects, "
        f"{row.get('n_lesion_slices', 0)} with a lesion"
    ]
    if row.get("n_healthy_slices"):
        parts.append(f"{row['n_healthy_slices']} healthy slices for false alarms")
    if row.get("n_unknown"):
        parts.append(f"{row['n_unknown']} without a segmentation, left out of all figures")
    return "; ".join([*parts, "all pixels scored"]) + "."


def _by_set(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    out: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        out.setdefault(str(row.get("set") or ""), []).append(row)
    return out


def _pictures(heading: str, paths: Sequence[epath.PathLike], folder: epath.Path) -> list[str]:
    if not paths:
        return []
    out = [f"## {heading}", ""]
    for file in paths:
        name = epath.Path(file).stem.replace("_", " ")
        # Relative, so that the run's folder can be moved or sent with its pictures.
        link = os.path.relpath(os.fspath(file), os.fspath(folder)).replace(os.sep, "/")
        out += [f"![{name}](<{link}>)", ""]
    return out


def _summary(config_summary: Mapping[str, Any] | str, rows: Sequence[Mapping[str, Any]]) -> list:
    seeds = sorted({str(r["seed"]) for r in rows if r.get("seed") is not None})
    if isinstance(config_summary, str):
        items, sentence = {}, config_summary
    else:
        items, sentence = dict(config_summary), ""
    if seeds and "seed" not in items:
        items["seed"] = ", ".join(seeds)
    if not items and not sentence:
        return []
    out = ["## What made these numbers", ""]
    if sentence:
        out += [sentence, ""]
    if items:
        listed = [{"key": str(k), "value": f"`{v}`"} for k, v in items.items()]
        columns = [tables.Column(k, k, "text", "") for k in ("key", "value")]
        out += [tables.markdown(listed, columns)]
    return out


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _identity(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row.get("id") or row.get("method")), str(row.get("set")), str(row.get("step"))


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, which `json` does not know."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
