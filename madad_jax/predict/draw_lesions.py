"""Learns to draw lesions from a few slices with masks, and draws them into healthy slices.

    madad-jax draw-lesions --checkpoint=RUN --examples=EXAMPLES --input=HEALTHY --output=OUT

EXAMPLES and HEALTHY are folders with {id}-slice_{k}-{modality|brainmask|segmentation}.png; three
example slices or more, each with a lesion. --examples may be given several times, one folder a
kind of lesion. RUN is a trained MAD-AD with a DiT; its weights stay as they are.

OUT/<split> holds the slices with lesions, OUT/<split>_healthy the same slices as they were, and
OUT/draw_lesions.json what all was made from. OUT/lesion_bank.npz serves trainings:
--config.lesions.bank=OUT/lesion_bank.npz. The same command again continues a stopped one.

Exit status: 0 done; 2 bad input, one line; 130 and 143 stopped.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import command_line, errors, folder_lock


def make_flags() -> flags.FlagValues:
    """The options, apart from absl's global ones."""
    values = flags.FlagValues()
    texts = {
        "checkpoint": ("", "Name of a shipped model, or folder of a run; not read for copies."),
        "input": ("", "Folder with healthy slices."),
        "output": ("", "Folder to write."),
        "modality": ("", "Which pictures of the folders; as the run has it when left out."),
        "split": ("test", "Folder below --output for the slices with lesions."),
        "appearance": ("learned", "learned | copy: the examples' own pixels, moved (the floor)."),
        "compose": ("residual", "residual | blend: what the drawing changed | the decoded slice."),
    }
    for name, (default, meaning) in texts.items():
        flags.DEFINE_string(name, default, meaning, flag_values=values)
    numbers = {
        "slices": (0, "So many healthy slices, drawn at random; 0: all."),
        "seed": (0, "Of everything that is drawn."),
        "steps": (2000, "Of training the adapters."),
        "batch_size": (16, "Of training the adapters; half of it healthy."),
        "rank": (8, "Of the adapters."),
        "healthy": (256, "Healthy slices that adapters are trained on, at most."),
        "most": (8, "Lesions of a slice, at most; else as many as an example has."),
        "tries": (4, "Draws of a slice before it is left out."),
        "panels": (12, "Slices shown in OUT/panels."),
    }
    for name, (number, meaning) in numbers.items():
        flags.DEFINE_integer(name, number, meaning, flag_values=values)
    shares = {
        "lr": (1e-3, "Rate of Adam for the adapters."),
        "guidance": (2.0, "How far the drawing goes beyond what is healthy."),
        "rim": (2.0, "Soft rim of a lesion, pixels."),
        "least_change": (0.03, "Change of a pixel that makes it part of the truth, of 0 to 1."),
    }
    for name, (share, meaning) in shares.items():
        flags.DEFINE_float(name, share, meaning, flag_values=values)
    text = "Folder with slices and masks of one kind of lesion; as often as needed."
    flags.DEFINE_multi_string("examples", [], text, flag_values=values)
    text = "Guide cells that still look healthy more."
    flags.DEFINE_bool("reweight", True, text, flag_values=values)
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> int:
    """Does what the command line says; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, ("examples", "input", "output")):
        return 0
    for name in ("slices", "healthy", "panels"):
        if options[name].value < 0:
            raise errors.UserError(f"--{name}: found {options[name].value}, accepted: 0 or more")
    with folder_lock.hold(options.output, "--output"):
        figures = _draw(options)
    print(
        f"{options.output}: {figures['slices']} slices with {figures['lesions']} lesions, "
        f"{len(figures['left_out'])} left out"
    )
    for name, text in (("ncc_source", "example whose mask it is"), ("ncc", "likest example")):
        if name in figures:
            near, chance = figures[name], figures[f"{name}_healthy"]
            print(
                f"{text}: NCC {near['median']:.2f} in the median, {near['largest']:.2f} at most "
                f"(the same places before: {chance['median']:.2f}, {chance['largest']:.2f})"
            )
    return 0


def _draw(options: flags.FlagValues) -> dict[str, Any]:
    """Writes the set and its bank; returns the figures."""
    # Here and not above: `--help` and mistyped flags answer without numpy.
    from madad_jax.experiment import drawn_lesions, lesion_bank, lesion_examples, lesion_plans

    settings = lesion_plans.Settings(
        **{f.name: options[f.name].value for f in dataclasses.fields(lesion_plans.Settings)}
    )
    model = _open_model(options) if settings.appearance == "learned" else None
    modality = options.modality or (model.parts.data.modality if model else "")
    if not modality:
        raise errors.UserError("--modality is missing; copies need no run that would say it")
    size = model.parts.data.image_size if model else 0
    examples = [lesion_examples.read(folder, modality, size) for folder in options.examples]
    names = [one.name for one in examples]
    if len(set(names)) < len(names):
        raise errors.UserError(
            f"--examples: found two folders called '{max(names, key=names.count)}', accepted: a "
            "name for each kind of lesion"
        )
    source = lesion_examples.open_folder(options.input, modality, size or 16, "--input")
    people = {record.subject for record in source.records}
    lesion_examples.check_apart(examples, people, f"--input={options.input}")
    out = drawn_lesions.folder_path(options.output)
    made_from = {
        "modality": modality,
        "split": options.split,
        "slices": options.slices,
        "settings": dataclasses.asdict(settings),
        "examples": {one.name: {"subjects": one.subjects, "files": one.files} for one in examples},
        "input": source.fingerprint(),
    }
    draw = None
    if model is None:
        drawn_lesions.begin(out, made_from)
    else:
        draw, made_from = _learn(options, model, examples, source, settings, out, made_from)
    indices = drawn_lesions.choose(len(source), options.slices, options.seed)
    writer = drawn_lesions.Writer(
        out, options.split, source, examples, settings, draw, options.panels
    )
    writer.write(indices)
    figures = writer.summarise(indices)
    if figures["slices"]:
        bank = lesion_bank.collect(out, options.split, modality)
        subjects = sorted({subject for one in examples for subject in one.subjects})
        facts = {"modality": modality, "subjects": subjects}
        lesion_bank.write(out / lesion_bank.BANK, bank, facts)
    return figures


def _open_model(options: flags.FlagValues) -> Any:
    from madad_jax.predict import api, model_names
    from madad_jax.runtime import startup

    startup.start()
    return api.open_model(model_names.locate(options.checkpoint), "")


def _learn(
    options: flags.FlagValues,
    model: Any,
    examples: list[Any],
    source: Any,
    settings: Any,
    out: Any,
    made_from: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """(what draws, what all is made from), after the adapters are trained."""
    from madad_jax.experiment import drawn_lesions, lesion_training

    plan = lesion_training.Plan(options.steps, options.lr, options.seed)
    chosen = {name: options[name].value for name in ("rank", "batch_size", "guidance", "reweight")}
    drawer, frozen = lesion_training.make_drawer(
        model.parts.method, model.params, model.frozen, types=len(examples), **chosen
    )
    made_from = made_from | {
        "run": {"name": model.parts.name, "weights": model.weights, "frozen": model.frozen_digests},
        "adapters": {**chosen, "healthy": options.healthy, **dataclasses.asdict(plan)},
    }
    drawn_lesions.begin(out, made_from)
    batch = lesion_training.gather(examples, source, settings, options.healthy)
    path = out / lesion_training.FILE
    params = lesion_training.train(drawer, frozen, batch, plan, path, made_from)
    return drawn_lesions.sampler(drawer, params, frozen, options.seed), made_from


def main() -> None:
    """Entry point of `madad-jax draw-lesions`."""
    command_line.show_log()
    sys.exit(command_line.status("madad-jax draw-lesions", run, sys.argv))


if __name__ == "__main__":
    main()
