"""Arrays and their facts in one `.npz`.

Plain arrays and a JSON text: reading runs nothing that a file could bring along.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from madad_jax.core import errors, json_file, messages, npz_errors

_META, _DIGEST = "meta", "digest"
_MOST_BYTES = 8 * 2**30  # Unpacked: a calibration on some thousand scans.
# What numpy, zipfile, json and a reader's own look-ups raise on damaged bytes. zipfile takes a
# flipped bit in its headers for a compression that it does not know: NotImplementedError.


class _Arrays(dict):
    """Arrays by name, which say so where one is missing."""

    def __missing__(self, key: str):
        raise KeyError(f"{key} is not a file in the archive")


def to_bytes(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file: `meta` is JSON-able, `arrays` by name (none is named "meta")."""
    content = io.BytesIO()
    meta = {**meta, _DIGEST: _digest(meta, arrays)}
    # The text as bytes: an array of str would be stored as four bytes a letter.
    text = np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8)
    np.savez_compressed(content, **{_META: text}, **arrays)
    return content.getvalue()


@contextlib.contextmanager
def open_bytes(
    content: bytes, name: str, what: str
) -> Iterator[tuple[dict[str, Any], Mapping[str, np.ndarray]]]:
    """(meta, arrays by name) of a file that `to_bytes` made.

    What is wrong with the content may show only when an array is taken, so the reader works
    inside the `with` block and its errors there count as damage too.

    Args:
      content: of the file.
      name: the file's, for messages.
      what: the content, as in "not {what}: ...".

    Raises:
      UserError: a damaged file, named.
    """
    try:
        # Pickles could run code, and none of our arrays needs one.
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > _MOST_BYTES:
                raise ValueError(f"{size} bytes unpacked, accepted: at most {_MOST_BYTES}")
            # Once: each look-up would unpack its array anew.
            arrays = _Arrays({key: file[key] for key in file.files})
        meta = json_file.parse_object(bytes(arrays.pop(_META)), name)
        # Files of before have none, and are held against what their reader checks alone.
        digest = meta.pop(_DIGEST, None)
        if digest is not None and digest != _digest(meta, arrays):
            raise ValueError("its content is not that of its digest")
        yield meta, arrays
    except npz_errors.READING as error:
        raise errors.UserError(f"{name}: not {what}: {messages.shorten(error, 200)}") from error


def _digest(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of the facts, and of every array with its name, type and shape."""
    out = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        out.update(json.dumps([key, array.dtype.str, list(array.shape)]).encode())
        out.update(array.tobytes())
    return out.hexdigest()
