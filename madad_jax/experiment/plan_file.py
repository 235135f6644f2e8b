"""A plan as the text of an experiment that people read and change, and how long it will take."""

import math
import re
from collections.abc import Mapping

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import messages
from madad_jax.experiment import plan_choices, step_times

_PRESETS = {plan_choices.SMALL: "paper", plan_choices.LIGHT: "light", plan_choices.PAPER: "paper"}
_LONGEST_LINE = 96
_HEAD = '''"""An experiment for one folder and machine, by `madad-jax plan`: change what you like.

The lines with # say why; configs/default.py has every other key. The argument is the contrast.
"""

from configs import default'''


def name(plan: plan_choices.Plan) -> str:
    """Of the experiment: the folder's and the contrast, in small letters, digits and dashes."""
    words = f"{plan.root.rstrip('/').rpartition('/')[2]} {plan.modality}".lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "plan"


def text(plan: plan_choices.Plan, machine: plan_choices.Machine, minutes: str, file: str) -> str:
    """The file.

    Args:
      plan: what is chosen.
      machine: that it is chosen for.
      minutes: the expected time, in words.
      file: its own name, for the command in it.
    """
    small = plan.recipe == plan_choices.SMALL
    # Words of files and folders stand in comments and in strings alone: they can never be code.
    lines = [
        _HEAD + (", demo" if small else ""),
        "",
        *_comment(f"For {plan.root} on {machine.describe()}."),
        *(_comment(f"First: {plan.prepare}") if plan.prepare else []),
        *_comment(f"Then: madad-jax run --config={file} --workdir=runs/{name(plan)}"),
        *_comment(minutes),
        "#",
        *[line for remark in plan.remarks for line in _comment(remark, "# - ", "#   ")],
        "",
        "",
        f"def get_config(modality: str = {plan.modality!r}):",
        *_comment(plan_why(plan), "    # ", "    # "),
        f"    c = default.get_config({_PRESETS[plan.recipe]!r})",
        f"    c.name = {name(plan)!r}",
        f"    c.data.root = {plan.root!r}",
        "    c.data.modality = modality",
    ]
    if small:
        side = plan.value("data.image_size")
        lines += [
            "    # Squares inside the brain of half the side: an autoencoder of texture.",
            f"    demo.small_autoencoder(c, crop={side // 2})",
            "    demo.small_dit(c)",
        ]
    for choice in plan.choices:
        if choice.key == "recipe":
            continue
        lines += _comment(choice.why, "    # ", "    # ")
        if choice.key == "atlas.groups":  # It comes with the head that reads it.
            lines.append(f"    demo.pixel_head(c, groups={choice.value!r})")
        else:
            lines.append(f"    c.{choice.key} = {choice.value!r}")
    return "\n".join([*lines, "    return c", ""])


def plan_why(plan: plan_choices.Plan) -> str:
    """Why the recipe is this one."""
    return next(choice.why for choice in plan.choices if choice.key == "recipe")


def _comment(line: str, first: str = "# ", more: str = "# ") -> list[str]:
    """A line as comments of a bounded width; what no terminal should obey is written out."""
    words, out, start = messages.shorten(line, 2000).split(" "), [], first
    while words:
        row = words.pop(0)
        while words and len(start) + len(row) + 1 + len(words[0]) <= _LONGEST_LINE:
            row = f"{row} {words.pop(0)}"
        out.append(f"{start}{row}".rstrip())
        start = more
    return out


def seconds(
    plan: plan_choices.Plan, parts: parts_lib.Parts, times: Mapping[str, step_times.Timing]
) -> tuple[float, float, str]:
    """(of training steps, of all else that is counted, what was counted in words).

    Args:
      plan: with the counts of slices.
      parts: of its experiment.
      times: of its programs.
    """
    counts = {}
    if parts.autoencoder is not None and not parts.autoencoder.run:
        counts["autoencoder step"] = parts.autoencoder.plan.budget(plan.train_slices).steps
    denoiser = next(key for key in times if key.startswith("denoiser step"))
    counts[denoiser] = parts.plan.budget(plan.train_slices).steps
    training = sum(times[key].run * count for key, count in counts.items())
    maps = "image to anomaly map"
    batches = math.ceil(plan.scored_slices / parts.evaluation.batch_size)
    other = times[maps].run * batches + sum(found.compile for found in times.values())
    words = [f"{count} x {key} at {times[key].run:.3g} s" for key, count in counts.items()]
    words.append(f"{batches} x {maps} at {times[maps].run:.3g} s")
    return training, other, ", ".join([*words, "and compiling"])
