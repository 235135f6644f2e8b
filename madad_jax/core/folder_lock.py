"""One writer of a folder: a lock that lives as long as its process, and says whose it is.

`<folder>/.lock` holds host, process and start of the writer as JSON. The file is also locked by
`flock`, which ends with its process however that ends. Where a file system has no such locks, or
keeps them on each host for itself, the content decides:

- a writer of this machine that is gone: the lock is taken over at once, with a line;
- a writer of another machine (or container): its process touches the file every 10 s. Whoever
  comes second watches for such a touch, and takes over after 60 s without one. Any change of the
  time counts, whichever clock made it: nothing depends on clocks that agree or only go forward.

Object stores (`gs://`) have no locks: there nothing is held.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from madad_jax.core import errors, json_file, messages

_LOG = logging.getLogger(__name__)

NAME = ".lock"
BEAT = 10.0  # Seconds between two signs of life.
PATIENCE = 60.0  # Without one for so long, a writer of another machine counts as gone.
_SETTLE = 0.5  # A file that was just made gets its content within this time.
_LINGER = 2.0  # So long a child may hold the lock of a process that is gone.
_POLL = 0.1
_MOST_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who writes: `place` tells machines, their starts and containers apart; `start` in ticks."""

    host: str
    pid: int
    place: str
    start: str
    since: str
    command: str

    def __str__(self) -> str:
        """`process 71 on 'host' (command), since 2026-01-31 12:00:00 UTC`."""
        host, command = messages.shorten(self.host, 60), messages.shorten(self.command, 60)
        return f"process {self.pid} on '{host}' ({command}), since {messages.shorten(self.since)}"

    def is_here(self) -> bool:
        """Whether its process would be seen by this one."""
        return (self.host, self.place) == (socket.gethostname(), _place())

    def is_alive(self) -> bool:
        """Whether a process of this machine still runs; another one of its number is another."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass  # Somebody else's.
        state, start = _state(self.pid)
        return state not in ("Z", "X") and start in ("", self.start)


def _place() -> str:
    """The start of this machine and the container in it; "" where the system tells neither."""
    found = []
    with contextlib.suppress(OSError):
        found.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        found.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(found)


def _state(pid: int) -> tuple[str, str]:
    """(state, start in ticks) of a process; ("", "") where the system does not tell."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    words = text.rpartition(")")[2].split()  # The name before may hold anything.
    return words[0], words[19]


def _me() -> Holder:
    now = datetime.datetime.now(datetime.UTC)
    words = [os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]]
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        place=_place(),
        start=_state(os.getpid())[1],
        since=f"{now:%Y-%m-%d %H:%M:%S} UTC",
        command=messages.shorten(" ".join(words), 200),
    )


@contextlib.contextmanager
def hold(
    folder: epath.PathLike,
    flag: str,
    *,
    name: str = NAME,
    wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Holds the lock of `folder` while the context lasts; a thread may hold it several times.

    Args:
      folder: made when missing.
      flag: what the user named it by, as `--workdir`; stands in messages.
      name: of the lock's file.
      wait: called ten times a second while another writer holds the lock, until that has
        ended; it may raise. None: another writer is an error.

    Raises:
      UserError: another process writes the folder, or the lock cannot be written.
    """
    if "://" in os.fspath(folder):
        yield
        return
    path = os.path.join(os.path.realpath(folder), name)
    if path in _held and _held[path].thread == threading.get_ident():
        yield
        return
    inside = os.path.dirname(path)
    made = not os.path.isdir(inside)
    try:
        os.makedirs(inside, exist_ok=True)
        lock = _Lock(path, _acquire(path, f"{flag}={os.fspath(folder)}", wait))
    except OSError as error:
        raise errors.UserError(
            f"{flag}={os.fspath(folder)}: {error.strerror or error}; give a folder that can be "
            "written"
        ) from error
    _held[path] = lock
    try:
        yield
    finally:
        del _held[path]
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(inside)  # Nothing was written: work that was refused leaves no folder.


class _Lock:
    """A lock that is held: shows signs of life until it is released."""

    def __init__(self, path: str, file: int):
        self._path, self.file, self._pid = path, file, os.getpid()
        self.thread = threading.get_ident()
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="folder lock", daemon=True)
        self._beats.start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):  # A network that is away for a while.
                os.utime(self.file)
                if not _is_at(self.file, self._path):
                    _LOG.warning("'%s' was removed: another run may write here now", self._path)
                    return

    def release(self) -> None:
        """Removes the file, and then gives the lock back."""
        self._over.set()
        if os.getpid() != self._pid:
            return  # A child that was forked: the lock is its parent's.
        self._beats.join(1.0)  # Else it might touch whatever gets the file's number next.
        with contextlib.suppress(OSError):
            if _is_at(self.file, self._path):
                os.unlink(self._path)
        os.close(self.file)


_held: dict[str, _Lock] = {}


def _forget_in_child() -> None:
    """A forked child that outlives its parent must not keep the parent's locks."""
    for lock in _held.values():
        with contextlib.suppress(OSError):
            os.close(lock.file)


os.register_at_fork(after_in_child=_forget_in_child)


def _acquire(path: str, what: str, wait: Callable[[], None] | None) -> int:
    """The open and locked file at `path`. Raises OSError, or UserError for another writer."""
    watch, told = _Watch(), False
    while True:
        file, found = _try(path, watch)
        if file is not None:
            return file
        if watch.is_sure:
            writer = found or "another process"
            if wait is None:
                raise errors.UserError(
                    f"{what}: {writer} writes it; end it first or choose another folder "
                    f"(if it is gone for sure, remove '{path}')"
                )
            if not told:
                _LOG.info("%s: %s writes it; waiting", what, writer)
                told = True
        if wait is not None:
            wait()
        time.sleep(_POLL)


def _try(path: str, watch: "_Watch") -> tuple[int | None, Holder | None]:
    """(the file if the lock is ours now, else None; who holds it, as far as it says)."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.suppress(FileExistsError):
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
        if _flock(file) is not False and _is_at(file, path):
            return _sign(file, path), None
        os.close(file)
        return None, None
    try:
        file = os.open(path, flags)
    except FileNotFoundError:
        return None, None  # Given back between the two.
    except PermissionError:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # Of another user.
    try:
        locked, holder = _flock(file), _read(file)
        if watch.is_gone(file, locked, holder) and _is_at(file, path):
            if holder is not None:
                _LOG.warning("'%s': taken over from %s, which holds it no more", path, holder)
            os.unlink(path)
        return None, holder
    finally:
        os.close(file)


def _sign(file: int, path: str) -> int:
    """Writes who holds the lock."""
    try:
        os.write(file, (json.dumps(dataclasses.asdict(_me()), indent=1) + "\n").encode())
        os.fsync(file)
    except OSError:
        os.unlink(path)
        os.close(file)
        raise
    return file


def _flock(file: int) -> bool | None:
    """Whether the file is locked for this process now; None where there are no such locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(file: int, path: str) -> bool:
    """Whether the open file still stands at `path`."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(file)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _read(file: int) -> Holder | None:
    """What the file says; None when it says nothing (yet)."""
    try:
        values = json_file.parse_object(os.pread(file, _MOST_BYTES, 0), "lock")
        kinds = {field.name: field.type for field in dataclasses.fields(Holder)}
        if any(type(values.get(key)) is not kind for key, kind in kinds.items()):
            return None
        return Holder(**{key: values[key] for key in kinds})
    except (errors.UserError, OSError):
        return None


class _Watch:
    """What is known about a lock that another one has, from look to look.

    `is_sure` says that the other one lives, or that nothing will tell in a short time.
    """

    def __init__(self) -> None:
        self.is_sure = False
        self._seen: Any = None
        self._since = 0.0

    def is_gone(self, file: int, locked: bool | None, holder: Holder | None) -> bool:
        """Whether the lock may be taken over."""
        stat = os.fstat(file)
        now = time.monotonic()
        seen = (stat.st_ino, stat.st_mtime_ns, holder)
        same_file = self._seen is not None and self._seen[0] == seen[0]
        # A change of the time under the same holder is its sign of life.
        alive = same_file and self._seen[2] == holder and self._seen[1] != seen[1]
        if seen != self._seen:
            self._seen, self._since = seen, now
        waited = now - self._since
        if locked is False:
            # By its process, which may be about to sign, or by a child that outlives it a moment.
            soon = holder is None or (holder.is_here() and not holder.is_alive())
            self.is_sure = not soon or waited > _LINGER
            return False
        if holder is None:
            return waited > _SETTLE
        if holder.is_here():
            # Where the system locks files its word counts: a folder that was copied from under a
            # run brings along a lock of a process that lives and has nothing to do with it.
            self.is_sure = locked is None and holder.is_alive()
            return not self.is_sure
        self.is_sure = alive
        if not alive and waited < _POLL:
            _LOG.warning("lock of %s: watching up to %.0f s for a sign of life", holder, PATIENCE)
        return waited > PATIENCE
