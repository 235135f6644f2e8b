"""Metrics to `workdir/metrics.jsonl`, to TensorBoard, and to trackers (`trackers.py`).

One JSON object a line: `{"stage": "denoiser", "split": "train", "step": 100, "time": ...,
"loss": 0.1, ...}` with `time` in seconds since 1970 and null for numbers that are not finite.
A line is written by one append, so a killed run leaves whole lines and at most one torn tail,
which is dropped when the file is opened again. A resumed run drops its lines beyond the
restored step, so no step appears twice.

TensorBoard files go to `workdir/tensorboard/<stage>/<split>`.
"""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorboardX
from etils import epath

from madad_jax.core import atomic_files, errors, json_file
from madad_jax.training import trackers as trackers_lib

_LOG = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"
_RESERVED = ("stage", "split", "step", "time")


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics file, oldest first; empty when there is none.

    Lines that are none of ours are left out: the torn tail of a killed run, or what a disk or
    another program made of them. They are curves alone, and no reason to lose a training.
    """
    path = epath.Path(workdir) / FILE_NAME
    if not path.exists():
        return []
    rows = []
    for line in atomic_files.read_bytes(path).splitlines():
        with contextlib.suppress(errors.UserError):
            row = json_file.parse_object(line, FILE_NAME)
            if isinstance(row.get("step", 0), int | float):
                rows.append(row)
    return rows


class MetricWriter:
    """Writes on process 0 and does nothing elsewhere.

    Args:
      workdir: the run's folder; made when missing.
      is_primary: whether this process writes (`jax.process_index() == 0`).
      trackers: get the same numbers, and are closed with this.

    Raises:
      UserError: when the folder cannot be written.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        is_primary: bool = True,
        trackers: trackers_lib.Trackers | None = None,
    ):
        self._trackers = trackers
        self.workdir = epath.Path(workdir)
        self.is_primary = is_primary
        self._path = self.workdir / FILE_NAME
        self._boards: dict[tuple[str, str], tensorboardX.SummaryWriter | None] = {}
        self._purge: dict[str, int] = {}
        if is_primary:
            with self._explain():
                self.workdir.mkdir(parents=True, exist_ok=True)
                if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
                    # The torn tail goes now: a line appended to it would be lost with it.
                    self._rewrite(read(self.workdir))

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def write(self, stage: str, split: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line, and sends the same scalars to TensorBoard and to the trackers.

        Args:
          stage: "autoencoder", "denoiser", ...
          split: "train", "val", ...
          step: finished optimiser steps.
          metrics: name -> number (or a scalar array).

        Raises:
          ValueError: for a metric named as one of the line's own fields.
          UserError: when the file cannot be written.
        """
        if clash := set(metrics) & set(_RESERVED):
            raise ValueError(f"metric names {sorted(clash)} are fields of the line itself")
        if not self.is_primary:
            return
        values = {name: float(value) for name, value in metrics.items()}
        row = {"stage": stage, "split": split, "step": int(step), "time": round(time.time(), 3)}
        # null, because NaN is no JSON and other readers would refuse the line.
        row |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        with self._explain():
            self._append(json.dumps(row) + "\n")
            if board := self._board(stage, split):
                for name, value in values.items():
                    board.add_scalar(name, value, int(step))
                # At once: a killed run keeps its curves.
                board.flush()
        if self._trackers is not None:
            self._trackers.write(stage, split, int(step), values)

    def truncate_after(self, stage: str, step: int) -> None:
        """Drops `stage`'s lines (and TensorBoard points) beyond `step`: a run resumes there."""
        if not self.is_primary:
            return
        # TensorBoard hides points from this step on once a file says so; they cannot be deleted.
        self._purge[stage] = step + 1
        rows = read(self.workdir)
        kept = [row for row in rows if row.get("stage") != stage or row.get("step", 0) <= step]
        if len(kept) != len(rows):
            _LOG.info("%s: dropped %d lines after step %d", stage, len(rows) - len(kept), step)
            with self._explain():
                self._rewrite(kept)

    def close(self) -> None:
        """Flushes and closes the TensorBoard files, and the trackers' records."""
        if self._trackers is not None:
            self._trackers.close()
        for board in self._boards.values():
            if board is not None:
                board.close()
        self._boards.clear()

    def _append(self, line: str) -> None:
        if "://" in os.fspath(self._path):  # Object stores cannot append: write it anew.
            old = self._path.read_text() if self._path.exists() else ""
            self._path.write_text(old + line)
            return
        # O_APPEND and one write: the kernel puts the line at the end as a whole.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        atomic_files.write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def _board(self, stage: str, split: str) -> tensorboardX.SummaryWriter | None:
        if (stage, split) not in self._boards:
            folder = self.workdir / "tensorboard" / stage / split
            try:
                board = tensorboardX.SummaryWriter(
                    os.fspath(folder), purge_step=self._purge.get(stage)
                )
            except ImportError as error:  # gs:// without google-cloud-storage.
                _LOG.warning("no TensorBoard curves under %s: %s", folder, error)
                board = None
            self._boards[stage, split] = board
        return self._boards[stage, split]

    @contextlib.contextmanager
    def _explain(self) -> Iterator[None]:
        """Turns an `OSError` inside into a `UserError` that names the folder."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise errors.UserError(f"{self.workdir}: cannot write here: {reason}") from error
