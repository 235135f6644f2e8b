"""Pixels of a DICOM image: held against the file's length before anything is unpacked."""

import dataclasses
import hashlib
import math

import numpy as np
from jaxtyping import Shaped

from madad_jax.core import errors, messages
from madad_jax.scans import dicom_files

_GREY = ("MONOCHROME1", "MONOCHROME2")
_BITS = (8, 16, 32)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What an image says of its pixels.

    Attributes:
      rows, columns, frames: sizes.
      limits: lowest and highest stored value; None: low values are dark as they are.
    """

    rows: int
    columns: int
    frames: int
    limits: tuple[int, int] | None

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns


def read_layout(file: dicom_files.File) -> Layout:
    """Sizes and kind of the pixels, which must agree with their length.

    Raises:
      UserError: colour, a size or kind that makes no sense, pixel data of another length.
    """
    data, path = file.dataset, file.path
    rows, columns = _whole(file, "Rows"), _whole(file, "Columns")
    frames, samples = _whole(file, "NumberOfFrames", 1), _whole(file, "SamplesPerPixel")
    photometric = str(data.get("PhotometricInterpretation") or "")
    if not photometric:
        raise errors.UserError(
            f"'{path}' lacks PhotometricInterpretation; accepted: {' and '.join(_GREY)}"
        )
    if samples != 1 or photometric not in _GREY:
        raise errors.UserError(
            f"'{path}' holds colour images ({messages.shorten(photometric)}, "
            f"{samples} samples a pixel); accepted: {' and '.join(_GREY)}"
        )
    allocated, stored = _whole(file, "BitsAllocated"), _whole(file, "BitsStored")
    high = _whole(file, "HighBit", stored - 1, least=0)
    if allocated not in _BITS or stored > allocated or high != stored - 1:
        raise dicom_files.NotCarried(
            f"'{path}' has {allocated} bits a pixel, {stored} stored up to bit {high}; accepted: "
            f"8, 16 or 32, stored from bit 0 on; {dicom_files.TRY_CONVERTER}"
        )
    if "ModalityLUTSequence" in data:
        raise dicom_files.NotCarried(
            f"'{path}' has a table of values (Modality LUT); accepted: a slope; "
            f"{dicom_files.TRY_CONVERTER}"
        )
    _check_length(file, rows * columns * allocated // 8, frames, min(rows, columns))
    limits = None
    if photometric == "MONOCHROME1":
        signed = _whole(file, "PixelRepresentation", 0, least=0)
        half = 2 ** (stored - 1)
        limits = (-half, half - 1) if signed else (0, 2 * half - 1)
    return Layout(rows, columns, frames, limits)


def decode(file: dicom_files.File, layout: Layout) -> Shaped[np.ndarray, "frames rows columns"]:
    """The stored values as they are in the file.

    Raises:
      UserError: a compression that cannot be read, or damaged pixels.
    """
    try:
        array = file.dataset.pixel_array
    except Exception as error:  # Decoders of many authors: no set of exceptions is promised.
        syntax = file.dataset.file_meta.get("TransferSyntaxUID")
        raise dicom_files.NotCarried(
            f"'{file.path}': pixels cannot be decoded "
            f"({messages.shorten(getattr(syntax, 'name', syntax) or 'no transfer syntax')}: "
            f"{messages.shorten(' '.join(str(error).split()), 200)}); convert it to an "
            f"uncompressed series, or install 'pylibjpeg[all]'; {dicom_files.TRY_CONVERTER}"
        ) from error
    shape = (layout.frames, *layout.size)
    if array.size != math.prod(shape):
        raise errors.UserError(
            f"'{file.path}' unpacks to pixels of shape {array.shape}; its header says {shape}"
        )
    return array.reshape(shape)


def digest(file: dicom_files.File, layout: Layout) -> bytes:
    """Of the stored values, however they are packed: a compressed copy has its original's.

    Raises:
      UserError: see `decode`.
    """
    array = decode(file, layout)
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return hashlib.sha256(plain.data).digest()


def _check_length(file: dicom_files.File, frame: int, frames: int, shorter: int) -> None:
    """`frame`: bytes of one; `shorter`: pixels of the shorter side."""
    syntax = file.dataset.file_meta.get("TransferSyntaxUID")
    if not getattr(syntax, "is_transfer_syntax", False):
        raise errors.UserError(
            f"'{file.path}' has the transfer syntax {messages.shorten(syntax)}; accepted: those "
            "of the standard"
        )
    found, expected = len(file.dataset["PixelData"].value or b""), frame * frames
    if syntax.is_compressed:
        dicom_files.check_unpacked(file.path, expected, found)
        return
    # What is missing is damage; a surplus below a line of pixels is padding of some writers.
    if not expected <= found < expected + shorter:
        raise errors.UserError(
            f"'{file.path}' has {found} bytes of pixels; by its rows, columns, frames and bits "
            f"there are {expected}"
        )


def _whole(
    file: dicom_files.File,
    name: str,
    default: int | None = None,
    *,
    least: int = 1,
    most: int = 2**16 - 1,
) -> int:
    """An element that must be one whole number; `default` where it is absent or empty."""
    with dicom_files.guard(file.path):
        value = file.dataset.get(name)
    value = default if value is None or value == "" else value
    number = value if isinstance(value, (int, float)) else None
    if number is None or not least <= number <= most or number != int(number):
        raise errors.UserError(
            f"'{file.path}': {name} is {messages.shorten(value)}; accepted: a whole number from "
            f"{least} to {most}"
        )
    return int(number)


def to_values(
    plane: np.ndarray, layout: Layout, slope: float, intercept: float
) -> Shaped[np.ndarray, "rows columns"]:
    """Stored values [rows, columns] as float32 values, low ones dark.

    MONOCHROME1 is turned before the slope, on the range of the stored bits: 0 and
    2 ** BitsStored - 1 (for signed ones the two ends) change places, as in ITK.
    """
    if layout.limits is None and (slope, intercept) == (1.0, 0.0):
        return plane.astype(np.float32)
    # In float64: slopes of a slice's own have many digits.
    values = plane.astype(np.float64)
    if layout.limits is not None:
        np.subtract(sum(layout.limits), values, out=values)
    values *= slope
    values += intercept
    with np.errstate(over="ignore"):  # Infinite then, which readers of scans report.
        return values.astype(np.float32)
