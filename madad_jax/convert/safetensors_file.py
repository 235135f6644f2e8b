"""Opens `.safetensors` files tensor by tensor, bfloat16 included.

Layout: a little-endian uint64 n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the
bytes of all tensors. The format has no checksum.
"""

import io
import json
import math
from typing import Any

from madad_jax.convert import tensors
from madad_jax.core import errors

MAX_HEADER = 1 << 26
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def is_one(stream: Any) -> bool:
    """Whether the stream begins as such a file does."""
    stream.seek(0)
    start = stream.read(9)
    stream.seek(0)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**40


def load(name: str, stream: Any) -> dict[str, tensors.Tensor]:
    """{key: tensor}, read from the stream when asked.

    Raises:
        UserError: a header that is damaged or reaches beyond the file.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise errors.UserError(f"{name}: damaged: a header of {length} bytes in {size}")
    try:
        header = json.loads(stream.read(length))
    except (ValueError, RecursionError) as error:
        raise errors.UserError(f"{name}: damaged: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise errors.UserError(f"{name}: damaged: its header is no table")
    header.pop("__metadata__", None)
    start = 8 + length
    return {key: _tensor(name, stream, key, entry, start, size) for key, entry in header.items()}


def _tensor(name: str, stream: Any, key: str, entry: Any, start: int, size: int) -> tensors.Tensor:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UserError(f"{name}: damaged: header entry {key!r}") from error
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or end > size - start:
        raise errors.UserError(f"{name}: damaged: {key} lies at {begin}..{end} of {size - start}")
    dtype = DTYPES.get(dtype, str(dtype))
    numel = math.prod(shape)
    if dtype in tensors.DTYPES and numel * tensors.DTYPES[dtype][1] != end - begin:
        raise errors.UserError(f"{name}: damaged: {key} {shape} {dtype} in {end - begin} bytes")

    def read() -> bytes:
        stream.seek(start + begin)
        return stream.read(end - begin)

    strides = tensors.strides_of(shape)
    return tensors.Tensor(name, tensors.Storage(dtype, numel, read), 0, shape, strides)
