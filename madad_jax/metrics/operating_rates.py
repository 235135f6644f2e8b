"""Does a threshold keep its promise? The rate asked for on healthy validation slices, and the
rate that healthy slices of the test set have above the same threshold.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from madad_jax.metrics import bootstrap

# As in `subject_sums`: enough people for any interval.
MAX_UNITS = 2048


class Rates:
    """Healthy brain pixels above several thresholds, by person."""

    def __init__(self, thresholds: Mapping[float, float], max_units: int = MAX_UNITS):
        """`thresholds` by the rate asked for; past `max_units` people are gathered in so many
        bundles, so that memory does not grow."""
        self._asked = sorted(thresholds)
        self._limits = np.array([thresholds[rate] for rate in self._asked], np.float32)
        self._max_units = max_units
        self._counts: dict[str, np.ndarray] = {}  # brain pixels, then those above each

    def add(self, subject: str, brain: np.ndarray) -> None:
        """Adds the brain's scores of one slice without a lesion."""
        if not len(self._asked):
            return
        above = [np.count_nonzero(brain > limit) for limit in self._limits]
        if subject not in self._counts and len(self._counts) >= self._max_units:
            # crc32 and not hash(), which Python seeds anew in every process.
            subject = list(self._counts)[zlib.crc32(subject.encode()) % self._max_units]
        mine = self._counts.setdefault(subject, np.zeros(1 + len(self._asked), np.int64))
        mine += [brain.size, *above]

    def table(self, *, draws: int, seed: int) -> list[dict[str, Any]]:
        """One entry a rate: `asked`, `threshold`, `realised` and its 95 % interval over people."""
        if not self._counts:
            return []
        counts = np.array([self._counts[name] for name in sorted(self._counts)], np.float64)
        if not counts[:, 0].sum():
            return []
        out = []
        for i, (rate, limit) in enumerate(zip(self._asked, self._limits, strict=True), start=1):
            entry = {
                "asked": rate,
                "threshold": float(limit),
                "realised": float(counts[:, i].sum() / counts[:, 0].sum()),
                "n_subjects": len(counts),
            }
            if draws and len(counts) >= bootstrap.MIN_SUBJECTS:
                drawn = bootstrap.draw_weights(len(counts), draws, seed) @ counts
                # Pixels over pixels of a draw, not a mean of shares: the rate that was asked for is
                # one of pixels.
                shares = drawn[:, i] / np.maximum(drawn[:, 0], 1.0)
                entry["interval"] = [float(v) for v in np.percentile(shares, (2.5, 97.5))]
            out.append(entry)
        return out
