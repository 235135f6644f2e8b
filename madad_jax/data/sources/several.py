"""Several sources as one: joint training on all sites or contrasts."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from madad_jax.data.sources import record as record_lib


class Several:
    """Sources one after the other as one `record.Source`.

    A slice's id begins with the number of its source: ids are unique within one source alone.
    """

    def __init__(self, sources: Sequence[record_lib.Source]):
        self._sources = list(sources)
        # Index of the first slice of each source.
        self._starts = [0, *itertools.accumulate(len(source) for source in sources)][:-1]
        self.records = [
            dataclasses.replace(record, id=f"{number}-{record.id}")
            for number, source in enumerate(sources, start=1)
            for record in source.records
        ]

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See `record.Slices`."""
        place = bisect.bisect_right(self._starts, index) - 1
        return self._sources[place][index - self._starts[place]]

    def describe(self) -> str:
        """One line."""
        return " and ".join(source.describe() for source in self._sources)

    def fingerprint(self) -> str:
        """Of all sources."""
        return record_lib.digest([source.fingerprint() for source in self._sources])
