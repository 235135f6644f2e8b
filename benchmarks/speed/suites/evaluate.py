"""Suite `evaluate`: figures of many maps, ours against loops over thresholds and images.

The loops run on a stated smaller number of maps and are extrapolated linearly (each map costs the
same at each threshold; sorting, which grows a little faster, is a small part). On that smaller
set both sides must give the same figures. The loops need numpy alone and run in this package's own
environment, so that both sides have the same numpy.
"""

import functools
import math
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks.speed import context as context_lib
from benchmarks.speed import maps as maps_lib
from benchmarks.speed import results, rival, timing
from madad_jax.metrics import evaluator, pixel_pool, threshold_counts

LOOPS = {"official": "builtin", "numpy sums": "numpy"}
FIGURES = ("max_dice", "auroc", "ap", "pooled_max_dice")
# Both sides take the same counts; what differs is the order of float64 sums.
TOLERANCE = 1e-6
SIDE = 256


def rows(context: context_lib.Context) -> context_lib.Rows:
    """The same four figures, and everything that a report shows."""
    count = context.options.maps
    return {
        f"{what}, {count} maps of 256 x 256": functools.partial(
            _measure, context, f"{what}, {count} maps of 256 x 256", take
        )
        for what, take in (("four figures", four_figures), ("whole report", whole_report))
    }


def _source() -> maps_lib.Generator:
    return maps_lib.Generator(SIDE, seed=0, slices_a_subject=20)


def four_figures(source: maps_lib.Generator, count: int) -> dict[str, float]:
    """The official code's four figures, streaming; maps are made as they are needed."""
    counts, everything = threshold_counts.ThresholdCounts(), pixel_pool.Pool()
    for start in range(0, count, maps_lib.BATCH):
        kept = min(maps_lib.BATCH, count - start)
        found, truth = (a[:kept] for a in source.batch(start)[:2])
        counts.add(found, truth, pool=everything)
    pooled = everything.figures()
    return {
        "max_dice": counts.max_dice()[0],
        "auroc": pooled.auroc,
        "ap": pooled.ap,
        "pooled_max_dice": pooled.max_dice,
    }


def whole_report(source: maps_lib.Generator, count: int) -> dict[str, float]:
    """A row of a report: the four, and per-lesion figures, intervals, false alarms."""
    ev = evaluator.Evaluator(image_size=SIDE, healthy_threshold=0.4, alarm_pixels=50)
    known = np.ones(maps_lib.BATCH, bool)
    for start in range(0, count, maps_lib.BATCH):
        found, truth, brain, records = source.batch(start)
        kept = min(maps_lib.BATCH, count - start)
        ev.add(found[:kept], truth[:kept], brain[:kept], known[:kept], records[:kept])
    return ev.result(method="generated")


def _measure(context: context_lib.Context, name: str, take: Any) -> results.Row:
    o, row = context.options, results.Row(name)

    def making(count: int) -> timing.Sample:
        source = _source()
        return timing.timed(lambda: [source.batch(i) for i in range(0, count, maps_lib.BATCH)])

    samples = []
    for _ in range(o.evaluate_repeats):
        whole = timing.timed(lambda: take(_source(), o.maps))
        # Making the maps is the benchmark's own work.
        made = making(o.maps)
        samples.append(
            timing.Sample(whole.seconds - made.seconds, whole.cpu_seconds - made.cpu_seconds)
        )
    row.ours = timing.summary(samples)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "maps.npz"
        _write(path, o.official_maps)
        with rival.Rival(sys.executable) as loops:
            for way, loop in LOOPS.items():
                _loop(context, row, loops, way, loop, path)
    row.figures["slices a second, ours"] = f"{o.maps / row.ours['seconds']['median']:.0f}"
    row.notes.append(
        f"loops measured on {o.official_maps} maps and extrapolated linearly to {o.maps}; on those "
        f"maps the four figures are equal within {TOLERANCE}"
    )
    return row


def _write(path: pathlib.Path, count: int) -> None:
    source = _source()
    parts = [source.batch(i)[:2] for i in range(0, count, maps_lib.BATCH)]
    maps, truth = (np.concatenate(part)[:count] for part in zip(*parts, strict=True))
    np.savez(path, maps=maps, truth=truth)


def _loop(
    context: context_lib.Context,
    row: results.Row,
    loops: rival.Rival,
    way: str,
    loop: str,
    path: pathlib.Path,
) -> None:
    o = context.options
    loops.ask(
        do="make", key=way, job="metrics", file=str(path), count=o.official_maps, loop=loop, first=0
    )
    answer = loops.ask(do="run", key=way)
    check_equal(four_figures(_source(), o.official_maps), answer["result"])
    factor = o.maps / o.official_maps
    sample = timing.Sample(answer["seconds"] * factor, answer["cpu_seconds"] * factor)
    ratio = row.ours["seconds"]["median"] / sample.seconds
    row.rivals[f"{way} (extrapolated)"] = {
        **timing.summary([sample]),
        "ratio": timing.spread([ratio]),
        "first_seconds": 0.0,
        "parameters": {},
    }
    row.figures[f"times faster than {way}"] = f"{1 / ratio:.0f}"


def check_equal(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Raises ValueError, naming figure and values, where two sides differ."""
    for key in FIGURES:
        if not math.isclose(ours[key], theirs[key], abs_tol=TOLERANCE, rel_tol=0.0):
            raise ValueError(f"{key}: ours {ours[key]!r}, loops {theirs[key]!r}")
