"""Anomaly maps without end, for figures and timings of the evaluation.

Smoothed noise of a few patterns, shifted at random, brighter inside a disc that is the lesion of
two slices in three.
"""

import dataclasses

import numpy as np
from scipy import ndimage

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Record:
    """What the evaluator asks of a slice."""

    id: str
    subject: str
    lesion_kind: str


class Generator:
    """Batches of maps in [0, 1], lesions and brains, from a seed."""

    def __init__(self, size: int, seed: int, slices_a_subject: int):
        self._slices_a_subject = slices_a_subject
        self._random = np.random.default_rng(seed)
        self._size = size
        rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
        brain = (rows / (0.42 * size)) ** 2 + (columns / (0.34 * size)) ** 2 < 1
        self._brain = np.repeat(brain[None], BATCH, axis=0)
        noise = self._random.random((8, size, size))
        noise = ndimage.gaussian_filter(noise, (0, 3, 3)).astype(np.float32)
        low, high = noise.min(), noise.max()
        self._patterns = (0.5 * ((noise - low) / (high - low)) ** 2).astype(np.float32)
        self._distance = np.hypot(rows, columns).astype(np.float32)

    def batch(self, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Record]]:
        """Slices `start` to `start + BATCH`."""
        draw = self._random
        maps = self._patterns[draw.integers(0, len(self._patterns), BATCH)]
        maps = np.roll(maps, tuple(draw.integers(0, self._size, 2)), axis=(1, 2))
        truth = np.zeros(maps.shape, bool)
        records = []
        for i in range(BATCH):
            if (start + i) % 3:
                at = tuple(draw.integers(-self._size // 6, self._size // 6, 2))
                disc = np.roll(self._distance, at, axis=(0, 1)) < draw.uniform(1, self._size / 10)
                truth[i] = disc & self._brain[i]
                maps[i][truth[i]] += np.float32(draw.uniform(0.0, 0.4))
            subject = f"s{(start + i) // self._slices_a_subject:07d}"
            kind = "disc" if truth[i].any() else ""
            records.append(Record(f"{subject}-slice_{start + i}", subject, kind))
        np.minimum(maps, 1.0, out=maps)
        return np.where(self._brain, maps, np.float32(0.0)), truth, self._brain, records
