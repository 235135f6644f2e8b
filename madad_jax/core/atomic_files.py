"""Atomic writes, and reads whose errors name the file."""

import hashlib
import os
import threading

from etils import epath

from madad_jax.core import errors


def read_bytes(path: epath.Path) -> bytes:
    """All bytes of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def sha256(path: epath.PathLike) -> str:
    """Digest of a file's bytes, or of a folder's files' digests, sorted.

    Raises:
      UserError: it cannot be read.
    """
    path = epath.Path(path)
    if path.is_dir():
        inner = sorted(sha256(p) for p in path.iterdir() if p.is_file())
        return hashlib.sha256("".join(inner).encode()).hexdigest()
    digest = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while piece := handle.read(1 << 20):  # volumes and shards need not fit in memory
                digest.update(piece)
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def write_bytes(path: epath.PathLike, content: bytes, hint: str = "") -> None:
    """Writes a neighbour file and renames it: readers see the old file, the new one or none.

    The neighbour's name ends in `.new` and holds process and thread, so that two writers of one
    file do not meet in it. Makes the folder.

    Raises:
      UserError: the folder cannot be written, or the disk is full; `hint` is added to the message.
    """
    path = epath.Path(path)
    scratch = path.parent / f"{path.name}.{os.getpid()}-{threading.get_ident()}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        _forget(scratch)
        message = f"'{path}' cannot be written: {error.strerror or error}"
        raise errors.UserError(f"{message}; {hint}" if hint else message) from error
    except BaseException:  # A signal in the midst of it.
        _forget(scratch)
        raise


def write_text(path: epath.PathLike, text: str) -> None:
    """`write_bytes` of a text in UTF-8. Raises UserError as it does."""
    write_bytes(path, text.encode())


def _forget(scratch: epath.Path) -> None:
    """Removes what a failed write left, if it can be removed."""
    try:
        scratch.unlink(missing_ok=True)
    except OSError:
        return
