"""`visits.html`: one page without scripts or network about two visits of a person.

Everything that comes from a file's name or header is escaped.
"""

import base64
import html as html_lib
import importlib.resources
from typing import Any

from madad_jax.metrics import visit_changes
from madad_jax.predict.visits import halfway, visits_montage

_MOST_LISTED = 200
_WORDS = {
    visit_changes.NEW: "new",
    visit_changes.GONE: "gone",
    visit_changes.PERSISTING: "seen twice",
    visit_changes.ONLY_FIRST: "not scored in the second",
    visit_changes.ONLY_SECOND: "not scored in the first",
}
_HEADS = (
    *("Place", "Change", "First, ml", "Second, ml", "Change, ml", "First peak", "Second peak"),
    *("Mean difference", "Voxels beyond healthy", "Halfway mm", "Region (template mm)"),
)


def render(comparison: halfway.Comparison, summary: dict[str, Any]) -> str:
    """The page of a comparison and its summary."""
    parts = {
        "css": _asset("report.css"),
        "not_a_device": _text(summary["not_a_medical_device"]),
        "headline": _text(_headline(summary)),
        "warnings": _list_warnings(summary),
        "rule": _text(summary["rule"]),
        "places": _list_places(summary),
        "spread": _text(_describe_spread(summary)),
        "picture_alt": _text(
            "Axial slices halfway between the visits: first visit, second visit, difference"
        ),
        "picture": base64.b64encode(visits_montage.draw(comparison)).decode(),
        "key": _text(visits_montage.describe_key(comparison)),
        "facts": _list_facts(summary),
    }
    # One pass over the template's own marks: what is put in is never looked at again.
    pieces = _asset("visits.html").split("@@")
    return "".join(parts[p] if i % 2 else p for i, p in enumerate(pieces))


def _asset(name: str) -> str:
    return importlib.resources.files("madad_jax.predict").joinpath("assets", name).read_text()


def _text(value: Any) -> str:
    return html_lib.escape(str(value), quote=True)


def _headline(summary: dict[str, Any]) -> str:
    changes = summary["changes"]
    new, gone, kept = (
        changes[name] for name in (visit_changes.NEW, visit_changes.GONE, visit_changes.PERSISTING)
    )
    unseen = sum(
        changes[name]["places"] for name in (visit_changes.ONLY_FIRST, visit_changes.ONLY_SECOND)
    )
    text = (
        f"{new['places']} new candidate(s), {new['second_ml']:.2f} ml; {gone['places']} gone, "
        f"{gone['first_ml']:.2f} ml; {kept['places']} seen twice, {kept['first_ml']:.2f} ml at the "
        f"first visit and {kept['second_ml']:.2f} ml at the second."
    )
    if unseen:
        text += f" {unseen} where one of the visits was not scored."
    return text


def _list_warnings(summary: dict[str, Any]) -> str:
    found = list(summary["warnings"])
    for name, visit in summary["visits"].items():
        found += [f"{name} visit: {text}" for text in visit["warnings"]]
    if not found:
        return ""
    return f"<ul class='device'>{''.join(f'<li>{_text(w)}</li>' for w in found)}</ul>"


def _list_places(summary: dict[str, Any]) -> str:
    rows = summary["places"]
    if not rows:
        return "<p>Nothing lies above the threshold in either visit.</p>"
    head = "".join(f"<th scope='col'>{_text(name)}</th>" for name in _HEADS)
    body = "".join(_row(row) for row in rows[:_MOST_LISTED])
    more = len(rows) - _MOST_LISTED
    text = f"<p>and {more} more, in candidates_changes.tsv</p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{text}"


def _row(row: dict[str, Any]) -> str:
    beyond = row["share_beyond_healthy"]
    where = "not known"
    if row["mni_mm"] is not None:
        where = f"{row['region']} ({_point(row['mni_mm'])})"
    cells = (
        row["place"],
        _WORDS[row["change"]],
        f"{row['first_ml']:.2f}",
        f"{row['second_ml']:.2f}",
        f"{row['change_ml']:+.2f}",
        f"{row['first_peak']:.3f}",
        f"{row['second_peak']:.3f}",
        f"{row['mean_difference']:+.3f}",
        "not known" if beyond is None else f"{beyond:.0%}",
        _point(row["halfway_mm"]),
        where,
    )
    return f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in cells)}</tr>"


def _point(point: list[float]) -> str:
    return ", ".join(f"{v:.0f}" for v in point)


def _describe_spread(summary: dict[str, Any]) -> str:
    spread, difference = summary["healthy_spread"], summary["difference"]
    if spread is None:
        return summary["healthy_spread_note"]
    low, high = spread["bound_of_pairs"]
    few = " Few pairs: the bound is rough." if spread["few_pairs"] else ""
    counts = [
        f"{spread[key]['mean']:.1f} {word} ({spread[key]['least']} to {spread[key]['most']})"
        for key, word in (("new_a_pair", "new"), ("gone_a_pair", "gone"))
    ]
    return (
        f"In {spread['pairs']} pair(s) of healthy visits {spread['level']:.1%} of brain voxels "
        f"differ by at most {spread['bound']:.4f} (pairs alone: {low:.4f} to {high:.4f}). Here "
        f"{difference['share_beyond_healthy']:.2%} of voxels differ by more. A healthy pair has "
        f"{' and '.join(counts)} candidates.{few}"
    )


def _list_facts(summary: dict[str, Any]) -> str:
    registration, grid = summary["registration"], summary["grid"]
    overlap = f"brain overlap {registration['brain_overlap']:.3f}"
    rows = {
        f"{name.capitalize()} visit": f"{visit['source']}, {visit['voxel_mm']} mm, "
        f"{visit['candidates_ml']:.2f} ml above the threshold on its own grid"
        for name, visit in summary["visits"].items()
    }
    rows |= {
        "Motion between": f"{registration['turned_degrees']:.2f} degrees, brain moved by "
        f"{registration['brain_moved_mm']:.2f} mm; there and back differ by "
        f"{registration['there_and_back_differ_mm']:.2f} mm",
        "Do the heads match?": f"folds correlate by {registration['likeness']:.2f} (one head: "
        f"{registration['likeness_usual_from']:g} and more; two people: below "
        f"{registration['likeness_at_least']:g}); {overlap}",
        "Grid halfway": f"{' x '.join(map(str, grid['shape']))}, {grid['side_mm']:g} mm",
        "Scored in both": f"{summary['difference']['scored_in_both_ml']:.0f} ml",
        **{k.replace("_", " ").capitalize(): v for k, v in summary["model"].items() if v},
    }
    return "".join(
        f"<tr><th scope='row'>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items()
    )
