"""Whole files or none: reading with messages, writing beside and moving into place."""

import hashlib
import os

from etils import epath

from madad_jax import errors


def read_bytes(path: epath.Path) -> bytes:
    """All bytes of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.UserError(f"'{path}' cannot be read: {error.strerror or error}") from error


def write_bytes(path: epath.Path, content: bytes) -> None:
    """Writes `{path}.{process}.new` and renames it: readers see the old file, the new or none.

    Raises:
      UserError: the folder cannot be written.
    """
    scratch = path.parent / f"{path.name}.{os.getpid()}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise errors.UserError(f"'{path}' cannot be written: {error.strerror or error}") from error


def sha256(path: epath.PathLike) -> str:
    """Digest of a file's bytes, or of a folder's files' digests, sorted.

    Raises:
      UserError: it cannot be read.
    """
    path = epath.Path(path)
    if path.is_dir():
        inner = sorted(sha256(p) for p in path.iterdir() if p.is_file())
        return hashlib.sha256("".join(inner).encode()).hexdigest()
    return hashlib.sha256(read_bytes(path)).hexdigest()
