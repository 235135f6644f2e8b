"""PNG bytes to pixels, for every colour type and depth that the format knows.

A mask counts where any colour channel is above 0: grey, RGB, or the colour that a palette's index
stands for (so that index 0 counts unless it is black, as every viewer shows it). Alpha is no
label: it only blanks the pixels that are transparent altogether. An image must be grey; three
equal channels are grey too.
"""

import dataclasses
import struct
import zlib

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Shaped

from madad_jax.core import errors, messages

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Width, height, depth and colour type stand first, behind the length and name of their chunk.
_HEADER, _HEADER_AT = struct.Struct(">IIBB"), 16
_GREY = 0
_MOST_PIXELS = 1 << 26  # 8192 x 8192; a few bytes can claim far more, and decoding would make room.
_ACCEPTED = "accepted: 8- or 16-bit grey PNG"


@dataclasses.dataclass(frozen=True)
class Part:
    """A PNG: where it stands, for messages, and its bytes."""

    name: str
    content: bytes


@dataclasses.dataclass(frozen=True)
class Header:
    """What a PNG says of itself: size in px, bits a channel, colour type of the format."""

    width: int
    height: int
    depth: int
    colour: int


def decode_grey(part: Part) -> Float32[np.ndarray, "H W"]:
    """A grey picture, scaled to [0, 1] by the file's depth.

    Raises:
      UserError: the bytes are no readable PNG, or the picture is coloured.
    """
    pixels = _decode(part)
    if pixels.ndim == 3:
        colours = _visible(pixels)
        if (colours != colours[..., :1]).any():
            raise errors.UserError(
                f"'{messages.shorten(part.name, 200)}' is a picture in colour; {_ACCEPTED}, or "
                "colour whose three channels are equal"
            )
        pixels = colours[..., 0]
    # By the file's own depth: 255 of 8 bits and 65535 of 16 bits are the same white.
    return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)


def decode_mask(part: Part) -> Bool[np.ndarray, "H W"]:
    """Where a mask or segmentation is set; see the module's text for colours.

    Raises:
      UserError: the bytes are no readable PNG, or alpha is all that tells its pixels apart.
    """
    pixels = _decode(part)
    if pixels.ndim == 2:
        return pixels > 0
    marked = (_visible(pixels) > 0).any(axis=-1)
    # A drawing in black on nothing: taken as it stands, a known lesion would be none.
    if pixels.shape[-1] == 4 and not marked.any() and np.ptp(pixels[..., 3]):
        raise errors.UserError(
            f"'{messages.shorten(part.name, 200)}' holds its marks in the alpha channel alone; "
            "accepted: above 0 in grey or colour where it is set"
        )
    return marked


def _visible(pixels: Shaped[np.ndarray, "H W c"]) -> Shaped[np.ndarray, "H W 3"]:
    """The colour channels, 0 where a pixel is transparent altogether."""
    # Alpha of 0 everywhere is an unused channel, not a picture of nothing.
    if pixels.shape[-1] < 4 or not pixels[..., 3].any():
        return pixels[..., :3]
    return np.where(pixels[..., 3:] > 0, pixels[..., :3], 0)


def _decode(part: Part) -> np.ndarray:
    """[H, W] of a grey PNG, else [H, W, 3] or, with alpha, [H, W, 4]."""
    header = read_header(part)
    # Grey, which nearly all are, has no channels to keep apart and is decoded faster so.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    if header.colour != _GREY:
        flags = cv2.IMREAD_UNCHANGED
    # As stored: OpenCV would turn grey pictures by their Exif data, and leave coloured masks.
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(part.content, np.uint8), flags)
    if pixels is None:
        raise _unreadable(part)
    return pixels


def bit_depth(part: Part) -> int:
    """8 or 16: the depth that the pixels are read with. Raises UserError for another format."""
    return 16 if read_header(part).depth == 16 else 8


def read_header(part: Part) -> Header:
    """Size and kind of a PNG, all of whose bytes are there.

    Raises:
      UserError: no PNG, a damaged one, or one of more pixels than any slice has.
    """
    # Checked here because decoders differ in what they let through, and print about it.
    if not _is_whole(part.content):
        raise _unreadable(part)
    header = Header(*_HEADER.unpack_from(part.content, _HEADER_AT))
    if header.width * header.height > _MOST_PIXELS:
        raise errors.UserError(
            f"'{messages.shorten(part.name, 200)}' claims {header.width}x{header.height} px; "
            f"accepted: at most {_MOST_PIXELS} pixels"
        )
    return header


def _unreadable(part: Part) -> errors.UserError:
    return errors.UserError(
        f"'{messages.shorten(part.name, 200)}' is not a readable PNG ({len(part.content)} bytes: "
        f"damaged or another format); {_ACCEPTED}"
    )


def _is_whole(content: bytes) -> bool:
    """Whether all chunks from IHDR to IEND are there with the checksums they carry."""
    if content[:16] != _SIGNATURE + b"\x00\x00\x00\x0dIHDR":
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
