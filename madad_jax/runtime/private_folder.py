"""A folder of files that are code: only its user reads or writes it, or it is not used at all.

Checked at every read, on the opened folder and the opened file and not on their paths, so that
nothing can be exchanged between the check and the read.
"""

import contextlib
import hashlib
import os
import pathlib
import stat

from madad_jax.core import atomic_files, errors

_MAGIC = b"madad_jax executable 1\n"
_DIGEST = hashlib.sha256().digest_size


class Refused(Exception):
    """A folder or a file that is not to be trusted, or a damaged one; the message says why."""


def make(folder: pathlib.Path) -> None:
    """Makes the folder for its user alone; one that exists is only looked at.

    Raises:
      Refused: it cannot be made, is a link, another user's, or open to others.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise Refused(f"'{folder}' cannot be made: {error.strerror or error}") from error
    os.close(_open_folder(folder))


def read(folder: pathlib.Path, name: str, about: str) -> bytes | None:
    """The content that `write` was given; None: there is no such file.

    Args:
      folder: as `make` took it.
      name: of the file.
      about: what the content was made for; another one is refused.

    Raises:
      Refused: not the user's own, open to others, damaged, or made for something else.
    """
    handle = _open_folder(folder)
    try:
        content = _read_own(handle, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"'{folder / name}': {error.strerror or error}") from error
    finally:
        os.close(handle)
    digest, rest = content[len(_MAGIC) : len(_MAGIC) + _DIGEST], content[len(_MAGIC) + _DIGEST :]
    if not content.startswith(_MAGIC) or hashlib.sha256(rest).digest() != digest:
        raise Refused(f"'{folder / name}' is damaged")
    header, _, payload = rest.partition(b"\n")
    # The name is a part of a digest: the whole text says what it was made for.
    if header != about.encode():
        raise Refused(f"'{folder / name}' was made for something else")
    return payload


def write(folder: pathlib.Path, name: str, about: str, payload: bytes, most_bytes: int) -> None:
    """Keeps `payload` (atomic), and forgets the files that were unused longest.

    Args:
      folder: as `make` took it.
      name: of the file.
      about: one line, what the content was made for.
      payload: the content.
      most_bytes: of all files together.

    Raises:
      Refused: as `make`, or the disk is full.
    """
    os.close(_open_folder(folder))
    rest = about.encode() + b"\n" + payload
    try:
        atomic_files.write_bytes(folder / name, _MAGIC + hashlib.sha256(rest).digest() + rest)
    except errors.UserError as error:
        raise Refused(str(error)) from error
    _forget_oldest(folder, name, most_bytes)


def touch(folder: pathlib.Path, name: str) -> None:
    """Marks a file as used now."""
    with contextlib.suppress(OSError):
        os.utime(folder / name)


def _open_folder(folder: pathlib.Path) -> int:
    """A descriptor of the folder, which is the user's own and closed to others."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise Refused(f"'{folder}': {error.strerror or error}") from error
    state = os.fstat(handle)
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        os.close(handle)
        raise Refused(
            f"'{folder}': found owner {state.st_uid} and mode {stat.S_IMODE(state.st_mode):o}, "
            f"accepted: owner {os.geteuid()}, mode 700"
        )
    return handle


def _read_own(folder: int, name: str) -> bytes:
    """The bytes of a file in an opened folder, which is the user's own too."""
    # Not blocking: a pipe in its place would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise Refused(f"'{name}' is no file")
        if state.st_uid != os.geteuid() or state.st_mode & 0o022:
            raise Refused(f"'{name}' belongs to another user, or others may write it")
        return file.read()


def _forget_oldest(folder: pathlib.Path, newest: str, most_bytes: int) -> None:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # Another process may forget it now.
            state = path.stat()
            found.append((path.name != newest, -state.st_mtime, state.st_size, path))
    total = 0
    for is_old, _, size, path in sorted(found, key=lambda one: one[:2]):
        total += size
        if is_old and total > most_bytes:
            with contextlib.suppress(OSError):
                path.unlink()
