"""One row of a set that is being scored: slice by slice, and scan by scan where asked for."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib
from madad_jax.metrics import evaluator as evaluator_lib
from madad_jax.metrics import scan_figures


@dataclasses.dataclass
class RowEvaluator:
    """The evaluator of a row's slices, and of its whole scans when the protocol judges them."""

    slices: evaluator_lib.Evaluator
    scans: scan_figures.Scans | None = None

    def add(self, maps: np.ndarray, batch: Batch, records: Sequence[record_lib.Record]) -> None:
        """Adds maps [n, H, W] of test slices; `records` are theirs, one a slice."""
        truth = (batch["segmentation"], batch["brain_mask"], batch["has_segmentation"])
        self.slices.add(maps, *truth, records)
        if self.scans is not None:
            self.scans.add(maps, *truth, records)

    def add_healthy(
        self, maps: np.ndarray, batch: Batch, records: Sequence[record_lib.Record]
    ) -> None:
        """Adds maps [n, H, W] of slices without a lesion, which count for false alarms only."""
        brain = batch["brain_mask"]
        self.slices.add_healthy(maps, brain, records)
        if self.scans is not None:
            # A scan is complete with its healthy slices, whose truth is an empty segmentation.
            known = np.ones(len(records), bool)
            self.scans.add(maps, np.zeros_like(brain), brain, known, records)
