"""A trained run as a model that can be handed on: weights, calibration, card and licence.

    madad-jax package --checkpoint=runs/x --out=ixi-t1 --name=ixi-t1 --ages=20,82 --dtype=float16 \
        --licence=CC-BY-SA-3.0 --licence_file=LICENSE.txt --card=card.md --figures=figures.json

Writes model.safetensors, model.json, calibration.npz, README.md and LICENSE. `predict`,
`calibrate`, `export` and this command take such a folder as --checkpoint.

--dtype=float16 halves the file. Thresholds belong to the weights as they are stored: where
rounding moves them, the run's healthy validation slices are scored again, with the rounded ones.
--calibration=FILE takes a file of `madad-jax calibrate` instead, made with the same weights:
package first, calibrate that folder, then package it again with the file.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from madad_jax.core import atomic_files, command_line, errors, json_file
from madad_jax.predict import api, model_names

_NEEDED = ("checkpoint", "out", "name", "licence", "licence_file", "card")


def make_flags() -> flags.FlagValues:
    """The options."""
    values = flags.FlagValues()
    text = {
        "checkpoint": "Workdir of a trained run, or a packaged model.",
        "out": "Folder to write.",
        "name": "Of the model: lower-case letters, digits and . _ -.",
        "licence": "Of the weights, an SPDX expression.",
        "licence_file": "Its text, with whatever the training data ask to be named.",
        "card": "The model's card, Markdown.",
        "figures": "JSON file {label: text}, shown by `madad-jax models`.",
        "ages": "Youngest and oldest of the training scans' people, years: 20,82.",
        "calibration": "File made by `madad-jax calibrate`, with the weights as stored.",
    }
    for name, meaning in text.items():
        flags.DEFINE_string(name, "", meaning, flag_values=values)
    flags.DEFINE_enum(
        "dtype",
        None,
        model_names.DTYPES,
        "Of stored matrices; when left out float32, or as a packaged model has them.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    flags.DEFINE_bool("traceback", False, "Show tracebacks of user errors.", flag_values=values)
    return values


@dataclasses.dataclass(frozen=True)
class Words:
    """What a person says about a model; see `package_files.About`."""

    name: str
    licence: str
    licence_text: bytes
    card: bytes
    figures: dict[str, str]
    ages: list[float] | None


def run(argv: Sequence[str]) -> int:
    """Packages; returns the exit status.

    Raises:
      UserError: whatever the user can mend.
    """
    options = make_flags()
    if not command_line.parsed(options, argv, __doc__, _NEEDED):
        return 0
    # All that a person may have mistyped, before weights are read.
    words = _read_words(options)
    folder = model_names.locate(options.checkpoint)
    from madad_jax.predict import package_files
    from madad_jax.runtime import startup

    startup.start()
    model, dtype = api.open_model(folder, ""), options.dtype
    if dtype is None:
        packaged = package_files.is_one(folder)
        dtype = package_files.read_about(folder).dtype if packaged else "float32"
    print(write(model, options.out, words, dtype, options.calibration))
    return 0


def _read_words(options: flags.FlagValues) -> Words:
    from etils import epath

    from madad_jax.predict import package_files

    figures = json_file.read_object(options.figures) if options.figures else {}
    try:
        ages = [float(age) for age in options.ages.split(",")] if options.ages else None
    except ValueError:
        raise errors.UserError(
            f"--ages: found '{options.ages}', accepted: youngest,oldest in years, as 20,82"
        ) from None
    return Words(
        name=package_files.check_name(options.name),
        licence=options.licence,
        licence_text=atomic_files.read_bytes(epath.Path(options.licence_file)),
        card=atomic_files.read_bytes(epath.Path(options.card)),
        figures=package_files.check_figures(figures),
        ages=package_files.check_ages(ages),
    )


def write(model: Any, out: str, words: Words, dtype: str, calibration: str = "") -> str:
    """Packages a model; returns a line that says what was written.

    Args:
      model: from `api.open_model`.
      out: folder to write.
      words: about the model.
      dtype: of stored matrices, one of `package_files.DTYPES`.
      calibration: file made with the weights as they are stored; "": the model's own, or the
        run's healthy validation slices are scored again where rounding moved the weights.

    Raises:
      UserError: no calibration of these weights, or `out` cannot be written.
    """
    # Inside: `--help` must not start JAX.
    import numpy as np

    from madad_jax.assembly import config_record
    from madad_jax.checkpoints import digests
    from madad_jax.core import version
    from madad_jax.experiment import frozen_weights
    from madad_jax.metrics import calibration as calibration_lib
    from madad_jax.predict import export, package_files, packaged_model

    if model.preparation is None:
        raise errors.UserError(
            f"--checkpoint={model.where}: the run does not say where its training slices lie, so "
            "that no scan can be cut alike; nothing to hand on"
        )
    flat = export.flat_weights(model)
    stored, read = package_files.round_weights(flat, dtype)
    weights, frozen = model.weights, model.frozen_digests
    params, others = packaged_model.split_weights(model.parts, read, model.where)
    if any(not np.array_equal(flat[name], read[name]) for name in flat):
        weights = digests.weights_digest(params)
        frozen = frozen_weights.FrozenWeights(others).digests()
    made_with = {"weights": weights, "frozen": frozen}
    known = _calibration_of(model, params, others, made_with, calibration)
    config = config_record.without_places(model.parts.record)
    # In one order, so that the same model gives the same bytes.
    config = json.loads(json.dumps(config, sort_keys=True))
    known = dataclasses.replace(known, facts={**known.facts, "config": config})
    first, last, step = known.facts["numbers"]
    geometry = model.preparation.geometry
    about = package_files.About(
        name=words.name,
        modality=model.preparation.modality,
        licence=words.licence,
        dtype=dtype,
        config=config,
        preparation=json.loads(json.dumps(model.preparation.to_dict())),
        numbers=[first, last, step],
        levels_mm=[geometry.level(first), geometry.level(last)],
        weights=weights,
        frozen=frozen,
        ages=words.ages,
        figures=words.figures,
        version=version.VERSION,
    )
    content = package_files.weights_bytes(stored)
    files = {
        package_files.WEIGHTS: content,
        package_files.CALIBRATION: calibration_lib.to_bytes(known),
        package_files.CARD: words.card,
        package_files.LICENCE: words.licence_text,
    }
    package_files.write(out, about, files)
    size = sum(map(len, files.values())) / 1e6
    count = sum(array.size for array in flat.values())
    return f"{out}: {words.name}, {count:,} numbers as {dtype}, {size:.1f} MB"


def _calibration_of(
    model: Any, params: Any, frozen: Any, made_with: dict[str, Any], path: str
) -> Any:
    """A calibration of the weights as they are stored.

    Raises:
      UserError: there is none, and none can be made.
    """
    from madad_jax.predict import model as model_lib

    if path:
        found = model_lib.read_calibration_file(path)
        # Their folder is not written yet: the file is what a message can name.
        model_lib.check_calibrated(path, found.facts, made_with["weights"], made_with["frozen"])
        return found
    if made_with["weights"] == model.weights and made_with["frozen"] == model.frozen_digests:
        if model.calibration is not None:
            return model.calibration
        raise errors.UserError(
            f"--checkpoint={model.where}: has no calibration, and a model without one promises no "
            "rate of false positives; evaluate the run, or give --calibration=FILE of madad-jax "
            "calibrate"
        )
    from madad_jax.devices import mesh as mesh_lib
    from madad_jax.evaluation import scorer as scorer_lib
    from madad_jax.experiment import inputs as inputs_lib
    from madad_jax.experiment import score_stage

    parts, mesh = model.parts, mesh_lib.make_mesh()
    scorer = scorer_lib.Scorer(parts.method, params, frozen, mesh, parts.seed)
    inputs = inputs_lib.Inputs(parts.data, mesh, parts.evaluation.batch_size)
    try:
        found = score_stage.calibrate_weights(parts, inputs, scorer, model.preparation, made_with)
    except errors.UserError as error:
        raise errors.UserError(
            f"rounding moved the weights, and the healthy validation slices cannot be scored with "
            f"the new ones ({error}); bring the slices, or package as float32"
        ) from error
    if found is None:
        raise errors.UserError(
            f"--checkpoint={model.where}: the run smooths over slices, which prediction does not; "
            "give --calibration=FILE of madad-jax calibrate"
        )
    return found


def main() -> None:
    """Entry point of `madad-jax package`."""
    command_line.show_log()
    sys.exit(command_line.status("madad_jax package", run, sys.argv))


if __name__ == "__main__":
    main()
