"""Where the wall time of a run goes, over all its starts.

`spend("input")` says what the code inside does; what nobody says is `other`. Compiling is seen by
JAX's own events, wherever it happens, and is taken from the part that it happens in. The sums
stand in `wall_time.json` of the run's folder, written every ten seconds and at every save, so
that a killed process leaves all but its last seconds.

`restarts` is what a start again costs: the work after the checkpoint that is resumed from, and
the start of the process that resumes. Time in which no process of the run lives counts nowhere.

CPU seconds of the process and of the ones that it started and that have ended are added up beside,
over all starts and whatever was lost.
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from madad_jax.core import atomic_files, errors, json_file

_LOG = logging.getLogger(__name__)

FILE_NAME = "wall_time.json"
PARTS = ("steps", "compiling", "input", "checkpoints", "evaluation", "restarts", "other")
_NOTE_SECONDS = 10.0
_KEPT_MARKS = 16  # a stage; damaged checkpoints make a run go back further than one
_KEPT_PROGRAMS = 1000  # whose times a program around them may hold
_COMPILING = "/jax/core/compile/"  # prefix of JAX's events

Seconds = dict[str, float]


class _Doing:
    """What the process does now; whoever began it may rename it before it ends."""

    def __init__(self, part: str) -> None:
        self.part = part


class Account:
    """Seconds by part of one run, of this start and of those before it.

    Args:
      folder: of the run; nothing is written before it exists.
      writes: whether this process keeps the record there.
      elapsed: seconds that the process has lived already, which are `other`.
      clock, cpu_clock: seconds, for tests; those of the CPU count from the start of the process.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        writes: bool = True,
        elapsed: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = lambda: sum(os.times()[:4]),
    ):
        self._path = epath.Path(folder) / FILE_NAME
        self._writes = writes
        self._clock, self._cpu_clock = clock, cpu_clock
        self._seconds, self._marks, starts, cpu = _read(self._path)
        # What came before the account is another's, or that of the process that it counts whole.
        self._cpu_before = cpu - (0.0 if elapsed else cpu_clock())
        self.starts = starts + 1
        self._before: Seconds | None = dict(self._seconds) if starts else None
        self._seconds["other"] += elapsed
        self._doing = [_Doing("other")]
        self._since = clock()
        self._compiled: list[tuple[float, float]] = []
        self._lock = threading.RLock()  # the thread that writes reads what the other adds to

    @contextlib.contextmanager
    def spend(self, part: str) -> Iterator[_Doing]:
        """Counts the time inside to `part`, apart from what inner calls count elsewhere."""
        doing = _Doing(part)
        self._settle()
        self._doing.append(doing)
        try:
            yield doing
        finally:
            self._settle()
            self._doing.pop()

    def compiled(self, seconds: float) -> None:
        """Something was compiled for so long, until now."""
        with self._lock:
            end = self._clock()
            start = end - seconds
            # Tracing a program traces those inside it: each second counts once.
            inner = [(a, b) for a, b in self._compiled if b > start]
            seconds -= sum(b - max(a, start) for a, b in inner)
            others = [(a, b) for a, b in self._compiled if b <= start]
            self._compiled = [*others[-_KEPT_PROGRAMS:], (start, end)]
            self._settle()
            part = self._doing[-1].part
            seconds = min(max(seconds, 0.0), self._seconds[part])
            self._seconds[part] -= seconds
            self._seconds["compiling"] += seconds

    def begin(self, stage: str, step: int) -> None:
        """A stage goes on from `step` (0: from its start).

        Where an earlier start was in this stage, what it did after `step` is lost, and this
        process was started for it: both count to `restarts`.
        """
        with self._lock:
            self._settle()
            known = [m for m in self._marks if m["stage"] == stage]
            kept = [m for m in known if m["step"] <= step]
            if known and self._before is not None:
                had = (kept or known[:1])[-1]["seconds"]
                for part in PARTS:
                    if part != "restarts":
                        lost = max(0.0, self._before[part] - had[part])
                        lost += max(0.0, self._seconds[part] - self._before[part])
                        lost = min(lost, self._seconds[part])
                        self._seconds[part] -= lost
                        self._seconds["restarts"] += lost
            self._before = None  # later stages of this start lose nothing
            self._marks = [m for m in self._marks if m["stage"] != stage] + kept
            self.saved(stage, step)

    def saved(self, stage: str, step: int) -> None:
        """A checkpoint of `step` was begun: a start that resumes from it has lost nothing yet."""
        with self._lock:
            mark = {"stage": stage, "step": step, "seconds": self.seconds()}
            others = [m for m in self._marks if m["stage"] != stage]
            same = [m for m in self._marks if m["stage"] == stage and m["step"] != step]
            self._marks = [*others, *same[1 - _KEPT_MARKS :], mark]
        self.write()

    def end(self, stage: str) -> None:
        """The stage is done; no start goes back into it."""
        with self._lock:
            self._marks = [m for m in self._marks if m["stage"] != stage]
        self.write()

    def seconds(self) -> Seconds:
        """Seconds by part until now."""
        with self._lock:
            now = dict(self._seconds)
            now[self._doing[-1].part] += self._clock() - self._since
        return now

    def shares(self) -> dict[str, float]:
        """`wall_seconds`, `cpu_seconds`, and the share of each part; shares add up to 1."""
        now = self.seconds()
        total = sum(now.values())
        spent = {"wall_seconds": total, "cpu_seconds": self.cpu_seconds()}
        return spent | {p: now[p] / max(total, 1e-9) for p in PARTS}

    def cpu_seconds(self) -> float:
        """CPU seconds until now, of all starts."""
        return self._cpu_before + self._cpu_clock()

    def write(self) -> None:
        """Writes the record. A folder that cannot be written loses the figures and no run."""
        if not self._writes:
            return
        with self._lock:
            record = {"starts": self.starts, "seconds": self.seconds(), "marks": self._marks}
            text = json.dumps(record | {"cpu_seconds": self.cpu_seconds()})
            try:
                if self._path.parent.exists():
                    atomic_files.write_text(self._path, text)
            except (errors.UserError, OSError) as error:
                _LOG.debug("no record of the wall time: %s", error)

    def _settle(self) -> None:
        with self._lock:
            now = self._clock()
            self._seconds[self._doing[-1].part] += now - self._since
            self._since = now


def cpu_seconds(folder: epath.PathLike) -> float | None:
    """CPU seconds of a run over all its starts; None where nothing says so."""
    path = epath.Path(folder) / FILE_NAME
    return (_read(path)[3] or None) if path.exists() else None


def _read(path: epath.Path) -> tuple[Seconds, list[dict[str, Any]], int, float]:
    """(seconds, marks, starts, CPU seconds) of a record; of none, or a damaged one, empty ones."""
    empty = dict.fromkeys(PARTS, 0.0)
    if not path.exists():
        return empty, [], 0, 0.0
    try:
        record = json_file.read_object(path)
        marks = [
            {
                "stage": str(mark["stage"]),
                "step": int(mark["step"]),
                "seconds": _seconds(mark["seconds"]),
            }
            for mark in record["marks"]
        ]
        # Records of older versions lack it.
        cpu = _number(record.get("cpu_seconds", 0.0))
        return _seconds(record["seconds"]), marks, int(record["starts"]), cpu
    except (errors.UserError, KeyError, TypeError, ValueError, OverflowError) as error:
        # Figures alone: no reason to refuse a run.
        _LOG.warning("%s: damaged, the wall time is counted anew (%s)", path, error)
        return empty, [], 0, 0.0


def _seconds(found: Any) -> Seconds:
    return {part: _number(found[part]) for part in PARTS}


def _number(found: Any) -> float:
    number = float(found)
    if not math.isfinite(number) or number < 0:
        raise ValueError("seconds that are no time")
    return number


# The account of the run that this process is in.

_account: Account | None = None
_thread = 0
_counts_process = False
_listens = False


def count_from_process_start() -> None:
    """Lets the next account begin when the process did, before its imports."""
    global _counts_process
    _counts_process = True


@contextlib.contextmanager
def account(folder: epath.PathLike, writes: bool) -> Iterator[Account]:
    """Counts the time inside for the run in `folder`; written where `writes`."""
    global _account, _thread, _counts_process, _listens
    if not _listens:
        jax.monitoring.register_event_duration_secs_listener(_on_event)
        _listens = True
    elapsed = _process_seconds() if _counts_process else 0.0
    _counts_process = False
    made, outer = Account(folder, writes, elapsed), (_account, _thread)
    _account, _thread = made, threading.get_ident()
    done = threading.Event()
    if writes:
        threading.Thread(target=_note, args=(made, done), daemon=True).start()
    try:
        yield made
    finally:
        done.set()
        _account, _thread = outer
        made.write()


def spend(part: str) -> contextlib.AbstractContextManager[Any]:
    """As `Account.spend` of the run that this process is in; nothing outside of a run."""
    return contextlib.nullcontext(_Doing(part)) if _account is None else _account.spend(part)


def begin(stage: str, step: int) -> None:
    """As `Account.begin` of the run that this process is in."""
    if _account is not None:
        _account.begin(stage, step)


def saved(stage: str, step: int) -> None:
    """As `Account.saved` of the run that this process is in."""
    if _account is not None:
        _account.saved(stage, step)


def end(stage: str) -> None:
    """As `Account.end` of the run that this process is in."""
    if _account is not None:
        _account.end(stage)


def _on_event(name: str, seconds: float, **unused: Any) -> None:
    # Other threads compile beside the work of this one, whose time goes on.
    if name.startswith(_COMPILING) and _account and threading.get_ident() == _thread:
        _account.compiled(seconds)


def _note(made: Account, done: threading.Event) -> None:
    while not done.wait(_NOTE_SECONDS):
        made.write()


def _process_seconds() -> float:
    """How long this process has lived; 0 where the system does not say."""
    try:
        with open("/proc/self/stat") as file:
            ticks = float(file.read().rpartition(")")[2].split()[19])
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        return max(0.0, since_boot - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
