"""Slices without end through the evaluator: time a slice, and memory that does not grow.

    python benchmarks/streaming.py --slices=1000000

Maps are generated (benchmarks/speed/maps.py). On the way some lines tell the CPU time of the
evaluator and the resident memory; the last tell what was found.
"""

import argparse
import json
import resource
import time

import numpy as np

from benchmarks.speed import maps
from madad_jax.metrics import evaluator


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
    source = maps.Generator(flags.size, 0, flags.slices_a_subject)
    ev = evaluator.Evaluator(
        image_size=flags.size, healthy_threshold=0.4, alarm_pixels=50, rates={0.01: 0.4}
    )
    known = np.ones(maps.BATCH, bool)
    began, spent, done, told = time.perf_counter(), 0.0, 0, 0
    while done < flags.slices:
        scores, truth, brain, records = source.batch(done)
        start = time.process_time()
        ev.add(scores, truth, brain, known, records)
        spent += time.process_time() - start
        done += maps.BATCH
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
