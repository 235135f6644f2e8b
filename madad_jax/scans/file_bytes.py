"""Bytes of image files, compressed or not: no claim of a header believed that the length denies.

A compressed file is read to its end: gzip keeps its checksum and its length there, and a damaged
stream may still hold a whole image.
"""

import contextlib
import dataclasses
import gzip
import io
import math
import zlib
from collections.abc import Iterator

import numpy as np
from etils import epath

from madad_jax.core import errors, messages

# 4 GiB as float32: beyond any head scan, well within what a damaged header may claim.
MOST_VOXELS = 2**30
# Localizers and crops of a few voxels are no scans: no mask or registration works on them.
LEAST_SIDE = 8
# Deflate cannot pack tighter: what a file of some length may hold.
_TIGHTEST = 1032
_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Start:
    """The first bytes of a file, unpacked; its length on disk, and whether it is gzip's."""

    content: bytes
    size: int
    packed: bool


def read_start(path: epath.Path, count: int) -> Start:
    """At most `count` first bytes of what is in a file.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        with guard(path):
            size = path.stat().length
            with path.open("rb") as file:
                packed = file.read(2) == _GZIP
                file.seek(0)
                start = (gzip.GzipFile(fileobj=file) if packed else file).read(count)
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    return Start(start, size, packed)


@contextlib.contextmanager
def guard(path: epath.Path) -> Iterator[None]:
    """What a damaged stream raises becomes one line that names the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(path, error) from error


def check_length(
    path: epath.Path,
    size: int,
    end: int,
    shape: tuple[int, ...],
    *,
    packed: bool,
    most_after: int,
) -> None:
    """Holds an image that ends at byte `end` against the file's `size`, before room is made.

    Raises:
      UserError: the file is too short or too long for it.
    """
    if end > size * (_TIGHTEST if packed else 1):
        what = f"{size} packed bytes cannot hold" if packed else f"{size} of"
        raise errors.UserError(
            f"'{path}' is truncated: {what} {end} bytes (the header says {by(shape)} voxels)"
        )
    # What does not shrink grows by less than a thousandth; blocks of their own cost more.
    if size > (2 * end + 2**20 if packed else end + most_after):
        raise too_long(path, end, shape, most_after)


def open_plain(content: bytes) -> io.BufferedIOBase:
    """The stream of what is in a file of these bytes."""
    # Members one after another are one stream, as gzip defines it.
    packed = content[:2] == _GZIP
    return gzip.GzipFile(fileobj=io.BytesIO(content)) if packed else io.BytesIO(content)


def take(
    stream: io.BufferedIOBase, end: int, path: epath.Path, shape: tuple[int, ...], most_after: int
) -> tuple[bytes, bytes]:
    """The bytes up to the image's end, and those that follow.

    Raises:
      UserError: fewer are there, or more than `most_after` follow.
    """
    body = stream.read(end)
    if len(body) < end:
        raise errors.UserError(
            f"'{path}' is truncated: {len(body)} of {end} bytes (the header says "
            f"{by(shape)} voxels)"
        )
    # One byte beyond the bound, which is enough to know: a small file may unpack to terabytes.
    rest, left = [], most_after + 1
    while left and (piece := stream.read(left)):
        rest.append(piece)
        left -= len(piece)
    if not left:
        raise too_long(path, end, shape, most_after)
    return body, b"".join(rest)


def check_sides(path: epath.Path, shape: tuple[int, ...]) -> None:
    """Refuses an image that is no head scan by its sides.

    Raises:
      UserError: not three axes, a side below 8 voxels, or more than 2^30 voxels.
    """
    if len(shape) != 3:
        raise errors.UserError(
            f"'{path}' has {len(shape)} dimensions ({by(shape)}); accepted: one volume of 3 "
            "(split a series of volumes first)"
        )
    if min(shape) < LEAST_SIDE or math.prod(shape) > MOST_VOXELS:
        raise errors.UserError(
            f"'{path}' has {by(shape)} voxels; accepted: at least {LEAST_SIDE} a side and at "
            f"most {MOST_VOXELS} in all"
        )


def by(shape: tuple[int, ...]) -> str:
    """Sides as text, e.g. `181 x 217 x 181`."""
    return " x ".join(str(n) for n in shape)


def no_numbers(name: str, kind: np.dtype | str) -> errors.UserError:
    """Of values that are no plain numbers."""
    return errors.UserError(
        f"'{name}' holds {messages.shorten(str(kind))} (colour, bits or complex numbers); "
        "accepted: integers and floats"
    )


def too_long(
    path: epath.Path, end: int, shape: tuple[int, ...], most_after: int
) -> errors.UserError:
    """Of a file that goes on behind its image."""
    return errors.UserError(
        f"'{path}' is longer than its header says ({by(shape)} voxels end at byte "
        f"{end}; at most {most_after} zeros may follow): header or image is damaged"
    )


def damaged(path: epath.Path, error: Exception) -> errors.UserError:
    """Of a stream that ends early or fails its checksum."""
    return errors.UserError(f"'{path}' is truncated or damaged: {messages.shorten(str(error))}")
