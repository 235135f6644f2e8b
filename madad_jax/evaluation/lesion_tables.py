"""Lesions found at a number of false positives a scan: report section, and entries of CSV files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from madad_jax.evaluation import tables
from madad_jax.metrics import lesion_sums, scan_figures

_BANDS = (*(name for name, _ in lesion_sums.VOLUMES), lesion_sums.LARGE)
_COLUMNS = (
    tables.Column("asked", "Asked", "number", ""),
    tables.METHOD,
    tables.Column("threshold", "Threshold", "number", ""),
    tables.Column("healthy", "False positives a healthy scan", "text", ""),
    tables.Column("keeps", "Asked inside the interval", "text", ""),
    tables.Column("beside", "The same, scans with a lesion", "text", ""),
    tables.Column("sensitivity", "Lesions found", better=""),
    tables.Column("large", f"Those of {lesion_sums.LARGE}", better=""),
    tables.Column("difference", "Found, minus the best baseline", "text", ""),
)


def section(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown lines of one set's rows, each with `volumes`; none where no point was asked for."""
    points = [
        (row["method"], entry)
        for row in rows
        # Rows of before have none.
        for entry in row["volumes"].get("at_false_positives", ())
    ]
    if not points:
        return []
    # By the number asked for: rows are compared at one number.
    points.sort(key=lambda pair: pair[1]["asked"])
    scans = points[0][1]
    out = [
        "### Lesions found at a bearable number of false positives",
        "",
        "Thresholds: the lowest at which healthy validation scans have so many candidates a scan; "
        f"no truth of this set enters. {scans['n_healthy_scans']} scans without and "
        f"{scans['n_lesion_scans']} with a lesion. A lesion is found when "
        f"{100 * scan_figures.FOUND_SHARE:g} % of its voxels lie in candidates. Brackets: 95 %; of "
        "false positives over the scans that set the threshold and those that meet it, of lesions "
        "found a bootstrap over scans.",
        "",
        tables.markdown([_line(method, entry) for method, entry in points], _COLUMNS),
    ]
    notes: dict[str, list[str]] = {}
    for method, entry in points:
        if entry["note"]:
            notes.setdefault(f"At {entry['asked']:g}: {entry['note']}", []).append(method)
    for note, methods in notes.items():
        out += [f"{note} ({', '.join(methods)}).", ""]
    for field, heading in zip(
        lesion_sums.GROUPS, ("Volume", "Kind", "Kind and volume"), strict=True
    ):
        groups = _group_table(rows, field, heading)
        out += [groups] if groups else []
    return out


def _line(method: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    large = entry["by_volume"].get(lesion_sums.LARGE, {})
    keeps = {True: "yes", False: "no", None: None}[entry["keeps"]]
    brackets = {"sensitivity": entry["intervals"].get("sensitivity")}
    brackets["large"] = large.get("intervals", {}).get("sensitivity")
    return {
        "asked": entry["asked"],
        "method": method,
        "threshold": entry["threshold"],
        "healthy": _number(entry, "false_positives_per_healthy_scan"),
        "keeps": keeps,
        "beside": _number(entry, "false_positives_per_lesion_scan"),
        "sensitivity": entry["sensitivity"],
        "large": large.get("sensitivity"),
        "difference": _difference(entry),
        "intervals": brackets,
    }


def _number(entry: Mapping[str, Any], key: str) -> str | None:
    if entry[key] is None:
        return None
    interval = entry["intervals"].get(key)
    brackets = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
    return f"{entry[key]:.2f}{brackets}"


def _difference(entry: Mapping[str, Any]) -> str | None:
    found = entry.get("difference")
    if found is None:
        return None
    interval = found["interval"]
    brackets = f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
    return f"{100 * found['sensitivity']:+.1f}{brackets} to {found['to']}"


def _group_table(rows: Sequence[Mapping[str, Any]], field: str, heading: str) -> str:
    """Share of each group's lesions found: a line a group and row, a column a number asked for."""
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    asked = []
    for row in rows:
        for entry in row["volumes"].get("at_false_positives", ()):
            asked.append(entry["asked"])
            for name, group in entry[field].items():
                line = lines.setdefault(
                    (name, row["method"]),
                    {"group": name, "method": row["method"], "intervals": {}},
                )
                key = f"{entry['asked']:g}"
                line |= {"n_lesions": group["n_lesions"], key: group["sensitivity"]}
                line["intervals"][key] = group["intervals"].get("sensitivity")
    if not lines:
        return ""
    columns = [
        tables.Column("group", heading, "text", ""),
        tables.Column("n_lesions", "Lesions", "number", ""),
        tables.METHOD,
        *(
            tables.Column(f"{a:g}", f"Found at {a:g} a scan", "percent", "")
            for a in sorted(set(asked))
        ),
    ]
    # Groups together, then rows in the order of the report.
    names = {name: place for place, name in enumerate(_BANDS)} if field == "by_volume" else {}
    methods = [row["method"] for row in rows]
    order = sorted(lines, key=lambda pair: (names.get(pair[0], 0), pair[0], methods.index(pair[1])))
    return tables.markdown([lines[pair] for pair in order], columns)


def list_points(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of `false_positives.csv`: one a row and number asked for."""
    for row, entry in _entries(rows):
        out = {"method": row["method"]}
        for key, value in entry.items():
            if key in ("intervals", "difference", *lesion_sums.GROUPS):
                continue
            out[key] = value
            if key.startswith("false_positives_per") or key == "sensitivity":
                out |= _ends(key, entry["intervals"].get(key))
        difference = entry.get("difference") or {}
        out |= {"baseline": difference.get("to"), "difference": difference.get("sensitivity")}
        yield out | _ends("difference", difference.get("interval"))


def list_groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries of `lesion_groups.csv`: one a row, number asked for, and group of lesions."""
    for row, entry in _entries(rows):
        for field in lesion_sums.GROUPS:
            for name, group in entry[field].items():
                yield {
                    "method": row["method"],
                    "asked": entry["asked"],
                    "grouped": field,
                    "group": name,
                    **{key: group[key] for key in ("n_lesions", "n_found", "sensitivity")},
                    **_ends("sensitivity", group["intervals"].get("sensitivity")),
                }


def list_lesions(method: str, scans: scan_figures.Scans) -> Iterator[dict[str, Any]]:
    """Entries of `lesions.csv`: one a lesion; 1 where it was found at a number asked for."""
    asked = scans.lesion_sums().asked
    for scan in sorted(scans.scans, key=lambda s: s.id):
        for number, (volume_ml, score) in enumerate(scan.lesions):
            yield {
                "method": method,
                "scan": scan.id,
                "lesion": number + 1,
                "kind": scan.kinds[number],
                "volume_ml": volume_ml,
                "score": score,
                **{f"found_at_{a:g}": int(scan.found[k, number]) for k, a in enumerate(asked)},
            }


def _entries(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for row in rows:
        for entry in row.get("volumes", {}).get("at_false_positives", ()):
            yield row, entry


def _ends(key: str, interval: Sequence[float] | None) -> dict[str, Any]:
    # Two columns: spreadsheets cannot read a list.
    low, high = interval or (None, None)
    return {f"{key}_low": low, f"{key}_high": high}
