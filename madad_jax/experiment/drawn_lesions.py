"""A test set of healthy slices with drawn lesions, in the official layout.

    OUT/<split>/{id}-slice_{k}-...png            slices with lesions; segmentations are the truth
    OUT/<split>_healthy/{id}-slice_{k}-...png    the same slices as they were: the counterfactual
    OUT/slices/{id}-slice_{k}.json               what was drawn there; written last
    OUT/draw_lesions.json                        what all was made from, and figures
    OUT/lesion_bank.npz                          the lesions, for `lesions.bank` of a training

A slice whose JSON is there is finished: the same command again goes on with the others.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import jax
import numpy as np
from etils import epath

from madad_jax.core import atomic_files, errors, json_digest, json_file, messages, random_keys
from madad_jax.core.types import Params
from madad_jax.data.sources import png_folder, png_names
from madad_jax.experiment import lesion_examples, lesion_plans
from madad_jax.methods import lesion_drawer

_LOG = logging.getLogger(__name__)

ABOUT, SLICES, PANELS = "draw_lesions.json", "slices", "panels"
_NCCS = ("ncc_source", "ncc_source_healthy", "ncc", "ncc_healthy")
BATCH = 16  # slices that are drawn in one call

# (pictures at the run's size, plans, keys) -> (drawn, healthy), [b,s,s] each
Draw = Callable[[list[Any], list[lesion_plans.Plan], list[int]], tuple[np.ndarray, np.ndarray]]


def begin(out: epath.PathLike, made_from: Mapping[str, Any]) -> None:
    """Opens a folder for a set, or goes on with one.

    Raises:
      UserError: the folder holds a set that was made from other things, named.
    """
    path, now = epath.Path(out) / ABOUT, json_digest.canonical(made_from)
    if path.exists():
        then = json_file.as_object(json_file.read_object(path).get("made_from"), str(path))
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                found, wanted = (messages.shorten(json.dumps(v.get(key)), 80) for v in (then, now))
                raise errors.UserError(
                    f"--output={out}: holds a set made with another {key} (found {found}, now "
                    f"{wanted}); choose another folder, or go on with the values of before"
                )
        return
    atomic_files.write_text(path, json.dumps({"made_from": now}, indent=1, sort_keys=True))


def choose(count: int, wanted: int, seed: int) -> list[int]:
    """Numbers of the slices that are drawn into: all for 0, else so many at random, sorted."""
    if not wanted or wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


def sampler(drawer: lesion_drawer.LesionDrawer, params: Params, frozen: Params, seed: int) -> Draw:
    """Draws slices with trained adapters; batches are filled up, so that one program serves all."""
    program = jax.jit(drawer.draw)
    root = random_keys.stream(random_keys.root_key(seed), "draw_lesions")

    def draw(
        images: list[Any], plans: list[lesion_plans.Plan], numbers: list[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        side = images[0].shape[0]
        full = [min(n, len(images) - 1) for n in range(BATCH)]
        masks = np.stack([lesion_plans.resize(p.mask.astype(np.float32), side) for p in plans])
        keys = jax.vmap(lambda n: jax.random.fold_in(root, n))(np.array(numbers, np.uint32)[full])
        kinds = np.array([p.kind for p in plans], np.int32)
        made = program(params, frozen, np.stack(images)[full], masks[full], kinds[full], keys)
        count = len(images)
        return tuple(np.asarray(made[k])[:count, ..., 0] for k in ("drawn", "healthy"))

    return draw


class Writer:
    """Draws and writes slices.

    Args:
      out: folder of the set.
      split: folder of the slices with lesions.
      source: healthy slices, at the size of the run.
      examples: one entry a type.
      settings: how lesions are drawn.
      draw: gives the decoded slices; None for copies.
      panels: so many slices are shown.
    """

    def __init__(
        self,
        out: epath.PathLike,
        split: str,
        source: png_folder.PngFolder,
        examples: list[lesion_examples.Examples],
        settings: lesion_plans.Settings,
        draw: Draw | None,
        panels: int = 12,
    ):
        self._out, self._split, self._source = epath.Path(out), split, source
        self._examples, self._settings, self._draw = examples, settings, draw
        self._panels = panels

    def write(self, indices: list[int]) -> None:
        """Writes the slices that are not there yet. Raises UserError for what cannot be read."""
        left = [(n, 0) for n in indices if not self._about(n).exists()]
        _LOG.info("lesions: %d slices to draw, %d there", len(left), len(indices) - len(left))
        while left:
            now, left = left[:BATCH], left[BATCH:]
            left += self._write_batch(now)

    def _about(self, index: int) -> epath.Path:
        return self._out / SLICES / f"{self._source.records[index].id}.json"

    def _write_batch(self, entries: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Writes slices; returns those that another try may serve, with its number."""
        pictures, plans, kept = [], [], []
        for index, attempt in entries:
            picture = lesion_examples.read_picture(self._source, index)
            plan = lesion_plans.make_plan(picture, self._examples, self._settings, attempt)
            if plan is None:
                self._leave_out(index, "no place in its brain")
                continue
            kept.append((index, attempt))
            pictures.append(picture)
            plans.append(plan)
        if not kept:
            return []
        decoded = [(None, None)] * len(kept)
        if self._draw is not None:
            images = [self._source[index]["image"] for index, _ in kept]
            # The same number for a slice in any batch, and another for another try.
            tries = [attempt for _, attempt in kept]
            pairs = zip(pictures, tries, strict=True)
            numbers = [zlib.crc32(f"{picture.id} {attempt}".encode()) for picture, attempt in pairs]
            decoded = list(zip(*self._draw(images, plans, numbers), strict=True))
        again = []
        for (index, attempt), picture, plan, pair in zip(
            kept, pictures, plans, decoded, strict=True
        ):
            levels, truth = lesion_plans.compose(picture, plan, self._settings, *pair)
            if truth.any():
                self._write_one(index, attempt, picture, plan, levels, truth)
            elif attempt + 1 < self._settings.tries:
                again.append((index, attempt + 1))
            else:
                self._leave_out(index, "no pixel changed enough")
        return again

    def _leave_out(self, index: int, why: str) -> None:
        record = self._source.records[index]
        self._write_about(index, {"id": record.id, "subject": record.subject, "left_out": why})

    def _write_about(self, index: int, facts: Mapping[str, Any]) -> None:
        atomic_files.write_text(self._about(index), json.dumps(facts, indent=1, sort_keys=True))

    def _write_one(self, index, attempt, picture, plan, levels, truth) -> None:
        encoded, inner = self._source.read_encoded(index), picture.inner
        kind = np.uint16 if picture.white > 255 else np.uint8
        nothing = np.zeros(truth[inner].shape, bool)
        image = to_png(levels[inner].astype(kind))
        modality = self._source.records[index].modality
        for split, pixels, marks in (
            (f"{self._split}_healthy", encoded.image.content, nothing),
            (self._split, image, truth[inner]),
        ):
            brain = encoded.brain_mask.content
            parts = {png_names.BRAIN_MASK: brain, png_names.SEGMENTATION: to_png(marks)}
            for name, content in {modality: pixels, **parts}.items():
                atomic_files.write_bytes(self._out / split / f"{picture.id}-{name}.png", content)
        examples = self._examples[plan.kind - 1]
        nearest = lesion_plans.nearest_example(levels, picture, plan, examples)
        shown = len(list((self._out / PANELS).glob("*.png"))) if self._panels else 0
        if shown < self._panels:
            content = _panel(picture, levels, truth, nearest, examples)
            atomic_files.write_bytes(self._out / PANELS / f"{picture.id}.png", content)
        about = {
            "id": picture.id,
            "subject": picture.subject,
            "type": examples.name,
            "try": attempt,
            "lesions": plan.parts,
            "changed_pixels": int(truth.sum()),
            "nearest_example": nearest,
        }
        self._write_about(index, about)

    def summarise(self, indices: list[int]) -> dict[str, Any]:
        """Figures of the whole set; they join the folder's JSON."""
        facts = [json_file.read_object(self._about(n)) for n in indices]
        made = [f for f in facts if "left_out" not in f]
        nccs = {k: [f["nearest_example"][k] for f in made] for k in _NCCS}
        figures: dict[str, Any] = {
            "slices": len(made),
            "left_out": {f["id"]: f["left_out"] for f in facts if "left_out" in f},
            "lesions": sum(len(f["lesions"]) for f in made),
        }
        for name, values in nccs.items():
            if values:
                figures[name] = {
                    "median": round(float(np.median(values)), 4),
                    "largest": max(values),
                }
        path = self._out / ABOUT
        about = {**json_file.read_object(path), "figures": figures}
        atomic_files.write_text(path, json.dumps(about, indent=1, sort_keys=True))
        return figures


def to_png(picture: np.ndarray) -> bytes:
    """A grey picture, or a mask in white, as a file's content."""
    grey = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    done, content = cv2.imencode(".png", grey)
    if not done:
        raise ValueError(f"a picture of {picture.shape} {picture.dtype} cannot be written as PNG")
    return content.tobytes()


def _panel(picture, levels, truth, nearest, examples) -> bytes:
    """Healthy slice, slice with lesions, its truth, and the nearest example, side by side."""
    source = next(p for p in examples.pictures if p.id == nearest["example"])
    side = len(picture.brain)
    example = lesion_plans.resize(source.grey, side)
    marked = np.where(truth, 1.0, picture.grey * 0.5)
    row = [picture.grey, levels / picture.white, marked, example]
    shown = np.ascontiguousarray(np.concatenate(row, axis=1) * 255).astype(np.uint8)
    text = f"nearest example: lesion {nearest['lesion']}, NCC {nearest['ncc']:.2f}"
    at = (3 * side + 4, side - 6)
    cv2.putText(shown, text, at, cv2.FONT_HERSHEY_SIMPLEX, side / 750, 255, 1, cv2.LINE_AA)
    return to_png(shown)


def folder_path(text: str) -> epath.Path:
    """A folder as a path that does not depend on where the command was started."""
    return epath.Path(text if "://" in text else os.path.abspath(text))
