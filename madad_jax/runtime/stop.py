"""Stops between steps: signals become a saved state and an exit status.

Exit status of a stopped run, after its state was saved: 143 for SIGTERM (preemption) and 130
for SIGINT (ctrl-C), as shells count them (128 + signal). 75 when another process of the job is
gone or nothing moves (`watchdog`).
"""

import itertools
import signal as signals
import threading
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from madad_jax.runtime import watchdog

EXIT_SIGTERM = 128 + signals.SIGTERM
EXIT_SIGINT = 128 + signals.SIGINT


class Stopped(Exception):
    """A signal asked for the end, and what is done is kept. `main` exits with `exit_status`."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = int(signal)

    @property
    def exit_status(self) -> int:
        """128 + the signal's number."""
        return 128 + self.signal


class GracefulStop:
    """Context in which SIGTERM and SIGINT ask for a stop between steps.

    A second SIGINT raises `KeyboardInterrupt` at once. In a job of several processes the signal
    may reach one host only, so SIGTERM is left to JAX's preemption service, which makes all
    processes agree on the step after which they stop; SIGINT keeps its default there.

    Args:
      alone: this process shares no step with the others, and stops by itself.
    """

    def __init__(self, alone: bool = False) -> None:
        self._alone = alone
        self._asked = itertools.count(1)
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "GracefulStop":
        ours = self._alone or not watchdog.several()
        if threading.current_thread() is threading.main_thread() and ours:
            for number in (signals.SIGTERM, signals.SIGINT):
                self._old[number] = signals.signal(number, self._handle)
        _entered.append(self)
        return self

    def __exit__(self, *unused: object) -> None:
        if self in _entered:
            _entered.remove(self)
        for number, handler in self._old.items():
            signals.signal(number, handler)
        self._old.clear()

    def requested(self, step: int) -> bool:
        """Whether to stop after `step`. Call once a step, in every process.

        The step number is what several processes agree on; Orbax hands the same numbers to the
        same service when it saves.
        """
        if (
            self.signal is None
            and watchdog.several()
            and multihost_utils.reached_preemption_sync_point(step)
        ):
            self.signal = signals.SIGTERM
        return self.signal is not None

    def check(self, what: str, shared: bool = True) -> None:
        """Ends `what` here if a signal asked for it; see the function `check`."""
        if watchdog.several() and not self._alone:
            if not shared:
                return
            self.requested(next(self._asked))
        if self.signal is not None:
            raise Stopped(self.signal, f"{what}: stopped")

    @property
    def exit_status(self) -> int:
        """Status to leave with: 0 when no signal came."""
        return 0 if self.signal is None else 128 + self.signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signals.SIGINT and self.signal == signals.SIGINT:
            raise KeyboardInterrupt
        self.signal = number


_entered: list[GracefulStop] = []


def check(what: str, shared: bool = True) -> None:
    """Ends work that needs no save, where a signal asked for the end; without one, nothing.

    Call it between batches. In a job of several processes all must call it equally often, which
    is how they agree on where to stop.

    Args:
      what: is done here, for the message.
      shared: False where processes work unevenly: those of a job then go on, and stop together
        at the next place that they share.

    Raises:
      Stopped: of the `GracefulStop` that was entered last.
    """
    if _entered:
        _entered[-1].check(what, shared)
