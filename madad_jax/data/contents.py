"""Pixels that contradict the folder they lie in: a line for each kind, when a split is opened.

Lesions where a split says healthy, lesions that hang on one pixel once they are resized, pictures
that fill a corner of their file's range, one split scaled unlike another. All segmentations of a
split are read (under a millisecond each), and the pixels of 64 slices; of a remote store 256
segmentations. Lines and no refusals: a folder may hold on purpose what these rules doubt.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from madad_jax.core import messages
from madad_jax.data.sources import encoded as encoded_lib
from madad_jax.data.sources import png_pixels
from madad_jax.scans import lesion_resize

_SAMPLE = 64
_MOST_DARK = 512  # Slices that are looked at before a split is called dark.
_MOST_REMOTE = 256
_DARK = 0.25  # Of the file's range: 12 bits in 16 reach a sixteenth, 14 bits just not a quarter.
_UNLIKE = 2.0  # Ratio of two splits' bright levels; preparation by percentiles leaves 1.0 to 1.3.


@dataclasses.dataclass(frozen=True)
class Brightness:
    """Of a sample: `white` is the brightest brain pixel and `level` the median over slices of
    their 99th percentile, both in shares of the file's range; `bits` of the files; `looked_at`."""

    white: float
    level: float
    bits: int
    looked_at: int


def segmentation_notes(source: Any, split: str, image_size: int, *, remote: bool) -> list[str]:
    """Lines about the segmentations of a split.

    Args:
      source: with `records` and `read_segmentation`.
      split: its name, which says whether lesions belong there.
      image_size: px a side that slices are handed out with.
      remote: whether each file is a request to a store.

    Raises:
      UserError: a segmentation is no readable PNG.
    """
    numbers = _spread(len(source.records), _MOST_REMOTE if remote else len(source.records))
    of = f"of {len(numbers)} slices" + (" looked at" if len(numbers) < len(source.records) else "")
    known, sick, tiny = 0, [], []
    # Most segmentations are empty and equal to the byte: those are decoded once.
    empty: set[bytes] = set()
    for i in numbers:
        part = source.read_segmentation(i)
        known += part is not None
        if part is None or part.content in empty:
            continue
        pixels = encoded_lib.pad_to_square(png_pixels.decode_mask(part))
        if not pixels.any():
            empty.add(part.content)
            continue
        sick.append(i)
        if image_size < pixels.shape[0] and lesion_resize.shrink(pixels, image_size)[1]:
            tiny.append(i)

    def name(places: list[int]) -> str:
        return f"such as '{messages.shorten(source.records[places[0]].id)}'"

    lines = []
    if sick and _is_healthy(split):
        use = {"val": "thresholds are chosen on them", "train": "they are learned as normal"}
        lines.append(
            f"split '{split}' should be healthy, but {len(sick)} {of} have a lesion in their "
            f"segmentation, {name(sick)}; {use.get(split, 'they count as false alarms')}"
        )
    if tiny:
        lines.append(
            f"split '{split}': {len(tiny)} {of} have a lesion that would vanish at {image_size} px "
            f"and is kept as one pixel, {name(tiny)}"
        )
    if split.endswith("_lesion") and len(sick) < known:
        lines.append(
            f"split '{split}': {known - len(sick)} {of} have an empty segmentation and are "
            "learned as abnormal all the same"
        )
    if split.startswith("test") and not _is_healthy(split) and not sick:
        found = "an empty segmentation each" if known else "no segmentation"
        lines.append(f"split '{split}': found {found}; no figure against a truth can be computed")
    return lines


def _is_healthy(split: str) -> bool:
    return split in ("train", "val") or split.endswith("_healthy")


def measure_brightness(source: Any) -> Brightness:
    """How a sample of a split's slices fills the range of its files.

    Slices are taken at even distances; only where all of them are dark more are looked at.

    Raises:
      UserError: a slice that cannot be read.
    """
    levels, white, bits, seen = [], 0.0, 8, 0
    first = _spread(len(source.records), _SAMPLE)
    more = [i for i in _spread(len(source.records), _MOST_DARK) if i not in set(first)]
    for i in (*first, *more):
        if seen >= len(first) and white >= _DARK:
            break
        encoded = source.read_encoded(i)
        image = png_pixels.decode_grey(encoded.image)
        mask = png_pixels.decode_mask(encoded.brain_mask)
        seen += 1
        # Another size is refused, by name, when the slice is read for use.
        if mask.shape != image.shape or not mask.any():
            continue
        inside = image[mask]
        white = max(white, float(inside.max()))
        levels.append(float(np.quantile(inside, 0.99)))
        bits = max(bits, png_pixels.bit_depth(encoded.image))
    return Brightness(white, float(np.median(levels)) if levels else 0.0, bits, seen)


def brightness_notes(split: str, mine: Brightness, others: Mapping[str, Brightness]) -> list[str]:
    """Lines about the scale of a split's pictures, and about other splits scaled unlike it."""
    lines = []
    if 0.0 < mine.white < _DARK:
        top = 2**mine.bits - 1
        value = round(mine.white * top)
        kind = f"{max(1, value.bit_length())}-bit values in {mine.bits}-bit files"
        lines.append(
            f"split '{split}' looks like {kind}: the brightest brain pixel of {mine.looked_at} "
            f"slices is {value} of {top}, so that its pictures are almost black; scale them to the "
            "whole range"
        )
    elif not mine.white:
        lines.append(
            f"split '{split}': found {mine.looked_at} slices without a brain pixel above 0"
        )
    for name, other in others.items():
        low, high = sorted((mine.level, other.level))
        if name != split and low > 0.0 and high / low > _UNLIKE:
            lines.append(
                f"splits '{split}' and '{name}' are scaled unlike one another: 99 % of the brain "
                f"lies below {mine.level:.3g} and below {other.level:.3g} of the files' range"
            )
    return lines


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` numbers below `count` at even distances."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})
