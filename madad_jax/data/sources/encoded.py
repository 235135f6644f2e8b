"""One slice as PNG files hold it, and from there to the arrays of a `record.Source`.

PNG folders, ArrayRecord shards and TFDS data sets all carry the same PNG bytes: this file is
where they become pixels, so that all three train alike.

Images of any size are padded with background to a square (never stretched), then resized; the
area outside the brain mask is set to -1. 8-bit values are divided by 255, 16-bit values by 65535.
Masks are > 0 inside and are resized by nearest neighbour.
"""

import dataclasses
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.data.sources import record as record_lib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH = 24  # offset of the byte in the header chunk, which always stands first


@dataclasses.dataclass(frozen=True)
class Part:
    """A PNG: where it stands, for messages, and its bytes."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class EncodedSlice:
    """A slice before it is decoded; `segmentation` is None where the truth is not known."""

    record: record_lib.Record
    image: Part
    brain_mask: Part
    segmentation: Part | None


def element(encoded: EncodedSlice, size: int) -> dict[str, Any]:
    """What a `record.Source` hands out, at `size` px a side.

    Raises:
      UserError: a part is no readable PNG, or a mask has another size than its image.
    """
    image = decode_grey(encoded.image)
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
        "segmentation": resize_mask(pad_to_square(segmentation), size),
        "has_segmentation": np.bool_(encoded.segmentation is not None),
    }


def decode_grey(part: Part) -> Float32[np.ndarray, "H W"]:
    """A grey PNG scaled to [0, 1] by its bit depth; colour is turned into grey.

    Raises:
      UserError: the bytes are no readable PNG.
    """
    pixels = None
    # Checked here because decoders differ in what they let through, and print about it.
    if _is_whole_png(part.content):
        flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
        pixels = cv2.imdecode(np.frombuffer(part.content, np.uint8), flags)
    if pixels is None:
        raise errors.UserError(
            f"'{part.name}' is not a readable PNG ({len(part.content)} bytes: damaged or another "
            "format); accepted: 8- or 16-bit grey PNG"
        )
    # By the file's own depth: 255 of 8 bits and 65535 of 16 bits are the same white.
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def bit_depth(part: Part) -> int:
    """Bits a channel, as the PNG's header says. Raises UserError for another format."""
    if not _is_whole_png(part.content):
        raise errors.UserError(f"'{part.name}' is not a readable PNG")
    return part.content[_BIT_DEPTH]


def _is_whole_png(content: bytes) -> bool:
    """Whether all chunks up to IEND are there with the checksums they carry."""
    if not content.startswith(_SIGNATURE):
        return False
    position = len(_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 8 + length
        if end + 4 > len(content):
            return False
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(content[position + 4 : end]) != checksum:
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def _decode_mask(part: Part, *, like: np.ndarray, of: Part) -> np.ndarray:
    pixels = decode_grey(part)
    if pixels.shape != like.shape:
        raise errors.UserError(
            f"'{part.name}' is {_size(pixels)} px but its image '{of.name}' is {_size(like)}; "
            "they must be of one size"
        )
    return pixels > 0


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
    """Nearest neighbour, pixel centres aligned."""
    if pixels.shape[0] == size:
        return pixels
    method = cv2.INTER_NEAREST_EXACT
    return cv2.resize(pixels.astype(np.uint8), (size, size), interpolation=method) > 0
