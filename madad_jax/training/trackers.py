"""Metrics to Weights & Biases and MLflow, beside the files of a run (`config.log.track`).

Both are asked for by name and belong to the extra `track`. Where they write is their own matter:
`WANDB_MODE=offline`, `WANDB_PROJECT`, `MLFLOW_TRACKING_URI`; without the last, MLflow writes into
the run's folder. The ids of a run's records lie in `trackers.json`, so that a continued run
continues them. A record that is sent cannot be taken back: after a resumption it may hold points
of steps that the run's own files dropped.

A tracker that fails is dropped with a line: curves are no reason to lose a training.
"""

import functools
import importlib
import importlib.util
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from etils import epath

from madad_jax.core import atomic_files, errors, json_file, messages

_LOG = logging.getLogger(__name__)

NAMES = ("wandb", "mlflow")
FILE = "trackers.json"
_PROJECT = "madad_jax"
_MOST_TEXT = 500  # characters of a parameter that MLflow keeps


class Tracker(Protocol):
    """Takes the metrics of a run."""

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        """Sends numbers of finished optimiser steps of a stage."""

    def close(self) -> None:
        """Ends the record; it can be continued."""


def check(names: Sequence[str], key: str = "log.track") -> None:
    """Raises UserError for a name that is none, or a package that is not installed."""
    for name in names:
        if name not in NAMES:
            raise errors.UserError(
                f"{key}: found {messages.shorten(repr(name))}, accepted: {', '.join(NAMES)}"
            )
        if importlib.util.find_spec(name) is None:
            raise errors.UserError(
                f"{key}: found '{name}', which is not installed; pip install 'madad_jax[track]'"
            )


class Trackers:
    """All trackers of a run, none of which can end it.

    Args:
      names: of `NAMES`.
      workdir: the run's folder.
      title: of the record.
      config: the run's, without paths.

    Raises:
      UserError: as `check`.
    """

    def __init__(
        self, names: Sequence[str], workdir: epath.PathLike, title: str, config: Mapping[str, Any]
    ):
        check(names)
        self._open: dict[str, Tracker] = {}
        folder = epath.Path(workdir)
        known = _read_ids(folder)
        kinds: dict[str, Callable[..., Tracker]] = {"wandb": _Wandb, "mlflow": _Mlflow}
        for name in names:
            # Both write into the folder before anything else of the run may have.
            folder.mkdir(parents=True, exist_ok=True)
            make = functools.partial(kinds[name], folder, title, config, known.get(name, ""))
            made = _guard(name, make)
            if made is not None:
                self._open[name] = made
                known[name] = made.run_id
        if names:
            atomic_files.write_text(folder / FILE, json.dumps(known) + "\n")

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        """Sends the finite ones of a line of metrics."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, tracker in list(self._open.items()):
            send = functools.partial(tracker.write, stage, split, step, finite)
            if _guard(name, send, True) is None:
                del self._open[name]

    def close(self) -> None:
        """Ends the records; they can be continued."""
        for name, tracker in self._open.items():
            _guard(name, tracker.close)
        self._open.clear()


def _guard(name: str, work: Callable[[], Any], done: Any = None) -> Any:
    """`work()`, or `done` where that is nothing; None and a line where it failed."""
    try:
        found = work()
        return done if found is None else found
    except Exception as error:
        _LOG.warning(
            "log.track: %s failed and gets no more metrics (%s: %s)",
            name,
            type(error).__name__,
            messages.shorten(error, 300),
        )
        return None


def _read_ids(folder: epath.Path) -> dict[str, str]:
    path = folder / FILE
    if not path.exists():
        return {}
    found = json_file.read_object(path)
    return {name: str(found[name]) for name in NAMES if isinstance(found.get(name), str)}


class _Wandb:
    """A run of Weights & Biases; each stage counts its own steps."""

    def __init__(self, folder: epath.Path, title: str, config: Mapping[str, Any], run_id: str):
        # Inside: it takes a second to import, and is not installed everywhere.
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=title,
            dir=os.fspath(folder),
            config=dict(config),
            id=run_id or None,
            resume="allow",
        )
        self.run_id = str(self._run.id)
        for stage in ("autoencoder", "denoiser"):
            self._run.define_metric(f"{stage}/step", hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        row = {f"{stage}/{split}/{name}": value for name, value in values.items()}
        self._run.log(row | {f"{stage}/step": step})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    """A run of MLflow, by its client: nothing of the process is changed."""

    def __init__(self, folder: epath.Path, title: str, config: Mapping[str, Any], run_id: str):
        mlflow = importlib.import_module("mlflow")
        self._metric = importlib.import_module("mlflow.entities").Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self.run_id = run_id or self._begin(title, folder)
        self._client.update_run(self.run_id, status="RUNNING")
        if not run_id:
            for key, value in _flat(config).items():
                self._client.log_param(self.run_id, key, str(value)[:_MOST_TEXT])

    def _begin(self, title: str, folder: epath.Path) -> str:
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(project)
        own = f"file://{os.path.abspath(folder / 'mlflow')}"
        place = None if os.environ.get("MLFLOW_TRACKING_URI") else own
        number = known.experiment_id if known else self._client.create_experiment(project, place)
        return self._client.create_run(number, run_name=title).info.run_id

    def write(self, stage: str, split: str, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [
            self._metric(f"{stage}/{split}/{name}", value, now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self.run_id, metrics=rows)

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
