"""Checkpoints: Orbax writes and reads, digests of our own tell whole from damaged.

A step is one folder with the items

    train_state   step, params, opt_state
    ema_params    the averaged parameters (a copy of params without averaging), so that
                  evaluation reads one item and no optimiser state
    data          position of the training data (JSON)
    config        the run's configuration (JSON)
    digests       digests of every array and JSON item, metrics, and its own sha256 (JSON)

Orbax writes a folder under a temporary name and renames it when all of it is there, so the
digests commit together with what they describe. Orbax restores a flipped bit silently; here
every array is digested again after it was read (digests.py) and compared. A damaged step is
named, moved aside into `damaged/`, and the newest whole one is used instead.

Files hold arrays and JSON only: a checkpoint from a stranger cannot run code.
"""

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from jax.experimental import multihost_utils

from madad_jax.checkpoints import digests, reader
from madad_jax.core import errors, json_digest

_LOG = logging.getLogger(__name__)

DAMAGED_FOLDER = "damaged"
_THREAD = "save_finalize"  # So Orbax calls the thread that ends a save in the background.


@dataclasses.dataclass(frozen=True)
class Restored:
    """A whole checkpoint: `state` carries the shardings that were asked for."""

    step: int
    state: Any
    data_state: dict[str, Any]
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A damaged step, why, and the folder that it was moved to (None: left in place)."""

    step: int
    reason: str
    moved_to: str | None


class _Keep:
    """The newest `count` steps and the best one: a `PreservationPolicy` of Orbax by its method.

    Orbax's own `BestN` reads a metrics file of its own, and a damaged one of those stops the
    manager from opening the folder at all; ours are inside the digests item.
    """

    def __init__(self, count: int, saver: "Checkpointer"):
        self._count = count
        self._saver = saver

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One flag per checkpoint, oldest first."""
        del context
        steps = [info.step for info in checkpoints]
        kept = {*steps[-self._count :], reader.best(self._saver.records(steps))}
        return [step in kept for step in steps]


class Checkpointer:
    """Saves and restores the steps of one training stage.

    Args:
      directory: a local or `gs://` folder; made when missing. Unfinished saves of a killed run
        are removed from it.
      keep_latest: how many of the newest steps are kept.
      best_metric: name of the metric whose best step is kept too, or None.
      best_mode: "min" or "max".
      async_save: write in the background; the state may be donated right after `save`.

    Raises:
      UserError: when the folder cannot be made or written.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep_latest: int = 2,
        best_metric: str | None = None,
        best_mode: str = "min",
        async_save: bool = True,
    ):
        if keep_latest < 1 or best_mode not in ("min", "max"):
            raise ValueError(f"keep_latest={keep_latest} (>= 1), best_mode={best_mode!r}")
        self.directory = absolute(directory)
        self.problems: list[Problem] = []
        self._best = {"metric": best_metric, "mode": best_mode} if best_metric else None
        self._records: dict[int, dict[str, Any] | None] = {}
        self._saving_thread: threading.Thread | None = None
        import orbax.checkpoint as ocp  # A second: those who read digests need none of it.

        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Keep(keep_latest, self),
            enable_async_checkpointing=async_save,
        )
        reader.quiet_orbax()
        with reader.explain(self.directory):
            self._sweep()
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def all_steps(self) -> list[int]:
        """Steps on disk, oldest first, whole or not."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step on disk."""
        return self._manager.latest_step()

    def records(self, steps: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The digests items of `steps`, without those that are missing or damaged."""
        for step in steps:
            if step not in self._records:
                try:
                    self._records[step] = reader.read_record(self.directory, step)
                except reader.DamagedError:
                    self._records[step] = None
        return {step: record for step in steps if (record := self._records[step]) is not None}

    def save(
        self,
        step: int,
        state: Any,
        data_state: dict[str, Any],
        config: dict[str, Any],
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Saves a step; every process must call it.

        Args:
          step: finished optimiser steps.
          state: train state with fields step, params, opt_state, ema_params (may be None).
          data_state: JSON-able position of the training data, the same on every process.
          config: JSON-able configuration of the run.
          metrics: numbers known at this step; among them `best_metric`, when it is to count.
          force: save also when a later step exists. A step on disk is never written over.

        Returns:
          Whether a save was started (it may still run: see `wait`).

        Raises:
          UserError: when the disk is full or the folder cannot be written, also by the save
            before this one.
        """
        import orbax.checkpoint as ocp

        existing = self.all_steps()
        if step in existing or (existing and step < existing[-1] and not force):
            return False
        train_state = {f: getattr(state, f) for f in ("step", "params", "opt_state")}
        weights = state.params if state.ema_params is None else state.ema_params
        arrays = digests.tree_digests({"train_state": train_state, "ema_params": weights})
        record = reader.make_record(step, arrays, data_state, config, metrics, self._best)
        self._records[step] = record
        try:
            with self._saving():
                started = self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        train_state=ocp.args.StandardSave(train_state),
                        ema_params=ocp.args.StandardSave(weights),
                        data=ocp.args.JsonSave(json_digest.canonical(data_state)),
                        config=ocp.args.JsonSave(json_digest.canonical(config)),
                        digests=ocp.args.JsonSave(record),
                    ),
                    force=True,
                )
        except BaseException:
            self._records.pop(step, None)
            raise
        self._saving_thread = next((t for t in threading.enumerate() if t.name == _THREAD), None)
        return started

    def restore_latest(self, abstract_state: Any) -> Restored | None:
        """The newest whole step, or None when the folder holds no step.

        Damaged steps newer than it are logged, kept in `problems` and moved into `damaged/`,
        so that their numbers can be saved again. Every process must call it.

        Args:
          abstract_state: a train state of arrays or `ShapeDtypeStruct`s; leaves with a sharding
            are restored to it, whatever the sharding at the save.

        Raises:
          UserError: for a checkpoint of another model or optimiser, or when no step is whole.
        """
        self.wait()
        damaged: list[tuple[int, str]] = []
        for step in reversed(self.all_steps()):
            try:
                restored = self._restore(step, abstract_state)
            except reader.DamagedError as error:
                _LOG.warning("checkpoint %s/%d is damaged: %s", self.directory, step, error)
                damaged.append((step, str(error)))
                continue
            if damaged:
                _LOG.warning("using the newest whole checkpoint instead: step %d", step)
            for bad, reason in damaged:
                self.problems.append(Problem(bad, reason, self._move_aside(bad)))
            if damaged:
                self._manager.reload()
                self._records.clear()
            return restored
        if damaged:
            # Nothing is moved: what made every step unreadable may lie outside of them.
            self.problems.extend(Problem(step, reason, None) for step, reason in damaged)
            found = "; ".join(f"step {step}: {reason}" for step, reason in damaged)
            raise errors.UserError(
                f"{self.directory}: no checkpoint is whole ({found}); "
                "restore the folder from a copy, or move it away to start anew"
            )
        return None

    def check(self) -> None:
        """Looks whether a save in the background has failed; call it between steps.

        Without it a run would go on to its next save, for hours perhaps, and save nothing.

        Raises:
          UserError: as `wait`.
        """
        if self._saving_thread is not None and not self._saving_thread.is_alive():
            self._saving_thread = None
            self.wait()

    def wait(self) -> None:
        """Blocks until a running save is committed.

        Raises:
          UserError: when it failed for want of space or permission.
        """
        with self._saving():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for a running save and ends the background threads."""
        with self._saving():
            self._manager.close()

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Removes what a failed save left behind: on a full disk it is in everybody's way."""
        try:
            with reader.explain(self.directory):
                yield
        except errors.UserError:
            with contextlib.suppress(OSError):
                self._sweep(barrier=False)
            raise

    def _sweep(self, barrier: bool = True) -> None:
        """Removes unfinished saves, on process 0.

        The manager could do so by itself, but in a thread that it waits for in `save` only: a
        run that ends early prints that thread's traceback.
        """
        if jax.process_index() == 0 and self.directory.exists():
            from orbax.checkpoint import utils as unfinished

            for path in unfinished.tmp_checkpoints(self.directory):
                path.get().rmtree()
        if barrier:
            _barrier("unfinished-saves-removed")

    def _restore(self, step: int, abstract_state: Any) -> Restored:
        target = {f: getattr(abstract_state, f) for f in ("step", "params", "opt_state")}
        wanted = {"train_state": target}
        if abstract_state.ema_params is not None:
            wanted["ema_params"] = abstract_state.ema_params
        items, record = reader.read_step(self.directory, step, wanted, ("data", "config"))
        del record
        state = dataclasses.replace(
            abstract_state, **items["train_state"], ema_params=items.get("ema_params")
        )
        return Restored(step, state, items["data"], items["config"])

    def _move_aside(self, step: int) -> str:
        """Renames a damaged step out of the way, on process 0; all processes wait for it."""
        folder = self.directory / DAMAGED_FOLDER
        number = 0
        while (target := folder / f"{step}-{number}").exists():
            number += 1
        _barrier(f"damaged-{step}-named")
        if jax.process_index() == 0:
            with reader.explain(self.directory):
                folder.mkdir(parents=True, exist_ok=True)
                # On object stores Orbax takes folders without this file for unfinished saves.
                (folder / "commit_success.txt").touch()
                (self.directory / str(step)).rename(target)
        _barrier(f"damaged-{step}-moved")
        return str(target)


def _barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def absolute(directory: epath.PathLike) -> epath.Path:
    """Orbax refuses relative folders; `gs://` and the like stay as they are."""
    text = os.fspath(directory)
    return epath.Path(text if "://" in text else os.path.abspath(text))


def restore_ema(
    directory: epath.PathLike, abstract_params: Any, step: str | int = "best"
) -> tuple[Any, dict[str, Any]]:
    """The evaluation weights and the configuration of a run, without its optimiser state.

    Args:
      directory: the folder of a `Checkpointer`; only read.
      abstract_params: arrays or `ShapeDtypeStruct`s; leaves with a sharding are restored to it.
      step: "best" (by the run's metric; the newest when none was recorded), "latest", or a
        number. A damaged step is logged and the next one by the same order is used; a step
        that was named by its number is not replaced.

    Returns:
      (params, config).

    Raises:
      UserError: no checkpoint, none whole, or one of another model.
    """
    directory = absolute(directory)
    for number in reader.candidates(directory, step):
        try:
            items, _ = reader.read_step(
                directory, number, {"ema_params": abstract_params}, ("config",)
            )
            _LOG.info("%s: weights of step %d", directory, number)
            return items["ema_params"], items["config"]
        except reader.DamagedError as error:
            _LOG.warning("checkpoint %s/%d is damaged: %s", directory, number, error)
    raise errors.UserError(f"{directory}: checkpoint {step!r} is damaged and no other is whole")


def read_config(directory: epath.PathLike, step: str | int = "latest") -> dict[str, Any]:
    """The configuration that a run's checkpoint was saved with.

    Raises:
      UserError: no checkpoint, or none with a whole configuration.
    """
    directory = absolute(directory)
    for number in reader.candidates(directory, step):
        try:
            return reader.read_step(directory, number, {}, ("config",))[0]["config"]
        except reader.DamagedError as error:
            _LOG.warning("checkpoint %s/%d is damaged: %s", directory, number, error)
    raise errors.UserError(f"{directory}: checkpoint {step!r} is damaged and no other is whole")
