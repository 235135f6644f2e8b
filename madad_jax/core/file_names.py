"""Names that stand in a file, before they are used as paths."""

import os
import pathlib

from etils import epath

from madad_jax.core import errors, messages


def check_inside(folder: epath.PathLike, name: object, source: str) -> epath.Path:
    """The path of `name` below `folder`.

    Args:
      folder: may be a link itself; nothing below it may be one.
      name: out of a file: words joined by `/`.
      source: the file, and the entry in it where that helps, for the message.

    Raises:
      UserError: no text, absolute, empty, with `..` in it, or through a link.
    """
    text = name if isinstance(name, str) else ""
    parts = text.split("/")
    odd = {"", ".", ".."} & set(parts) or "\0" in text
    if odd:
        raise errors.UserError(
            f"'{source}': found the name {messages.shorten(repr(name))}; accepted: a name below "
            f"'{folder}'"
        )
    path = epath.Path(folder)
    local = "://" not in os.fspath(folder)
    for part in parts:
        path = path / part
        if local and pathlib.Path(path).is_symlink():
            raise errors.UserError(
                f"'{source}': found the name {messages.shorten(repr(name))}; '{path}' is a link, "
                "and links are not followed"
            )
    return path
