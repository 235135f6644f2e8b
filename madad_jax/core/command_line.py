"""What every command besides `main` does with its flags and its errors.

Flags stand in a `FlagValues` of the command's own, so that importing one command does not define
another's. Starts nothing: `--help` and a mistyped flag answer at once.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from absl import flags

from madad_jax.core import errors, messages


def parsed(
    options: flags.FlagValues,
    argv: Sequence[str],
    text: str,
    needed: Sequence[str] = (),
    words: Sequence[str] = (),
) -> bool:
    """Reads `argv` into `options`. False after `--help`, which prints `text` and the flags.

    Args:
      options: the flags.
      argv: the command line.
      text: what the command does.
      needed: flags that must be given.
      words: flags that words without a flag stand for, in this order.

    Raises:
      UserError: a mistyped flag, a word that is no flag, or a flag of `needed` that is missing.
    """
    if words:
        options.set_gnu_getopt(True)  # Words may stand before flags.
    try:
        rest = options(list(argv))[1:]
    except (flags.Error, ValueError) as error:
        raise errors.UserError(" ".join(str(error).split())) from error
    if options.help:
        print(f"{text}\n{options.get_help()}")
        return False
    for name in words[: len(rest)]:
        if options[name].value:
            raise errors.UserError(
                f"--{name}: found '{messages.shorten(options[name].value)}' and, as a word, "
                f"'{messages.shorten(rest[0])}'; accepted: one of them"
            )
        options[name].value = rest.pop(0)
    if rest:
        raise errors.UserError(f"unexpected argument {rest[0]!r}; options start with --")
    require(options, needed)
    return True


def require(options: flags.FlagValues, needed: Sequence[str]) -> None:
    """Raises UserError for the first flag of `needed` that is empty."""
    for name in needed:
        if not options[name].value:
            raise errors.UserError(f"--{name} is missing; see --help")


def show_log() -> None:
    """Prints the package's own log on the standard error stream, a line each with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("madad_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    # Else absl's handler prints each line once more.
    log.propagate = False


class Terminated(BaseException):
    """SIGTERM, as an exception that ends what is open as ctrl-C does."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise Terminated


def status(name: str, run: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """The exit status of `run(argv)`; 2 and one line for what the user can mend.

    143 and 130, as shells count them, for SIGTERM and ctrl-C where `run` does not hear them.
    """
    main, before = threading.current_thread() is threading.main_thread(), None
    if main:
        # By default it would end the process at once, and leave its workers and half files.
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return run(argv)
    except (KeyboardInterrupt, Terminated) as stop:
        print(f"\n{name}: stopped; the same command continues", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    except errors.UserError as error:
        if "--traceback" in argv:
            raise
        # The names of files are in it, and a terminal would obey an escape among them.
        print(f"{name}: error: {messages.shorten(error, 4000)}", file=sys.stderr)
        return 2
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """Ends the process with a status; where something failed, without waiting for threads.

    Those of a save in the background that failed never end.
    """
    if code == 0:
        sys.exit(0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
