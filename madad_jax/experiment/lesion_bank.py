"""Drawn lesions as a bank that a training pastes from (`synthesis/learned.py`).

`madad-jax draw-lesions` writes one beside its set: what each lesion changed, as a square patch. A
training brings it to its own image size and keeps that beside the detector's checkpoints,
`<workdir>/denoiser/lesions.npz`: a run does not change when the bank does.
"""

import hashlib
import logging
from typing import Any

import numpy as np
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.core import atomic_files, errors, messages
from madad_jax.core.types import Params
from madad_jax.data.sources import record as record_lib
from madad_jax.experiment import healthy_only, lesion_examples, lesion_plans, stage_inputs
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.metrics import archives
from madad_jax.runtime import agreement
from madad_jax.synthesis import learned, lesion_masks

_LOG = logging.getLogger(__name__)

BANK, FILE = "lesion_bank.npz", "lesions.npz"
MOST = 2000  # lesions of a bank
_KEY, _WHAT = "lesions.bank", "a bank of lesions"


def collect(out: epath.PathLike, split: str, modality: str) -> dict[str, np.ndarray]:
    """The lesions of a drawn set, a patch each, at its own resolution.

    Args:
      out: folder of the set.
      split: of the slices with lesions.
      modality: of its slices.

    Returns:
      `change` [n,p,p] in units of [-1, 1], `mask` [n,p,p] 0 or 1, `level` [n] z-score of what was
      there before, `side` of the slices in px.

    Raises:
      UserError: no slice there, or one that cannot be read.
    """
    drawn, healthy = (
        lesion_examples.open_folder(epath.Path(out) / name, modality, 16, "--output")
        for name in (split, f"{split}_healthy")
    )
    places = {record.id: n for n, record in enumerate(healthy.records)}
    found = []
    for n, record in enumerate(drawn.records):
        with_lesions = lesion_examples.read_picture(drawn, n)
        before = lesion_examples.read_picture(healthy, places[record.id])
        change = 2.0 * (with_lesions.grey - before.grey)
        mean, deviation = before.moments()
        for rows, columns, inside in lesion_masks.components(change != 0):
            truth = with_lesions.truth[rows, columns] & inside
            if truth.any():
                grey = before.grey[rows, columns][truth]
                level = (float(grey.mean()) - mean) / deviation
                moved = np.where(inside, change[rows, columns], 0.0)
                found.append((moved, truth, level, len(change)))
    found = found[:MOST]
    side = max((size for *_, size in found), default=1)
    scaled = [(_scale(c, side / s), _scale(m, side / s) > 0.5, level) for c, m, level, s in found]
    width = max((max(change.shape) for change, *_ in scaled), default=1)
    return {
        "change": np.stack([_centre(change, width) for change, *_ in scaled]),
        "mask": np.stack([_centre(mask, width) for _, mask, _ in scaled]),
        "level": np.array([level for *_, level in scaled], np.float32),
        "side": np.int32(side),
    }


def _scale(patch: np.ndarray, ratio: float) -> np.ndarray:
    if ratio == 1:
        return patch.astype(np.float32)
    square = _centre(patch, max(patch.shape))
    return lesion_plans.resize(square, max(1, round(len(square) * ratio)))


def _centre(patch: np.ndarray, width: int) -> np.ndarray:
    square = np.zeros((width, width), np.float32)
    top, left = (width - patch.shape[0]) // 2, (width - patch.shape[1]) // 2
    square[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    return square


def write(path: epath.PathLike, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Writes a bank; `facts` has `modality` and the `subjects` of the examples."""
    atomic_files.write_bytes(path, archives.to_bytes(facts, arrays))


def read(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(facts, arrays) of a bank. Raises UserError: missing or damaged."""
    content = atomic_files.read_bytes(epath.Path(path))
    with archives.open_bytes(content, str(path), _WHAT) as (meta, arrays):
        found = {name: arrays[name] for name in ("change", "mask", "level", "side")}
        facts = {"modality": str(meta["modality"]), "subjects": [str(s) for s in meta["subjects"]]}
        count, width = len(found["level"]), found["change"].shape[-1]
        if not count or any(found[k].shape != (count, width, width) for k in ("change", "mask")):
            raise ValueError("patches and levels of different numbers")
    return facts, found


def fit(arrays: dict[str, np.ndarray], image_size: int) -> dict[str, np.ndarray]:
    """A bank at another size of the slices, as `learned.paste` takes it."""
    ratio = image_size / int(arrays["side"])
    width = arrays["change"].shape[-1]
    # A multiple of the ratio, so that pixels of the bank become whole ones of the slices.
    padded = int(np.ceil(width * ratio) / ratio + 0.5)
    changes, masks = [], []
    for change, mask in zip(arrays["change"], arrays["mask"], strict=True):
        change, share = (_scale(_centre(p, max(padded, width)), ratio) for p in (change, mask))
        # A lesion of less than a pixel stays one.
        masks.append((share > 0.5) | (share == share.max()) & (share > 0))
        changes.append(change)
    level = np.asarray(arrays["level"], np.float32)
    return {"change": np.stack(changes), "mask": np.stack(masks).astype("f4"), "level": level}


def abstract(parts: parts_lib.Parts) -> Params:
    """What a training reads of a bank, as shapes: of one lesion, whatever the bank holds."""
    return {learned.NAME: learned.shapes()} if parts.lesion_bank else {}


def check(parts: parts_lib.Parts, inputs: inputs_lib.Inputs) -> None:
    """What a training needs of the bank that its config names.

    Raises:
      UserError: no bank where lesions of one are asked for, a damaged one, one of another modality,
        or one whose examples stand in the validation or test sets.
    """
    if parts.needs_lesion_bank and not parts.lesion_bank:
        raise errors.UserError(
            f"synthesis.kind: found 'learned', but {_KEY} is empty; give it the {BANK} that "
            "madad-jax draw-lesions wrote"
        )
    if not parts.lesion_bank:
        return
    facts, _ = read(parts.lesion_bank)
    if facts["modality"].lower() != parts.data.modality.lower():
        raise errors.UserError(
            f"{_KEY}: found lesions of {messages.shorten(facts['modality'])}, accepted: of "
            f"{parts.data.modality}, as data.modality has it"
        )
    _check_subjects(set(facts["subjects"]), parts, inputs)


def check_sets(
    parts: parts_lib.Parts, workdir: workdir_lib.Workdir, inputs: inputs_lib.Inputs
) -> None:
    """Raises UserError where a run that learned from a bank is to be judged on people whose
    lesions the bank was made from."""
    path = workdir.trained / "denoiser" / FILE
    if path.exists():
        with archives.open_bytes(path.read_bytes(), str(path), _WHAT) as (meta, _):
            subjects = {str(s) for s in meta["subjects"]}
        _check_subjects(subjects, parts, inputs)


def _check_subjects(subjects: set[str], parts: parts_lib.Parts, inputs: inputs_lib.Inputs) -> None:
    for name in ("val", *healthy_only.sets_to_score(parts)):
        for source in (inputs.source(name), inputs.healthy_source(name)):
            others = {r.subject for r in source.records} if source is not None else set()
            record_lib.check_disjoint(f"the examples of {_KEY}", subjects, {name: others})


def prepare(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> Params:
    """{"lesions": bank} for a training, at its image size; {} without a bank.

    Raises:
      UserError: the bank cannot be read, or is not the one that the training was begun with.
    """
    if not parts.lesion_bank:
        return {}
    path = workdir.trained / "denoiser" / FILE

    def on_first() -> None:
        if not workdir.is_begun("denoiser"):
            facts, arrays = read(parts.lesion_bank)
            write(path, fit(arrays, parts.data.image_size), facts)
        if path.exists():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            stage_inputs.note_measured(workdir, "denoiser", learned.NAME, digest)

    # Process 0 writes; the others read what it wrote.
    agreement.from_first(on_first)
    content = atomic_files.read_bytes(path)
    with archives.open_bytes(content, str(path), _WHAT) as (_, arrays):
        found = {name: arrays[name] for name in learned.shapes()}
    digest = hashlib.sha256(content).hexdigest()
    stage_inputs.check_measured(workdir, "denoiser", learned.NAME, digest, str(path))
    _LOG.info("lesions: %d of a bank, %d px a side", *found["change"].shape[:2])
    return {learned.NAME: found}
