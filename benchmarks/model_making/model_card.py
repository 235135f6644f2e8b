"""The model card and what goes with it, from files that were measured; no figure is typed.

`write_card` is the text of `facts` and result rows. A figure that is not there is said to be
missing.
"""

import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from benchmarks.model_making import card_figures, licence, work
from madad_jax.core import atomic_files, errors, json_file, messages
from madad_jax.data import provenance
from madad_jax.evaluation import report
from madad_jax.training import metric_log

# What the files of a run do not know. `--facts=FILE.json` replaces it for other heads.
IXI = {
    "dataset": "IXI, Imperial College London (brain-development.org/ixi-dataset)",
    "people": "Healthy volunteers, 20 to 82 years old where the age is known",
    "scanner": "One 3T scanner (Hammersmith Hospital), T1, whole heads, 2 mm voxels",
    "division": (
        "By the last digit of the IXI number: 0 kept out, 1 validation, 2 test, 3 to 9 training"
    ),
    "licence": licence.SPDX,
    "licence_text": licence.IXI,
    "attribution": (
        "Weights: [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/), see `LICENSE`. "
        "They were trained on IXI, Imperial College London, "
        "[brain-development.org/ixi-dataset](https://brain-development.org/ixi-dataset/), which "
        "has the same licence. The code has Apache-2.0."
    ),
}
MISSING = "Missing: not measured for these weights."
_GAP_S = 900.0  # between two lines of a run's log; above, it stood still


class Texts(NamedTuple):
    """Files for `madad-jax package`."""

    card: pathlib.Path
    licence: pathlib.Path
    figures: pathlib.Path


def write_files(
    out: pathlib.Path,
    run: pathlib.Path,
    data: pathlib.Path,
    sets: Sequence[str],
    facts: Mapping[str, Any],
) -> Texts:
    """Writes card, licence and figures beside the other files of `out`.

    Args:
      out: of `make_model`, with its `costs.jsonl`.
      run: trained and scored.
      data: joined slices.
      sets: whose figures are those of the run's weights.
      facts: all keys of `IXI`, and `name`, `seed`, `command`, `shown`, `pictures_link`.

    Raises:
      UserError: a damaged file of the run.
    """
    facts = {**read_facts(out, run, data), **facts}
    rows = report.read_results(epath.Path(run) / "results.jsonl")
    rows = card_figures.newest([row for row in rows if row.get("set") in sets])
    texts = Texts(*(out / name for name in ("README.md", "LICENSE.txt", "figures.json")))
    listed = card_figures.list_figures(rows)
    contents = (
        write_card(facts, rows),
        facts["licence_text"].replace("{name}", facts["name"]),
        json.dumps(listed, indent=1) + "\n",
    )
    for path, text in zip(texts, contents, strict=True):
        atomic_files.write_text(epath.Path(path), text)
    return texts


def read_given(path: str) -> dict[str, str]:
    """What a person says of other heads: a JSON object with the keys of `IXI`, all texts.

    Raises:
      UserError: a key that is missing or unknown, or no text.
    """
    given = json_file.read_object(epath.Path(path))
    wrong = sorted(set(given) ^ set(IXI)) or [k for k, v in given.items() if type(v) is not str]
    if wrong:
        found = "missing" if wrong[0] not in given else "found"
        raise errors.UserError(
            f"'{path}': '{messages.shorten(wrong[0])}' {found}; accepted: texts for "
            f"{', '.join(IXI)}"
        )
    return given


def read_facts(out: pathlib.Path, run: pathlib.Path, data: pathlib.Path) -> dict[str, Any]:
    """What the files say: preparation, heads and slices by split, costs, missed lesions."""
    path = epath.Path(run) / provenance.FILE
    preparation = json_file.read_object(path) if path.exists() else None
    costs = work.read_costs(out)
    return {
        "preparation": preparation,
        "counts": count_slices(data, preparation["modality"]) if preparation else {},
        "cpu_hours": {
            stage: sum(cost["cpu_s"] for cost in costs if cost["stage"] == stage) / 3600
            for stage in dict.fromkeys(cost["stage"] for cost in costs)
        },
        "training_hours": training_hours(metric_log.read(epath.Path(run))),
    }


def read_pictures(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Entries of the panels' `pictures.json`; none where no panel was drawn."""
    path = epath.Path(folder) / "pictures.json"
    return json_file.read_object(path)["pictures"] if path.exists() else []


def count_slices(data: pathlib.Path, modality: str) -> dict[str, tuple[int, int]]:
    """{split: (heads, slices)} of a data folder."""
    counts = {}
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        names = [path.name for path in folder.glob(f"*-slice_*-{modality}.png")]
        if names:
            counts[folder.name] = (len({name.split("-slice_")[0] for name in names}), len(names))
    return counts


def training_hours(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Hours between the lines of a run's metric log, without the times that it stood still."""
    rows = [row for row in rows if row.get("split") != "goodput"]  # written after evaluation
    times = sorted(row["time"] for row in rows if isinstance(row.get("time"), int | float))
    steps = [b - a for a, b in itertools.pairwise(times) if b - a < _GAP_S]
    return sum(steps) / 3600 if steps else None


def write_card(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown.

    Args:
      facts: of `IXI`, `read_facts`, and `name`, `seed`, `command`, `shown` (of `read_pictures`)
        and `pictures_link`; what is left out is said to be missing.
      rows: results of the shipped weights alone, `card_figures.newest`.

    Raises:
      UserError: a row that is not as the program writes it.
    """
    with report.explain_rows("results.jsonl"):
        parts = [
            *_metadata(facts),
            f"# {facts['name']}",
            "",
            "Research software, **not a medical device**: not for diagnosis or treatment. A map "
            "that shows nothing does not mean that nothing is there.",
            "",
            *_use(facts),
            *_data(facts),
            *_recipe(facts),
            *card_figures.sections(rows, MISSING),
            *_misses(facts),
            *_limits(),
            "## Licence and attribution",
            "",
            facts["attribution"],
        ]
    text = "\n".join(parts).rstrip() + "\n"
    if left := re.search(r"\{[a-z_]+\}", text):
        raise errors.UserError(f"card: '{left[0]}' was not filled in")
    return text


def _metadata(facts: Mapping[str, Any]) -> list[str]:
    tags = ("brain-mri", "anomaly-detection", "unsupervised", "latent-diffusion", "jax")
    return [
        "---",
        f"license: {facts['licence'].lower()}",
        "library_name: madad_jax",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "datasets:",
        f"- {json.dumps(facts['dataset'])}",
        "metrics:",
        "- average_precision",
        "- dice",
        "- froc",
        "---",
        "",
    ]


def _use(facts: Mapping[str, Any]) -> list[str]:
    contrast = (facts.get("preparation") or {}).get("modality", "the training contrast")
    return [
        "## Intended use",
        "",
        f"Research on {contrast} scans of adult heads, whole or stripped, in any orientation: "
        "a map of what looks unlike the healthy training heads, and candidates above a threshold.",
        "```",
        f"madad-jax predict --checkpoint={facts['name']} --input=scan.nii.gz --output=out/",
        "```",
        "Out of scope: clinical decisions; children; other contrasts; heads after surgery or with "
        "contrast agent; scans of another scanner without `madad-jax calibrate` on healthy scans "
        "of it. A scan that looks unlike the calibration's gets a warning.",
        "",
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    lines = [
        "## Data",
        "",
        *(f"- {facts[key]}." for key in ("dataset", "people", "scanner", "division")),
    ]
    if made := facts.get("preparation"):
        geometry = made["geometry"]
        side, view = geometry["image_size"], geometry["field_of_view"]
        lines.append(
            f"- Slices of {side} x {side} pixels over {view:g} mm; registration "
            f"{made['registration']}, brain mask {made['brain_mask']}."
        )
    lines += [
        "- Lesions of validation and test heads are painted in 3-D (`benchmarks.paint_lesions`): "
        "drawn, not real.",
        "",
    ]
    if counts := facts.get("counts"):
        rows = [f"| {name} | {heads} | {slices} |" for name, (heads, slices) in counts.items()]
        lines += ["| split | heads | slices |", "| --- | ---: | ---: |", *rows, ""]
    return lines


def _recipe(facts: Mapping[str, Any]) -> list[str]:
    lines = ["## Recipe", ""]
    if "command" in facts:
        lines += ["```", facts["command"], "```"]
    lines.append(f"Seed {facts['seed']}. Stages: prepare, paint, train, choose, package.")
    hours = facts.get("cpu_hours") or {}
    if hours:
        told = ", ".join(f"{stage} {value:.2f}" for stage, value in hours.items())
        lines.append(f"CPU hours, over all cores and tries: {told}.")
    if "train" not in hours:
        lines.append(f"CPU hours of the training. {MISSING}")
    if facts.get("training_hours") is not None:
        lines.append(f"Training took {facts['training_hours']:.2f} hours by the clock.")
    return [*lines, ""]


def _misses(facts: Mapping[str, Any]) -> list[str]:
    lines = ["## What it misses", ""]
    shown = facts.get("shown") or []
    if not shown:
        return [*lines, f"Pictures of test heads. {MISSING}", ""]
    lines += [
        f"{len(shown)} test heads, spread evenly over their ids and not picked by score. Blue: "
        "lesion, found; red: lesion, missed; amber: above the threshold.",
        "",
    ]
    for one in shown:
        link = f"{facts['pictures_link']}/{one['file']}"
        missed = [f"{x['kind']} of {x['volume_ml']:.2g} ml" for x in one["lesions"] if not x["hit"]]
        count = len(one["lesions"])
        told = f"found {count - len(missed)} of {count} lesions"
        told += f"; missed {', '.join(missed)}" if missed else ""
        lines.append(f"- [{one['head']}]({link}): {told}")
    return [*lines, ""]


def _limits() -> list[str]:
    return [
        "## Limitations",
        "",
        "- Trained on few heads of one scanner: age, scanner and sequence move the scores.",
        "- Painted lesions are simpler than disease. Figures on them say little of real patients.",
        "- Figures above are of the run's float32 weights. Shipped weights are rounded to float16, "
        "and the calibration was made again with them.",
        "- Slices are scored one by one, at their resolution: lesions of a few pixels are lost.",
        "",
    ]
