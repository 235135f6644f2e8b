"""Arrays and their facts in one `.npz`.

Plain arrays and a JSON text: reading runs nothing that a file could bring along.
"""

import contextlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from madad_jax.core import errors, json_file

_META = "meta"
# What numpy, zipfile, json and a reader's own look-ups raise on damaged bytes. zipfile takes a
# flipped bit in its headers for a compression that it does not know: NotImplementedError.
_DAMAGE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)


def to_bytes(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a file: `meta` is JSON-able, `arrays` by name (none is named "meta")."""
    content = io.BytesIO()
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
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            yield json_file.parse_object(bytes(arrays[_META]), f"{name}: {_META}"), arrays
    except _DAMAGE as error:
        raise errors.UserError(f"{name}: not {what}: {error}") from error
