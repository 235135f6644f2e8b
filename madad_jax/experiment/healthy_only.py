"""A cohort of healthy people alone: what a run does without a `test` set, and what it says.

Training and calibration need healthy people; figures against lesions need others, with outlines.
A run without them ends well, after the calibration.
"""

from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.evaluation import calibrate

_SETS = ("test",)  # `eval.sets` as it stands when nobody asked for a set


def is_one(parts: parts_lib.Parts) -> bool:
    """Whether the data hold healthy people alone, and nobody asked for another set.

    A set that was asked for by name is missed, and so is a folder `Test`: both are mistakes.
    """
    plan, data = parts.evaluation, parts.data
    # Without training slices the data are elsewhere, and nothing is known about them.
    if plan.sets != _SETS or not data.has_split("train") or data.has_split("test"):
        return False
    folder = epath.Path(data.root)
    return not any(path.name.lower() in _SETS for path in folder.iterdir())


def sets_to_score(parts: parts_lib.Parts) -> tuple[str, ...]:
    """The sets of `eval.sets`; none for a cohort of healthy people alone."""
    return () if is_one(parts) else parts.evaluation.sets


def explain(parts: parts_lib.Parts) -> str:
    """What evaluation would need, in a line."""
    data = parts.data
    kinds = "|".join(data.contrasts)
    text = (
        f"no set 'test' in '{data.root}': healthy people alone are trained on and calibrated. "
        "Evaluation needs other people's slices with their lesions, as "
        f"test/{{id}}-slice_{{k}}-{{{kinds}|brainmask|segmentation}}.png, and the same "
        "command again"
    )
    if data.has_split("test_healthy"):
        text += "; --config.eval.sets=\"('test_healthy',)\" counts the false alarms there"
    return text


def explain_calibration(folder: epath.PathLike) -> str:
    """What the run's calibration is good for, in a line.

    Raises:
      UserError: it is damaged.
    """
    if not (epath.Path(folder) / calibrate.FILE).exists():
        return (
            "No calibration for whole scans: the slices do not say where they lie in a head "
            "(dataset.json, which madad-jax prepare writes)."
        )
    found = next(iter(calibrate.load(epath.Path(folder)).healthy.values()))
    return (
        f"Calibrated on {len(found.scans)} healthy validation scans: madad-jax predict "
        f"--checkpoint={folder} --input=scan.nii.gz --output=out"
    )
