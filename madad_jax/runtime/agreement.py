"""Decisions that all processes of a job share: process 0 decides, the others follow."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from madad_jax.core import errors, folder_lock
from madad_jax.runtime import watchdog


def minutes_passed(since: float, minutes: float) -> bool:
    """Whether `minutes` (0 for never) have passed since `time.monotonic()` was `since`.

    With several processes the clock of process 0 decides for all, since what follows is a save
    that all must join; every process must then call it, at the same step.
    """
    if minutes <= 0:
        return False
    passed = time.monotonic() - since >= 60 * minutes
    if jax.process_count() > 1:
        passed = bool(multihost_utils.broadcast_one_to_all(np.asarray(passed)))
    return passed


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` gives on process 0, on every process; every process must call it.

    What process 0 has just written others may not see yet, and then they would go another way
    than it does.

    Args:
      make: gives something that JSON holds; called on process 0 alone.

    Raises:
      UserError: the one that `make` raised, on every process.
    """
    if not watchdog.several():
        return make()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": make()}
        except errors.UserError as error:
            answer = {"error": str(error)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text), np.int32)))
    padded = np.zeros(size, np.uint8)
    padded[: len(text)] = text[:size]
    whole = np.asarray(multihost_utils.broadcast_one_to_all(padded)).astype(np.uint8)
    answer = json.loads(whole.tobytes().decode())
    if "error" in answer:
        raise errors.UserError(answer["error"])
    return answer["value"]


@contextlib.contextmanager
def lock(folder: str, flag: str) -> Iterator[None]:
    """Holds the lock of a folder that all processes write, in process 0, for all of them.

    Args:
      folder, flag: as `core.folder_lock.hold` takes them; every process must call it.

    Raises:
      UserError: another job writes the folder; on every process.
    """
    with contextlib.ExitStack() as held:

        def hold() -> None:
            held.enter_context(folder_lock.hold(folder, flag))

        from_first(hold)
        yield
