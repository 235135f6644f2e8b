"""Talks to the rival: a program of another Python environment, over pipes, one line a request.

Its requests and answers are described in rivals/serve.py. It is killed with this process's end of
the pipe: it serves until its input ends.
"""

import contextlib
import json
import pathlib
import subprocess
from typing import Any

from benchmarks.speed import timing
from madad_jax.core import errors

LIBRARIES = ("torch", "monai", "diffusers")
PROGRAM = pathlib.Path(__file__).parent / "rivals" / "serve.py"


class RivalError(Exception):
    """The rival could not do what it was asked; it still serves."""


class Rival:
    """A running rival. `versions` says which libraries it has; None: not installed."""

    def __init__(self, python: str, program: pathlib.Path = PROGRAM):
        """Starts it.

        Args:
          python: interpreter of the rival's environment.
          program: what it runs.

        Raises:
          UserError: there is no such interpreter, or it answers nothing.
        """
        self._python = python
        try:
            self._process = subprocess.Popen(
                [python, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise errors.UserError(
                f"benchmark.rival_python: found {python!r}: {error.strerror}; give the Python of "
                "an environment with torch, monai and diffusers"
            ) from error
        try:
            self.versions: dict[str, Any] = self.ask(do="hello")
        except RivalError as error:
            self.close()
            raise errors.UserError(f"benchmark.rival_python: {error}") from error

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
          RivalError: it answered with an error, with no JSON, or ended.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise RivalError(f"{self._python} ended") from error
        try:
            answer = json.loads(line)
        except ValueError as error:
            said = line.strip()[:100] or f"nothing (exit status {self._process.poll()})"
            raise RivalError(f"{self._python} answered {said}") from error
        if "error" in answer:
            raise RivalError(answer["error"])
        return answer

    def run(self, key: str) -> timing.Sample:
        """One timed run of a job that was made under `key`; raises as `ask`."""
        answer = self.ask(do="run", key=key)
        return timing.Sample(answer["seconds"], answer["cpu_seconds"])

    def close(self) -> None:
        """Ends it."""
        # What a dead rival never read cannot be flushed.
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Rival":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
