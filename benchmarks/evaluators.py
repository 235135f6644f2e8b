"""How many evaluators one test set builds, and what building them costs.

    python -m benchmarks.evaluators
    python -m benchmarks.evaluators --add --scans=20

Scoring is free here: the maps are constant and the evaluators take them without looking. What is
left is the bookkeeping of a set, which is what the seconds are about. With --add the evaluators of
slices look at maps of noise, of 8 x 8 pixels: what a slice costs whatever its size.
"""

import argparse
import tempfile
import time

import numpy as np
from etils import epath

from madad_jax.core import signals
from madad_jax.data.sources import record as record_lib
from madad_jax.evaluation import runner
from madad_jax.metrics import evaluator as evaluator_lib
from madad_jax.metrics import scan_figures, scan_stacks

_SIDE = 8  # pixels; the bookkeeping does not depend on the size of a slice
# Five baselines and these make eight rows.
_SIGNALS = tuple(signals.SIGNALS)[:3]


class Counter:
    """How many evaluators of slices and of whole scans were built, and for how long."""

    def __init__(self, adds: bool) -> None:
        self.slices = self.scans = 0
        self._adds = adds

    def install(self) -> None:
        """Puts classes that count themselves in place; they forget what they are given, unless
        slices are to be added."""
        counter = self

        class Evaluator(evaluator_lib.Evaluator):
            def __init__(self, **options) -> None:
                counter.slices += 1
                super().__init__(**options)

            def add(self, *slices) -> None:
                if counter._adds:
                    super().add(*slices)

        class Scans(scan_figures.Scans):
            def __init__(self, *counts, **options) -> None:
                counter.scans += 1
                super().__init__(*counts, **options)

            def add(self, *unused) -> None:
                pass

        evaluator_lib.Evaluator = Evaluator
        scan_figures.Scans = Scans


class Scans:
    """A source of so many scans of so many slices."""

    def __init__(self, scans: int, slices: int):
        self.records = [
            record_lib.Record(f"{s:04d}-{z:03d}", f"{s:04d}", z, "T1")
            for s in range(scans)
            for z in range(slices)
        ]

    def fingerprint(self) -> str:
        """The same for all: nothing is compared."""
        return "benchmark"


class Scorer:
    """Constant maps in no time, or noise in little."""

    name = "constant"
    noise = False

    def __call__(self, number: int, batch: dict) -> dict[str, np.ndarray]:
        """A map a signal, and a reconstruction."""
        shape = batch["brain_mask"].shape
        maps = {signal: np.full(shape, 0.5, np.float32) for signal in _SIGNALS}
        if self.noise:
            draw = np.random.default_rng(number)
            maps = {signal: draw.random(shape, np.float32) ** 2 for signal in _SIGNALS}
        return {**maps, "reconstruction": batch["image"]}


def batches_of(source: Scans, size: int = 16) -> list[dict[str, np.ndarray]]:
    """Batches of `size` slices, of one image, every fourth slice with a lesion; the last is padded
    with index -1."""
    image = np.linspace(-1, 1, size * _SIDE**2, dtype=np.float32).reshape(size, _SIDE, _SIDE, 1)
    brain = np.ones((size, _SIDE, _SIDE), bool)
    lesion = np.zeros_like(brain)
    lesion[::4, 2:4, 2:4] = True
    out = []
    for start in range(0, len(source.records), size):
        index = np.arange(start, start + size)
        out.append(
            {
                "index": np.where(index < len(source.records), index, -1),
                "image": image,
                "brain_mask": brain,
                "segmentation": lesion,
                "has_segmentation": np.ones(size, bool),
            }
        )
    return out


def main() -> None:
    """Scores one set of the flags' size and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=133)
    parser.add_argument("--slices", type=int, default=150)
    parser.add_argument("--add", action="store_true", help="evaluators of slices look at the maps")
    flags = parser.parse_args()
    options = runner.Options(
        image_size=_SIDE,
        sigma=0.0,
        false_positive_rate=0.05,
        bootstrap=0,
        panels=0,
        volumes=runner.Volumes((1.0, 1.0, 1.0), scan_stacks.Options()),
    )
    evaluation = runner.Evaluation(Scorer(), options, batches_of)
    few = Scans(2, 16)
    evaluation.fit_baselines(few)
    evaluation.choose_thresholds(few)
    evaluation._scorer.noise = flags.add
    counter = Counter(flags.add)
    counter.install()
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        source = Scans(flags.scans, flags.slices)
        evaluation.score_set("test", source, None, epath.Path(folder), {})
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
    print(
        f"{flags.scans} scans of {flags.slices} slices, {len(evaluation.thresholds)} rows, batches "
        f"of 16: {counter.slices} evaluators of slices and {counter.scans} of scans built; "
        f"{wall:.1f} s on the wall, {cpu:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
