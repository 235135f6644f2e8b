"""Several processes, one job: signs of life, and one end for all of them.

A process that fails alone would leave the others in a collective for ever, and one that hangs
would do so too. Here each process says every few seconds through JAX's coordination service
where it is, and reads what the others said:

- one that fails says so, and the others end with its status and its reason;
- when a process makes no progress for `timeout` seconds, it says what it waits for and which
  processes are silent, and ends with `EXIT_LOST`;
- when JAX itself finds a process gone (`heartbeat_timeout`) it aborts the others; the abort is
  turned into one line and `EXIT_LOST`.

A job of one process needs none of this and starts no thread.
"""

import contextlib
import ctypes
import itertools
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

import jax
from jax._src import distributed  # Its client has no public name; Orbax takes the same one.

_LOG = logging.getLogger(__name__)

EXIT_LOST = os.EX_TEMPFAIL  # 75
_AGAIN = "start all processes again: the same command continues from the last checkpoint"
_BEAT, _ENDED = "madad_jax/beat/", "madad_jax/ended/"
# A lost peer shows as one of these in the error of a collective, by transport.
_LOST_WORDS = ("gloo", "unavailable", "connection", "deadline_exceeded", "aborted", "nccl")


class Lost(Exception):
    """Another process is gone or cannot be reached. `main` exits with `EXIT_LOST`."""


def several() -> bool:
    """Whether the job spans processes, without starting a backend to find out."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


class _Position:
    """What this process does, and since when."""

    def __init__(self) -> None:
        self.what, self.since = "start", time.monotonic()

    def set(self, what: str) -> None:
        self.what, self.since = what, time.monotonic()


_position = _Position()
_watch: "Watch | None" = None


def progress(what: str) -> None:
    """Says what comes next, as `denoiser: step 7`. Call between steps; costs nothing."""
    _position.set(what)


def begin(timeout: float) -> None:
    """Starts to watch the other processes, where there are any.

    Args:
      timeout: seconds without progress after which the job is ended; 0 waits for ever.
    """
    global _watch
    progress("start")
    if _watch is None and several():
        _watch = Watch(distributed.global_state.client, jax.process_index(), jax.process_count())
        _watch.begin(timeout)
        _catch_abort(_watch)


def end(status: int, message: str) -> NoReturn:
    """Ends this process and tells the others why; for ends that not all of them share.

    The ordinary way out waits for the others, who may be inside a collective.
    """
    if _watch is not None:
        _watch.tell(status, message)
        if _watch.index == 0:  # It coordinates: without it nobody hears anything more.
            _watch.wait_for_others(10.0)
    _leave(status)


_barriers = itertools.count()


def wait_for_all(name: str) -> None:
    """Waits until every process is here, however long their work takes; no device takes part.

    For work that the processes share unevenly: whoever is first has not hung.
    """
    if several():
        _position.set(f"waiting for all: {name}")
        _position.since = math.inf
        client = distributed.global_state.client
        client.wait_at_barrier(f"madad_jax/{next(_barriers)}/{name}", 2**31 - 1)  # 25 days
        _position.set(f"after: {name}")


def is_loss(error: BaseException) -> bool:
    """Whether an error of a collective says that a peer is gone."""
    text = str(error).lower()
    return _watch is not None and any(word in text for word in _LOST_WORDS)


def blame() -> str:
    """Who is missing, after waiting long enough to know it."""
    return "" if _watch is None else _watch.blame(wait=True)


class Watch:
    """Signs of life of all processes, through a key-value store that they share.

    Args:
      client: with `key_value_set` and `key_value_dir_get`.
      index: this process.
      count: all processes.
      period: seconds between two signs.
    """

    def __init__(self, client: Any, index: int, count: int, period: float = 2.0):
        self.index, self.count, self.period = index, count, period
        self._client = client
        self._beats = 0
        self._heard = time.monotonic()
        self._ended: dict[int, str] = {}
        self._seen = {k: ("", self._heard) for k in range(count)}

    def begin(self, timeout: float) -> None:
        """Starts the threads."""
        if timeout > 0:
            self.period = max(0.1, min(self.period, timeout / 10))
        threads = [threading.Thread(target=self._beat, name="signs of life", daemon=True)]
        if timeout > 0:
            threads.append(
                threading.Thread(target=self._guard, args=(timeout,), name="guard", daemon=True)
            )
        for thread in threads:
            thread.start()

    def tell(self, status: int, message: str) -> None:
        """Lets the others know that this process ends."""
        text = f"{status} {' '.join(message.split())}"
        self._timely(lambda: self._client.key_value_set(f"{_ENDED}{self.index}", text, True))

    def wait_for_others(self, seconds: float) -> None:
        """Until all others have ended or are silent."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._timely(self._read)
            left = set(range(self.count)) - {self.index} - set(self._ended) - set(self.silent())
            if not left:
                break
            time.sleep(self.period / 4)
        time.sleep(self.period)  # the last of them still has to leave

    def silent(self) -> list[int]:
        """Processes that gave no sign for several periods. Process 0 keeps the signs: when it
        does not answer, nothing is known of the others."""
        now, long = time.monotonic(), 4 * self.period
        if now - self._heard > long:
            return [0]
        return [k for k, (_, at) in self._seen.items() if now - at > long and k != self.index]

    def blame(self, wait: bool = False) -> str:
        """Which processes are missing and where the others are, for a message."""
        deadline = time.monotonic() + (6 * self.period if wait else 0.0)
        # What is known already comes first: once JAX has found a process gone, nobody is answered.
        while not (silent := [k for k in self.silent() if k or self.index]):
            if not (answers := self._timely(self._read)) or time.monotonic() >= deadline:
                break
            time.sleep(self.period / 4)
        if not silent and not answers:
            return "process 0, which coordinates, does not answer"
        if silent == [0]:
            return "no sign of life from process 0, which coordinates"
        if silent:
            return f"no sign of life from process {_listed(silent)}"
        places = [f"{k} at '{v.partition(' ')[2]}'" for k, (v, _) in self._seen.items() if v]
        return "all processes live: " + _listed(places)

    def _beat(self) -> None:
        while True:
            try:
                self._beats += 1
                text = f"{self._beats} {_position.what}"
                self._client.key_value_set(f"{_BEAT}{self.index}", text, True)
                self._read()
            except Exception:  # The service is gone or busy; `silent` draws the conclusion.
                _LOG.debug("no answer from the coordination service", exc_info=True)
            others = {k: v for k, v in self._ended.items() if k != self.index}
            if others:
                self._follow(*min(others.items()))
            time.sleep(self.period)

    def _read(self) -> None:
        now = time.monotonic()
        for key, text in self._client.key_value_dir_get(_BEAT):
            k = int(key.rpartition("/")[2])
            if k in self._seen and self._seen[k][0] != text:
                self._seen[k] = (text, now)
        for key, text in self._client.key_value_dir_get(_ENDED):
            self._ended[int(key.rpartition("/")[2])] = text
        self._heard = now

    def _follow(self, other: int, text: str) -> None:
        """Ends as another process did."""
        status, _, message = text.partition(" ")
        if self.index not in self._ended:
            say(f"process {other} ended with status {status}: {message}")
            self.tell(int(status), f"as process {other} did")
            if self.index == 0:
                self.wait_for_others(10.0)
            _leave(int(status))

    def _guard(self, timeout: float) -> None:
        while True:
            time.sleep(self.period)
            what, since = _position.what, _position.since
            waited = time.monotonic() - since
            if waited > timeout:
                blamed = self.blame(wait=True)
                if _position.since != since:
                    continue  # It moved meanwhile: slow, and not hung.
                message = (
                    f"process {self.index} of {self.count} has waited {waited:.0f} s in "
                    f"'{what}' (--hang_timeout={timeout:g}); {blamed}; {_AGAIN}"
                )
                say(message)
                self.tell(EXIT_LOST, message)
                _leave(EXIT_LOST)

    def _timely(self, call: Any) -> bool:
        """Runs `call` without waiting for a service that does not answer; whether it did."""
        done = threading.Event()

        def quiet() -> None:
            try:
                call()
                done.set()
            except Exception:
                _LOG.debug("no answer from the coordination service", exc_info=True)

        thread = threading.Thread(target=quiet, daemon=True)
        thread.start()
        thread.join(2 * self.period)
        return done.is_set()


class Claim:
    """Goes to whoever takes it first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether it was still to be had."""
        return self._lock.acquire(blocking=False)

    def taken(self) -> bool:
        """Whether somebody has it."""
        return self._lock.locked()


_reason = Claim()  # to tell why this process ends


def say(message: str, *, claim: Claim = _reason) -> bool:
    """Why this process ends: one line on standard error and in its log, from whoever is first.

    Returns whether it was said; a peer that is lost is noticed by several at once.
    """
    if not claim.take():
        return False
    bar = "" if _watch is None else "\n"  # what stands in the line so far
    line = f"{bar}madad_jax: error: {message}\n"
    os.write(2, line.encode())
    for handler in logging.getLogger("madad_jax").handlers:
        if getattr(handler, "keeps_errors", False):
            handler.emit(logging.LogRecord("madad_jax", logging.ERROR, "", 0, message, None, None))
    return True


def lost(error: BaseException) -> str:
    """The message for an error of `is_loss`."""
    first = (str(error) or type(error).__name__).splitlines()[0][:200]
    return f"'{_position.what}' failed, {blame()} ({first}); {_AGAIN}"


def _leave(status: int) -> NoReturn:
    with contextlib.suppress(OSError):  # Nobody reads any more.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # Not sys.exit: that would wait for processes that are no more.


def _listed(items: list[Any], most: int = 8) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


_handlers: list[Any] = []  # C keeps no reference to them


def _catch_abort(watch: Watch) -> None:
    """JAX aborts when it finds a process gone, and offers Python no say in it.

    `signal.signal` would be of no use: Python runs its handlers between two instructions of the
    main thread, and an abort does not return there.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handler(number: int) -> None:
        del number
        if not _reason.taken():  # else JAX only follows what was found already
            where = f"JAX ended process {watch.index} in '{_position.what}'"
            say(f"{where}: {watch.blame()}; {_AGAIN}")
        _leave(EXIT_LOST)

    _handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
