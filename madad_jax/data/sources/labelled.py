"""Slices with one label each, for methods that learn from it: is this slice abnormal?

A weak label: where the lesion is stays unknown to training. Healthy slices are those of one
split, abnormal ones those of another whose name says so; of a source that knows its lesions, only
the slices that show one.
"""

from typing import Any

import numpy as np

from madad_jax.core import errors
from madad_jax.data.sources import record as record_lib

ABNORMAL_SPLIT = "train_lesion"


class Labelled:
    """Two sources as one `record.Source`, whose elements have `unhealthy` (np.bool_) too.

    Raises:
      UserError: no abnormal slice (with `abnormal` None all are healthy, as for validation).
    """

    def __init__(self, healthy: record_lib.Source, abnormal: record_lib.Source | None = None):
        self._healthy, self._abnormal = healthy, abnormal
        self._chosen = [] if abnormal is None else _abnormal_slices(abnormal)
        if abnormal is not None and not self._chosen:
            raise errors.UserError(
                f"{abnormal.describe()}: found no abnormal slice to learn from, accepted: one or "
                f"more in '{ABNORMAL_SPLIT}'"
            )
        self.records = [*healthy.records, *(abnormal.records[i] for i in self._chosen)]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._healthy) + len(self._chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Slices`."""
        # Healthy slices stand first, so that their numbers are those of the healthy split.
        sick = index >= len(self._healthy)
        source = self._abnormal if sick else self._healthy
        place = self._chosen[index - len(self._healthy)] if sick else index
        return {**source[place], "unhealthy": np.bool_(sick)}

    def describe(self) -> str:
        """One line."""
        return f"{self._healthy.describe()}, and {len(self._chosen)} slices labelled abnormal"

    def fingerprint(self) -> str:
        """Of both sources."""
        sources = [s for s in (self._healthy, self._abnormal) if s is not None]
        return record_lib.digest([source.fingerprint() for source in sources])


def _abnormal_slices(source: record_lib.Source) -> list[int]:
    # A source that never names a lesion is labelled by its split alone.
    known = [i for i, record in enumerate(source.records) if record.lesion_kind]
    return known or list(range(len(source)))
