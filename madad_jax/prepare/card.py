"""What is said about a prepared folder: counts, warnings, the dataset card."""

import dataclasses
from typing import Any

from madad_jax.prepare import cohorts, output, subject

_SHOWN = 20  # Lines of warnings on the screen; all of them stand in summary.md.


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a prepared folder holds and what it does not.

    Attributes:
      title: of the cohort.
      rows: of the manifest.
      warnings: {scan: sentences}, prepared all the same.
      refused: {scan: why}; no picture of these exists.
      unlisted: scans that no split list names.
      gone: scans prepared earlier whose files are not there any more; kept.
    """

    title: str
    rows: tuple[dict[str, Any], ...]
    warnings: dict[str, list[str]]
    refused: dict[str, str]
    unlisted: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """{split: {people, scans, slices, lesion_slices, pictures}} of splits that have any."""
        counts = {}
        for split in output.SPLITS:
            rows = [row for row in self.rows if row["split"] == split]
            if rows:
                counts[split] = {
                    "people": len({row["subject"] for row in rows}),
                    "scans": len({row["scan"] for row in rows}),
                    # A slice has a row for each modality: ids, not rows.
                    "slices": len({row["id"] for row in rows}),
                    "lesion_slices": len({row["id"] for row in rows if row["lesion_pixels"]}),
                    "pictures": len(rows),
                }
        return counts


def kept_out(summary: Summary) -> int:
    """Scans that give nothing to train or val because their place is in doubt."""
    return sum(
        any(text.startswith(subject.KEPT_OUT) for text in texts)
        for texts in summary.warnings.values()
    )


def table(summary: Summary) -> str:
    """The counts as a Markdown table."""
    lines = [
        "| split | people | scans | slices | with lesion |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for split, count in summary.counts().items():
        lines.append(
            f"| {split} | {count['people']} | {count['scans']} | {count['slices']} | "
            f"{count['lesion_slices']} |"
        )
    return "\n".join(lines)


def summary_text(summary: Summary, most: int | None = None) -> str:
    """Counts, and a line for every scan that was refused or deserves a look.

    Args:
      summary: what there is.
      most: lines of a kind that are shown; None: all.
    """
    parts = [f"# {summary.title}: what was prepared", table(summary)]
    warned = [f"- {scan}: {text}" for scan, texts in summary.warnings.items() for text in texts]
    groups = {
        "Refused (no slice of these exists)": [
            f"- {scan}: {why}" for scan, why in summary.refused.items()
        ],
        "Prepared, but look at them": warned,
        "In val and not in train, since val would have fewer than two people (who it is may "
        "change when people join; --splits fixes it)": [f"- {person}" for person in summary.lent],
        "In no split list, left out": [f"- {scan}" for scan in summary.unlisted],
        "Prepared earlier, files gone since (--prune removes them)": [
            f"- {scan}" for scan in summary.gone
        ],
    }
    for title, lines in groups.items():
        if lines:
            # The rest is counted: a hospital's folder may warn of thousands.
            shown = lines if most is None or len(lines) <= most else lines[:most]
            rest = [f"- ... and {len(lines) - len(shown)} more"] if len(shown) < len(lines) else []
            parts.append("\n".join([f"## {title}: {len(lines)}", *shown, *rest]))
    return "\n\n".join(parts) + "\n"


def screen_text(summary: Summary) -> str:
    """As `summary_text`, but no longer than a screen or two."""
    return summary_text(summary, _SHOWN)


def dataset(
    cohort: cohorts.Cohort, settings: dict[str, Any], summary: Summary, facts: dict[str, Any]
) -> dict[str, Any]:
    """What `dataset.json` holds: how slices lie in the template's space, and how they were made."""
    options = dict(settings["options"])
    return {
        "format": 1,
        "title": cohort.title,
        "licence": cohort.licence,
        "cite": cohort.cite,
        # On its own, where `data.provenance` and other programs look for it.
        "geometry": options.pop("geometry"),
        "modalities": settings["modalities"],
        "bits": options["bits"],
        "options": options,
        "splits": {name: settings[name] for name in ("fractions", "seed", "lists")},
        "counts": summary.counts(),
        "scans": facts,
    }


def readme(cohort: cohorts.Cohort, settings: dict[str, Any], summary: Summary) -> str:
    """The dataset card, as Markdown."""
    options, geometry = settings["options"], settings["options"]["geometry"]
    # A digest of the lists and no path: the card goes with the folder, the lists may not.
    by = (
        f"a hash of the person's id, seed {settings['seed']}, shares {settings['fractions']}"
        if settings["lists"] is None
        else f"the user's lists (digest {settings['lists']})"
    )
    doubted = kept_out(summary)
    doubts = f" {doubted} of these are kept out of train and val: where they lie is in doubt." * (
        doubted > 0
    )
    side, left = geometry["image_size"], geometry["left"]
    where, space = options["registration"], "ICBM152 (2009a symmetric)"
    if own := [template["file"] for template in options.get("template", ())]:
        space = f"the user's template ({', '.join(own)}; sha256 in `dataset.json`)"
    return f"""# {cohort.title}, prepared as axial slices

{table(summary)}

Modalities: {", ".join(settings["modalities"])}. Refused scans: {len(summary.refused)}; scans with \
warnings: {sum(bool(texts) for texts in summary.warnings.values())} (see summary.md).{doubts}

- **Licence of the scans**: {cohort.licence or "not stated in the cohort's table"}. Slices made \
from them come under the same terms.
- **Cite**: {cohort.cite or "not stated in the cohort's table"}
- **Pictures**: {side} x {side} px over {geometry["field_of_view"]:g} mm, {options["bits"]}-bit \
grey, 0 outside the brain; front at the top, the subject's left on the {left}; slice k lies at \
z = {geometry["first_level"]:g} + k * {geometry["level_step"]:g} mm of {space}.
- **Registration**: {where}; **brain mask**: {options["brain_mask"]}; **intensity**: \
{options["intensity"]} {options["low"]:g} to {options["high"]:g} inside the brain\
{", after N4" if options["n4"] else ""}; **protocol**: {options["protocol"]}.
- **Splits by person**: {by}. No slice with a lesion is in train or val.

Made by `python -m madad_jax prepare` (pixels of version {settings["version"]}). \
`dataset.json` has every option, `manifest.jsonl` a line for each picture, `transforms/` the way \
back to each scan's own space. Look at `contact_sheet.png` before you train on this.
"""
