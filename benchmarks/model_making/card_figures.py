"""Figures of a model card: rows of `results.jsonl` to Markdown, and to the list of `models`."""

from collections.abc import Mapping, Sequence
from typing import Any

from madad_jax.evaluation import lesion_tables, report, tables
from madad_jax.metrics import lesion_sums

# In the order of the card; what validation heads say, the choices were made on.
SETS = {"test": "painted test heads", "val_painted": "painted validation heads, chosen on"}
_ASKED = 2.0  # false positives a scan, in the short list
_MAIN = [c for c in tables.MAIN if c.key in ("method", "ap", "pooled_dice_healthy")]
_SCANS = [
    c
    for c in tables.SCANS
    if c.key
    in ("method", "dice_healthy", "sensitivity_healthy", "false_positives_per_healthy_scan")
]

Row = Mapping[str, Any]


def newest(rows: Sequence[Row]) -> list[Row]:
    """Rows of the weights that were scored last: others are not those that are shipped."""
    return [row for row in rows if row.get("weights") == rows[-1].get("weights")]


def detector(rows: Sequence[Row]) -> Row | None:
    """The row of the method's own map, which `predict` shows; None where nothing learned."""
    learned = [row for row in rows if row.get("learns", True)]
    return min(learned, key=lambda row: len(row["method"]), default=None)


def strongest(rows: Sequence[Row]) -> Row | None:
    """The row without learning of the highest AP."""
    simple = [row for row in rows if not row.get("learns", True) and row.get("ap") is not None]
    return max(simple, key=lambda row: row["ap"], default=None)


def sections(rows: Sequence[Row], missing: str) -> list[str]:
    """Markdown lines of all sets; `missing` stands where one was not scored."""
    lines = ["## Figures", ""]
    for name, words in SETS.items():
        mine = [row for row in rows if row.get("set") == name]
        lines += [f"### {words.capitalize()}", ""]
        lines += _set_lines(mine) if mine else [missing, ""]
    return lines


def _set_lines(rows: Sequence[Row]) -> list[str]:
    rows = report.put_baselines_first(rows)
    learned = [row for row in rows if row.get("learns", True)]
    shown = [row for row in (strongest(rows), *learned) if row is not None]
    first = rows[0]
    lines = [
        f"{first['n_slices']} slices of {first['n_subjects']} heads, {first['n_lesion_slices']} "
        "with a lesion. Percent; brackets: 95 % bootstrap interval over heads. The first row "
        "learns nothing but the mean and spread of training slices, or intensities.",
        "",
        tables.markdown(shown, _MAIN),
    ]
    for sentence in report.verdicts(rows):
        lines += [sentence, ""]
    scans = [{"method": row["method"], **row["volumes"]} for row in shown if row.get("volumes")]
    if scans:
        lines += ["Whole scans:", "", tables.markdown(scans, _SCANS)]
    lines += report.rates_section(shown)
    lines += lesion_tables.section([row for row in shown if row.get("volumes")])
    return [*lines, *_weakest(rows)]


def _weakest(rows: Sequence[Row]) -> list[str]:
    """A sentence: which kinds the detector finds least often."""
    entry = _point(detector(rows))
    kinds = [(kind, g) for kind, g in (entry or {}).get("by_kind", {}).items() if kind]
    kinds = [(kind, g) for kind, g in kinds if g["sensitivity"] is not None]
    if not kinds:
        return []
    kind, group = min(kinds, key=lambda pair: pair[1]["sensitivity"])
    return [
        f"At {entry['asked']:g} false positives a scan it finds {kind} least often: "
        f"{group['n_found']} of {group['n_lesions']}.",
        "",
    ]


def _point(row: Row | None) -> Mapping[str, Any] | None:
    points = ((row or {}).get("volumes") or {}).get("at_false_positives", ())
    found = [point for point in points if point["asked"] == _ASKED]
    return found[0] if found and found[0]["sensitivity"] is not None else None


def list_figures(rows: Sequence[Row]) -> dict[str, str]:
    """{label: text} for `madad-jax models`: of the test heads, or else of those chosen on."""
    for name, words in SETS.items():
        mine = [row for row in rows if row.get("set") == name]
        row = detector(mine)
        if row is None:
            continue
        out = {}
        for key, label in (("ap", "AP"), ("pooled_dice_healthy", "Dice at the healthy threshold")):
            if row.get(key) is not None:
                out[f"{label}, {words}"] = tables.text(row, tables.Column(key, label))
        if entry := _point(row):
            column = tables.Column("sensitivity", "")
            where = f"at {_ASKED:g} false positives a scan, {words}"
            out[f"Lesions found {where}"] = tables.text(entry, column)
            if large := entry["by_volume"].get(lesion_sums.LARGE):
                out[f"Those of {lesion_sums.LARGE} {where}"] = tables.text(large, column)
        return out
    return {}
