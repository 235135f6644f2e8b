"""One slice as PNG files hold it, and from there to the arrays of a `record.Source`.

PNG folders, ArrayRecord shards and TFDS data sets all carry the same PNG bytes: this file is
where they become pixels, so that all three train alike.

Images of any size are padded with background to a square (never stretched), then resized; the
area outside the brain mask is set to -1. 8-bit values are divided by 255, 16-bit values by 65535.
Masks are > 0 inside (`png_pixels.decode_mask`). Brain masks are resized by nearest neighbour,
segmentations by coverage, so that no lesion vanishes (`lesion_resize`).
"""

import dataclasses
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.data.sources import png_pixels
from madad_jax.data.sources import record as record_lib
from madad_jax.scans import lesion_resize


@dataclasses.dataclass(frozen=True)
class EncodedSlice:
    """A slice before it is decoded; `segmentation` is None where the truth is not known."""

    record: record_lib.Record
    image: png_pixels.Part
    brain_mask: png_pixels.Part
    segmentation: png_pixels.Part | None


def element(encoded: EncodedSlice, size: int) -> dict[str, Any]:
    """What a `record.Source` hands out, at `size` px a side.

    Raises:
      UserError: a part is no readable PNG, or a mask has another size than its image.
    """
    image = png_pixels.decode_grey(encoded.image)
    mask = _decode_mask(encoded.brain_mask, like=image, of=encoded.image)
    segmentation = np.zeros_like(mask)
    if encoded.segmentation is not None:
        segmentation = _decode_mask(encoded.segmentation, like=image, of=encoded.image)
    brain = resize_mask(pad_to_square(mask), size)
    # Masked before resizing: a bright skull must not bleed into the brain's rim.
    unit = resize_image(pad_to_square(np.where(mask, image, np.float32(0))), size)
    pixels = np.where(brain, unit * 2.0 - 1.0, -1.0).astype(np.float32)
    return {
        "image": pixels[..., None],
        "brain_mask": brain,
        "segmentation": resize_lesion(pad_to_square(segmentation), size),
        "has_segmentation": np.bool_(encoded.segmentation is not None),
    }


def _decode_mask(part: png_pixels.Part, *, like: np.ndarray, of: png_pixels.Part) -> np.ndarray:
    pixels = png_pixels.decode_mask(part)
    if pixels.shape != like.shape:
        raise errors.UserError(
            f"'{part.name}' is {_size(pixels)} px but its image '{of.name}' is {_size(like)}; "
            "they must be of one size"
        )
    return pixels


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """[H, W] -> [S, S] with S = max(H, W), centred on zeros."""
    height, width = pixels.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), pixels.dtype)
    square[top : top + height, left : left + width] = pixels
    return square


def resize_image(pixels: Float32[np.ndarray, "S S"], size: int) -> Float32[np.ndarray, "T T"]:
    """Area average when shrinking (no aliasing), bicubic when growing; stays in [0, 1]."""
    if pixels.shape[0] == size:
        return pixels
    method = cv2.INTER_AREA if pixels.shape[0] > size else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, (size, size), interpolation=method)
    return np.clip(resized, 0.0, 1.0)


def resize_mask(pixels: Bool[np.ndarray, "S S"], size: int) -> Bool[np.ndarray, "T T"]:
    """A brain mask: nearest neighbour, pixel centres aligned."""
    if pixels.shape[0] == size:
        return pixels
    method = cv2.INTER_NEAREST_EXACT
    return cv2.resize(pixels.astype(np.uint8), (size, size), interpolation=method) > 0


def resize_lesion(pixels: Bool[np.ndarray, "S S"], size: int) -> Bool[np.ndarray, "T T"]:
    """A segmentation: by coverage when shrinking (`lesion_resize`), nearest when growing."""
    if pixels.shape[0] <= size or not pixels.any():
        return resize_mask(pixels, size)
    return lesion_resize.shrink(pixels, size)[0]
