"""The bytes of scans, tables and lists: reading with messages, digests."""

import hashlib

from etils import epath

from madad_jax import errors


def read_bytes(path: epath.PathLike) -> bytes:
    """All bytes of a file.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return epath.Path(path).read_bytes()
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
    return hashlib.sha256(read_bytes(path)).hexdigest()
