"""JSON of files, from anyone: one line for whatever is wrong with it, within bounds."""

import json
from typing import Any

from etils import epath

from madad_jax.core import atomic_files, errors, messages

# The largest file of ours that is read at once is a state of some thousand scans, a few MB.
_MOST_BYTES = 64 * 2**20
_MOST_DEPTH = 64  # Configs nest five levels; a parser's own limit is Python's stack.


def read(path: epath.PathLike, *, most_bytes: int = _MOST_BYTES) -> Any:
    """The value that a file holds.

    Raises:
      UserError: it cannot be read, is no JSON, or is larger or deeper than any file of ours.
    """
    path = epath.Path(path)
    try:
        size = path.stat().length
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    if size > most_bytes:
        raise errors.UserError(f"'{path}' has {size} bytes; accepted: JSON of at most {most_bytes}")
    return parse(atomic_files.read_bytes(path), str(path))


def read_object(path: epath.PathLike, *, most_bytes: int = _MOST_BYTES) -> dict[str, Any]:
    """As `read`, for a file that must hold an object ({...}).

    Raises:
      UserError: as `read`, or it holds another kind of value.
    """
    return as_object(read(path, most_bytes=most_bytes), str(path))


def parse(content: bytes | str, source: str) -> Any:
    """The value of a JSON text; `source` is named in the message.

    Raises:
      UserError: no UTF-8, no JSON, or nested deeper than 64 levels.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise _too_deep(source) from error
    except ValueError as error:  # UnicodeDecodeError and integers of too many digits among them.
        raise errors.UserError(f"'{source}' is no JSON: {messages.shorten(error)}") from error
    _check_depth(value, source)
    return value


def parse_object(content: bytes | str, source: str) -> dict[str, Any]:
    """As `parse`, for a text that must hold an object.

    Raises:
      UserError: as `parse`, or it holds another kind of value.
    """
    return as_object(parse(content, source), source)


def as_object(value: Any, source: str) -> dict[str, Any]:
    """`value`, if it is an object.

    Raises:
      UserError: it is none.
    """
    if not isinstance(value, dict):
        raise errors.UserError(
            f"'{source}' holds {messages.shorten(json.dumps(value)[:200])}; accepted: a JSON "
            "object ({...})"
        )
    return value


def _check_depth(value: Any, source: str) -> None:
    """Level by level: a walk by recursion would meet the limit that it guards."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise _too_deep(source)


def _too_deep(source: str) -> errors.UserError:
    return errors.UserError(f"'{source}' is nested deeper than {_MOST_DEPTH} levels")
