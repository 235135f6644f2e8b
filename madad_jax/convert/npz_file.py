"""Opens `.npz` files array by array, within bounds that the file cannot set.

An archive may say that it unpacks to far more than it weighs: the sizes that it states are held
against a bound before anything is unpacked. Every entry is read to its end, where zip keeps a
checksum. Nothing is unpickled.
"""

import io
import math
import zipfile
from typing import Any

import numpy as np

from madad_jax.convert import tensors
from madad_jax.core import errors, messages, npz_errors

MOST_TIMES = 32  # an archive's arrays over its own bytes; trained weights hardly compress
MOST_BYTES = 64 << 20  # that any archive may unpack to
_TYPES = {
    np.dtype("?" if name == "bool" else code): name
    for name, (code, _) in tensors.DTYPES.items()
    if name != "bfloat16"  # numpy has no name for it
}


def is_one(stream: Any) -> bool:
    """Whether the stream is a zip archive of `.npy` files."""
    stream.seek(0)
    start = stream.read(2)
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except npz_errors.READING:
        names = []
    stream.seek(0)
    return start == b"PK" and bool(names) and all(name.endswith(".npy") for name in names)


def load(name: str, stream: Any) -> dict[str, tensors.Tensor]:
    """{key: tensor}, unpacked when asked.

    Raises:
        UserError: damaged, objects in place of numbers, or arrays beyond the bound.
    """
    size = stream.seek(0, io.SEEK_END)
    try:
        archive = zipfile.ZipFile(stream)
        entries = archive.infolist()
    except npz_errors.READING as error:
        raise errors.UserError(f"{name}: damaged: {messages.shorten(error)}") from error
    claimed = sum(entry.file_size for entry in entries)
    bound = max(MOST_BYTES, MOST_TIMES * size)
    if claimed > bound or len(entries) > tensors.MAX_TENSORS:
        raise errors.UserError(
            f"{name}: {len(entries)} arrays that unpack to {claimed} bytes; accepted are at most "
            f"{bound} for a file of {size}"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise errors.UserError(f"{name}: damaged: two arrays have one name")
    return {entry.filename.removesuffix(".npy"): _tensor(name, archive, entry) for entry in entries}


def _tensor(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tensors.Tensor:
    shown = messages.shorten(entry.filename)
    try:
        with archive.open(entry) as stream:
            version = np.lib.format.read_magic(stream)
            reads = {(1, 0): np.lib.format.read_array_header_1_0}
            reads[2, 0] = np.lib.format.read_array_header_2_0
            shape, fortran, kind = reads[version](stream)
            start = stream.tell()
    except npz_errors.READING as error:
        raise errors.UserError(f"{name}: damaged: {shown}: {messages.shorten(error)}") from error
    dtype = _TYPES.get(kind.newbyteorder("="))
    if dtype is None:
        raise errors.UserError(
            f"{name}: {shown} is of type {messages.shorten(kind)}; accepted are numbers"
        )
    numel = math.prod(shape)
    if start + numel * kind.itemsize != entry.file_size:
        raise errors.UserError(
            f"{name}: damaged: {shown} has {entry.file_size} bytes, not those of {shape} {kind}"
        )

    def read() -> bytes:
        try:
            with archive.open(entry) as stream:
                # To the end, where the checksum is compared.
                return stream.read()[start:]
        except npz_errors.READING as error:
            raise errors.UserError(
                f"{name}: damaged: {shown}: {messages.shorten(error)}"
            ) from error

    steps = tensors.strides_of(shape[::-1] if fortran else shape)
    place = tensors.check(name, numel, 0, shape, steps[::-1] if fortran else steps, numel)
    storage = tensors.Storage(dtype, numel, read, kind.str[0] == ">", entry.filename)
    return tensors.Tensor(name, storage, *place)
