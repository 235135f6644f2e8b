"""Every process of a run keeps its own log: `<workdir>/logs/process_<k>.log`.

Lines of the program, and warnings of the libraries, with date, time and level. A start appends
to what is there. Object stores cannot append: there the file is written anew now and then.
"""

import logging
import os
import time

from etils import epath

from madad_jax.core import errors

FOLDER = "logs"
_SECONDS = 30.0  # between two writes to an object store


class ProcessLog(logging.Handler):
    """A log handler that appends to one file.

    Args:
      workdir: the run's folder; made when missing.
      index: the process.

    Raises:
      UserError: the folder cannot be written.
    """

    keeps_errors = True

    def __init__(self, workdir: epath.PathLike, index: int):
        super().__init__()
        self.path = epath.Path(workdir) / FOLDER / f"process_{index}.log"
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._remote = "://" in os.fspath(self.path)
        self._text: list[str] = []
        self._written = -_SECONDS
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._remote and self.path.exists():
                self._text.append(self.path.read_text())
            elif not self._remote:
                with self.path.open("a"):
                    pass
        except OSError as error:
            raise errors.UserError(
                f"{self.path}: cannot be written ({error.strerror or error}); "
                "give a --workdir that can"
            ) from error

    def emit(self, record: logging.LogRecord) -> None:
        """Appends one record; a log that cannot be written must not end the run."""
        try:
            line = self.format(record) + "\n"
            if not self._remote:
                with self.path.open("a") as file:
                    file.write(line)
                return
            self._text.append(line)
            if record.levelno >= logging.WARNING or time.monotonic() - self._written > _SECONDS:
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Writes what an object store has not got yet."""
        if self._remote and self._text:
            self.path.write_text("".join(self._text))
            self._written = time.monotonic()


def attach(workdir: epath.PathLike, index: int) -> ProcessLog:
    """Sends the program's lines and the libraries' warnings to the file of this process.

    Raises:
      UserError: the folder cannot be written.
    """
    own = ProcessLog(workdir, index)
    logging.getLogger("madad_jax").addHandler(own)
    own_warnings = ProcessLog(workdir, index) if not own._remote else own
    if own_warnings is not own:
        own_warnings.setLevel(logging.WARNING)
        logging.getLogger().addHandler(own_warnings)
    return own
