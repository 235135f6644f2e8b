"""Slices without end through the evaluator: time a slice, and memory that does not grow.

    python benchmarks/streaming.py --slices=1000000

Maps are generated: smoothed noise of a few patterns, shifted at random, brighter inside a disc that
is the lesion of two slices in three. On the way some lines tell the CPU time of the evaluator and
the resident memory; the last tell what was found.
"""

import argparse
import dataclasses
import json
import resource
import time

import numpy as np
from scipy import ndimage

from madad_jax.evaluation import evaluator

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


def resident_mib() -> float:
    """Memory that the process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Runs the flags' number of slices and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--slices_a_subject", type=int, default=155)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after; 0: at --slices")
    parser.add_argument("--reports", type=int, default=20)
    flags = parser.parse_args()
    source = Generator(flags.size, 0, flags.slices_a_subject)
    ev = evaluator.Evaluator(
        image_size=flags.size, healthy_threshold=0.4, alarm_pixels=50, rates={0.01: 0.4}
    )
    known = np.ones(BATCH, bool)
    began, spent, done, told = time.perf_counter(), 0.0, 0, 0
    while done < flags.slices:
        maps, truth, brain, records = source.batch(done)
        start = time.process_time()
        ev.add(maps, truth, brain, known, records)
        spent += time.process_time() - start
        done += BATCH
        if done * flags.reports >= told * flags.slices:
            told += 1
            print(
                f"{done:9d} slices  {1e3 * spent / done:.3f} ms of CPU a slice in the evaluator  "
                f"{resident_mib():.0f} MiB resident",
                flush=True,
            )
        if flags.minutes and time.perf_counter() - began > 60 * flags.minutes:
            break
    start = time.perf_counter()
    row = ev.result(method="generated")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done} slices of {flags.size}^2 in {time.perf_counter() - began:.0f} s, all told")
    print(f"the row took {time.perf_counter() - start:.1f} s; peak memory {peak:.0f} MiB")
    kept = ("n_scored", "n_subjects", "ap", "auroc", "aupro", "pooled_max_dice", "max_dice")
    kept += ("error_bounds", "intervals", "bootstrap")
    print(json.dumps({k: row[k] for k in kept}, indent=1))


if __name__ == "__main__":
    main()
