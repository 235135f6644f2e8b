"""Opens `.safetensors` files tensor by tensor, bfloat16 included.

Layout: a little-endian uint64 n, n bytes of JSON {name: {dtype, shape, data_offsets}}, then the
bytes of all tensors. The format has no checksum. What the format's own library refuses is refused
here: tensors that overlap or leave holes, bytes that belong to none, numbers with a point. Beyond
it a name that stands twice is refused, which the format forbids and the library overlooks.
"""

import io
import json
import math
from typing import Any

from madad_jax.convert import tensors
from madad_jax.core import errors, json_file, messages

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
# Types of the format that no weights here have: their places are checked, their values not read.
_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{name: 8 * tensors.DTYPES[ours][1] for name, ours in DTYPES.items()},
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
        UserError: a header that is damaged, or that does not describe the file byte by byte.
    """
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if length > min(MAX_HEADER, size - 8):
        raise errors.UserError(f"{name}: damaged: a header of {length} bytes in {size}")
    header = _header(name, stream.read(length))
    if len(header) > tensors.MAX_TENSORS:
        raise errors.UserError(
            f"{name}: {len(header)} tensors; accepted are at most {tensors.MAX_TENSORS}"
        )
    start = 8 + length
    found = {key: _tensor(name, stream, key, entry, start) for key, entry in header.items()}
    _check_places(name, header, size - start)
    return found


def _header(name: str, data: bytes) -> dict[str, Any]:
    """{key: entry}, without the metadata."""
    try:
        text = data.decode()  # `json` alone takes other encodings too
    except UnicodeDecodeError as error:
        raise errors.UserError(f"{name}: damaged: its header is no UTF-8") from error
    source = f"{name}: its header"
    json_file.parse_object(text, source)  # depth, numbers of too many digits

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise ValueError("a name stands twice")
        return table

    def number(digits: str) -> int:
        if digits == "-0":
            raise ValueError("-0 is no length")
        return int(digits)

    def constant(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        header = json.loads(text, object_pairs_hook=once, parse_int=number, parse_constant=constant)
    except ValueError as error:
        raise errors.UserError(f"{name}: damaged: its header: {error}") from error
    facts = header.pop("__metadata__", None)
    facts = {} if facts is None else facts
    if not isinstance(facts, dict) or not all(type(fact) is str for fact in facts.values()):
        raise errors.UserError(f"{name}: damaged: its __metadata__ is no table of texts")
    return header


def _tensor(name: str, stream: Any, key: str, entry: Any, start: int) -> tensors.Tensor:
    shown = messages.shorten(key)
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UserError(f"{name}: damaged: header entry '{shown}'") from error
    # Axes are counted before anything is computed over them.
    if type(shape) is not list or type(kind) is not str or len(shape) > tensors.MAX_AXES:
        raise errors.UserError(
            f"{name}: damaged: header entry '{shown}': expected a type and at most "
            f"{tensors.MAX_AXES} axes"
        )
    if not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end)):
        raise errors.UserError(f"{name}: damaged: '{shown}' has lengths that are no whole numbers")
    if kind not in _BITS:
        raise errors.UserError(
            f"{name}: '{shown}' is of element type {messages.shorten(kind)}; accepted are "
            f"{', '.join(DTYPES)}"
        )
    numel = math.prod(shape)
    if numel * _BITS[kind] != 8 * (end - begin):
        raise errors.UserError(
            f"{name}: damaged: '{shown}' {tuple(shape)} {kind} in {end - begin} bytes"
        )

    def read() -> bytes:
        stream.seek(start + begin)
        return stream.read(end - begin)

    storage = tensors.Storage(DTYPES.get(kind, kind), numel, read, place=str(begin))
    # A tensor is a storage of its own here, so that its own size bounds it.
    place = tensors.check(name, numel, 0, shape, tensors.strides_of(tuple(shape)), numel)
    return tensors.Tensor(name, storage, *place)


def _check_places(name: str, header: dict[str, Any], size: int) -> None:
    """Raises `UserError` unless the tensors follow one another and fill the file."""
    reached = 0
    places = sorted((*entry["data_offsets"], key) for key, entry in header.items())
    for begin, end, key in places:
        if begin != reached:
            fault = "overlaps the one before" if begin < reached else "leaves a hole before it"
            raise errors.UserError(
                f"{name}: damaged: '{messages.shorten(key)}' {fault}: it lies at {begin}..{end}"
            )
        reached = end
    if reached != size:
        raise errors.UserError(
            f"{name}: damaged: its tensors take {reached} bytes, {size} are there"
        )
