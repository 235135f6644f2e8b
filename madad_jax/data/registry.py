"""Data sources by name: the one place that knows which readers exist."""

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from etils import epath

from madad_jax.core import errors
from madad_jax.data import contents
from madad_jax.data.cohort import cohort as cohort_lib
from madad_jax.data.sources import array_record, png_folder, stacked
from madad_jax.data.sources import record as record_lib

_LOG = logging.getLogger(__name__)

SOURCES = ("cohort", "png_folder", "array_record", "tfds")
_ROOTS = {
    "png_folder": "the folder that holds "
    "{split}/{id}-slice_{k}-{modality|brainmask|segmentation}.png",
    "array_record": "the folder that holds {split}-{modality}-00000-of-00001.array_record",
    "tfds": "the data_dir of the TFDS data set, which holds brain_slices/",
}

# {data set: {split: how bright it is}} of what this process opened: two splits of one data set
# are compared when the second is opened, and neither is opened for that alone.
_BRIGHTNESS: dict[tuple[str, str, str], dict[str, contents.Brightness]] = {}


def make_source(
    split: str,
    *,
    name: str,
    modality: str,
    image_size: int,
    root: str = "",
    cache_dir: str = "",
    seed: int = 0,
    cohort: dict[str, Any] | None = None,
) -> record_lib.Source:
    """Opens one split of a data set.

    Args:
      split: `train`, `val`, `test`, `test_healthy`; the cohort also has `val_lesion`
        and `train_lesion`, the
        folder whatever folders it has.
      name: `cohort` (synthetic, embedded), `png_folder`, `array_record` or `tfds`.
      modality: `T1`, `T2`, `FLAIR`, or what the folder's files are called.
      image_size: side, px.
      root: folder of all but the cohort.
      cache_dir: where drawn cohort subjects are kept; "" = drawn anew each time.
      seed: of the cohort.
      cohort: sizes of the cohort, see `cohort.Options`.

    Raises:
      UserError: unknown name, split, modality or key; bad folder.
    """
    if name == "cohort":
        options = cohort_lib.options_from_dict(cohort)
        return cohort_lib.Cohort(
            split,
            modality=modality,
            image_size=image_size,
            cache_dir=cache_dir,
            seed=seed,
            options=options,
        )
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        accepted = ", ".join(SOURCES)
        raise errors.UserError(f"data.source: found '{name}'{hint} (accepted: {accepted})")
    # An empty path would be the folder in which the program was started.
    if not root:
        raise errors.UserError(f"data.root is empty; set it to {_ROOTS[name]}")
    reader: Any = png_folder.PngFolder
    if name == "array_record":
        reader = array_record.ArrayRecordFolder
    elif name == "tfds":
        # Here and not above: TFDS takes seconds to import.
        from madad_jax.data.sources import tfds_builder

        reader = tfds_builder.TfdsFolder
    source = reader(root, split=split, modality=modality, image_size=image_size)
    for line in inspect(source, split, (name, str(root), modality), image_size):
        _LOG.warning("%s", line)
    return source


def make_stack(
    split: str, *, contrasts: Sequence[str], neighbours: int, name: str, root: str, **more: Any
) -> stacked.Stacked:
    """Opens one split with several contrasts, or neighbouring slices, as channels.

    Args:
      split: its name.
      contrasts: in the order of the channels; a split may lack some of them.
      neighbours: slices below and above each.
      name, root: as in `make_source`.
      more: its other arguments.

    Raises:
      UserError: as `make_source`, or a source that cannot say which contrasts it holds.
    """
    if name == "tfds":
        raise errors.UserError(
            f"data.source: found 'tfds' with data.modality={','.join(contrasts)} and "
            f"data.neighbours={neighbours}, accepted: cohort, png_folder, array_record"
        )
    there = [c for c in contrasts if has_split(split, name=name, root=root, modality=c)]
    if name == "png_folder" and root and (epath.Path(root) / split).is_dir():
        held = {m.lower() for m in png_folder.list_contents(root).get(split, ())}
        there = [c for c in there if c.lower() in held]
    # Where nothing is there the first source says why.
    sources = {
        c: make_source(split, name=name, root=root, modality=c, **more)
        for c in there or contrasts[:1]
    }
    return stacked.Stacked(sources, contrasts, neighbours)


def inspect(source: Any, split: str, data: tuple[str, str, str], image_size: int) -> list[str]:
    """A line for whatever in a split contradicts its folder or the splits opened before.

    Args:
      source: the split, opened.
      split: its name.
      data: (source, root, modality), which names the data set.
      image_size: side that it is handed out with, px.

    Raises:
      UserError: a file that was looked at cannot be read.
    """
    remote = "://" in data[1]
    known = _BRIGHTNESS.setdefault(data, {})
    known[split] = contents.measure_brightness(source)
    return [
        *getattr(source, "notes", ()),
        *contents.segmentation_notes(source, split, image_size, remote=remote),
        *contents.brightness_notes(split, known[split], known),
    ]


def has_split(split: str, *, name: str, root: str, modality: str) -> bool:
    """Whether a data set, of which another split was opened, holds this one too."""
    # By listing and not by opening: a split that is missing is no error here.
    if name == "cohort":
        return split in cohort_lib.SPLITS
    if name == "array_record":
        return modality in array_record.list_contents(root).get(split, ())
    if name == "tfds":
        from madad_jax.data.sources import tfds_builder

        return tfds_builder.has_split(root, split)
    return (epath.Path(root) / split).is_dir()
