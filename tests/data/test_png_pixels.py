"""Every colour type of PNG says where a lesion is."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from madad_jax.core import errors
from madad_jax.data.sources import png_pixels


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, width, depth, colour, *extra):
    """A file of these rows of bytes, whatever Pillow and OpenCV can write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return png_pixels.Part("a.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


PALETTE = chunk(b"PLTE", bytes([0, 0, 0, 1, 0, 0, 0, 0, 4]))
WHITE_FIRST = chunk(b"PLTE", bytes([255, 255, 255, 0, 0, 0]))
# Two pixels each: background, then lesion.
MASKS = {
    "grey 1 bit": png([b"\x40"], 2, 1, 0),
    "grey 2 bits": png([b"\x10"], 2, 2, 0),
    "grey 4 bits": png([b"\x01"], 2, 4, 0),
    "grey 8 bits": png([b"\x00\x01"], 2, 8, 0),
    "grey 16 bits": png([b"\x00\x00\x00\x01"], 2, 16, 0),
    "grey and alpha": png([b"\x00\xff\x01\x07"], 2, 8, 4),
    "grey and alpha, 16 bits": png([b"\x00\x00\xff\xff\x00\x01\xff\xff"], 2, 16, 4),
    "red": png([b"\x00\x00\x00\x01\x00\x00"], 2, 8, 2),
    "blue": png([b"\x00\x00\x00\x00\x00\x01"], 2, 8, 2),
    "blue of 4": png([b"\x00\x00\x00\x00\x00\x04"], 2, 8, 2),
    "red, 16 bits": png([b"\x00\x00" * 3 + b"\x00\x01" + b"\x00\x00" * 2], 2, 16, 2),
    "red and alpha": png([b"\x00\x00\x00\xff\x01\x00\x00\xff"], 2, 8, 6),
    "white that is transparent": png([b"\xff\xff\xff\x00\x01\x00\x00\x80"], 2, 8, 6),
    "alpha that is unused": png([b"\x00\x00\x00\x00\x01\x00\x00\x00"], 2, 8, 6),
    "palette 1 bit": png([b"\x40"], 2, 1, 3, PALETTE),
    "palette 2 bits": png([b"\x20"], 2, 2, 3, PALETTE),
    "palette 4 bits": png([b"\x02"], 2, 4, 3, PALETTE),
    "palette 8 bits": png([b"\x00\x02"], 2, 8, 3, PALETTE),
    "palette with white first": png([b"\x01\x00"], 2, 8, 3, WHITE_FIRST),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_counts_above_0_in_any_colour(name):
    assert png_pixels.decode_mask(MASKS[name]).tolist() == [[False, True]]


def test_a_mask_in_the_alpha_channel_alone_is_named():
    for rows in ([b"\0\0\0\0\0\0\0\xff"], [b"\xff\xff\xff\0\0\0\0\xff"]):
        with pytest.raises(errors.UserError, match=r"'a\.png' holds its marks in the alpha"):
            png_pixels.decode_mask(png(rows, 2, 8, 6))


def test_an_image_with_equal_channels_is_grey():
    for part in (png([b"\x00\x00\x00\x33\x33\x33"], 2, 8, 2), png([b"\x00\xff\x33\xff"], 2, 8, 4)):
        np.testing.assert_allclose(png_pixels.decode_grey(part), [[0, 0.2]], atol=1e-7)


def test_an_image_in_colour_is_refused():
    with pytest.raises(errors.UserError, match=r"'a\.png' is a picture in colour; accepted"):
        png_pixels.decode_grey(png([b"\x00\x00\x00\x33\x33\x34"], 2, 8, 2))


def test_depths_below_8_bits_are_read_as_8():
    assert [png_pixels.bit_depth(MASKS[f"grey {n}"]) for n in ("1 bit", "8 bits", "16 bits")] == [
        8,
        8,
        16,
    ]


def test_more_pixels_than_a_slice_has_are_refused_before_decoding():
    part = png([b"\0"], 100_000, 8, 0)
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    content = part.content[:8] + chunk(b"IHDR", header) + part.content[33:]
    with pytest.raises(errors.UserError, match="claims 100000x100000 px; accepted: at most"):
        png_pixels.decode_grey(png_pixels.Part("a.png", content))


def test_a_file_of_pillow_is_read_alike():
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 9]], np.uint8)).convert("P").save(out, "png")
    assert png_pixels.decode_mask(png_pixels.Part("p", out.getvalue())).tolist() == [[False, True]]


@pytest.mark.parametrize("colour", [0, 2])
def test_exif_turns_no_picture_away_from_its_mask(colour):
    half_turn = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x112, 3, 1, 3, 0)
    row = bytes([0, 51]) if colour == 0 else bytes([0, 0, 0, 51, 51, 51])
    part = png([row], 2, 8, colour, chunk(b"eXIf", half_turn))
    np.testing.assert_allclose(png_pixels.decode_grey(part), [[0, 0.2]], atol=1e-7)
    assert png_pixels.decode_mask(part).tolist() == [[False, True]]
