"""Sources of a run, each opened once, and their batches on the run's mesh."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from madad_jax.assembly import data as data_lib
from madad_jax.core.types import Batch
from madad_jax.data.input import pipeline
from madad_jax.data.sources import labelled, several

_LOG = logging.getLogger(__name__)


class Inputs:
    """What the stages of a run read.

    Args:
      data: where slices come from.
      mesh: that batches are divided over.
      eval_batch_size: of evaluation batches, global.
    """

    def __init__(self, data: data_lib.DataPlan, mesh: jax.sharding.Mesh, eval_batch_size: int):
        self.data = data
        self.mesh = mesh
        self.eval_batch_size = eval_batch_size
        self._sources: dict[str, Any] = {}

    def source(self, split: str) -> Any:
        """One split, opened once."""
        # Opening lists and checks every file of a split: once is enough for all stages.
        if split not in self._sources:
            self._sources[split] = self.data.open_split(split)
            _LOG.info("%s: %s", split, self._sources[split].describe())
        return self._sources[split]

    def healthy_source(self, name: str) -> Any:
        """The healthy companion of a test set; None where there is none."""
        companion = f"{name}_healthy"
        return self.source(companion) if self.data.has_split(companion) else None

    def labelled_pair(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Training slices with those of the abnormal split among them, and validation slices."""
        abnormal = self.source(labelled.ABNORMAL_SPLIT)
        return labelled.Labelled(train, abnormal), labelled.Labelled(val)

    def eval_batches(self, source: Any) -> pipeline.EvalBatches:
        """Evaluation batches of a source."""
        return self.data.eval_batches(source, self.eval_batch_size, self.mesh)

    def validation_batches(
        self, source: Any, batch_size: int, keys: Sequence[str], limit: int = 0
    ) -> Iterator[Batch]:
        """The first `limit` validation batches (0: all), with the arrays `keys` alone."""
        for i, batch in enumerate(self.data.eval_batches(source, batch_size, self.mesh)):
            if limit and i >= limit:
                return
            yield {key: batch[key] for key in keys}


class JointInputs(Inputs):
    """The slices of several runs as those of one; batches and their order are the first's."""

    def __init__(self, tasks: Sequence[Inputs]):
        first = tasks[0]
        super().__init__(first.data, first.mesh, first.eval_batch_size)
        self._tasks = tasks

    def source(self, split: str) -> Any:
        """One split of all runs."""
        if split not in self._sources:
            self._sources[split] = several.Several([task.source(split) for task in self._tasks])
        return self._sources[split]
