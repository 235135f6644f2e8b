"""A trained method and its test sets: result rows, maps and pictures.

Order matters for honesty: thresholds are chosen on healthy validation slices before any
test slice is scored, and the rows that learn nothing are scored on the same slices with
the same smoothing and stand first.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath

from madad_jax.core import signals
from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib
from madad_jax.evaluation import across_slices, calibrate, panel_choice, set_files
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.metrics import (
    disk_arrays,
    no_learning,
    scan_figures,
    scan_stacks,
    subject_sums,
    thresholds,
)
from madad_jax.metrics import evaluator as evaluator_lib
from madad_jax.runtime import watchdog

_LOG = logging.getLogger(__name__)

ROWS_WITHOUT_LEARNING = {
    "intensity bright": ("bright", None),
    "intensity dark": ("dark", None),
    "intensity absolute": ("absolute", None),
    "mean image": (None, False),
    "mean image over spread": (None, True),
}

BatchesOf = Callable[[record_lib.Source], Iterable[Batch]]  # with a length


# Whether thresholds keep their promise is told at these rates, beside the one in use.
RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
# Of healthy validation voxels, for the thresholds of the FROC curve.
_FROC_RATES = tuple(np.logspace(-5, -0.5, 28).tolist())


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Whole scans are judged too: `spacing` in mm (slices, rows, columns) and what is done to
    a stack before."""

    spacing: scan_stacks.Spacing
    postprocess: scan_stacks.Options


@dataclasses.dataclass(frozen=True)
class Options:
    """`sigma` in pixels of the image; `band` in slice numbers (0: one mean image for all);
    `volumes` None judges slices alone; `smooth_slices` in steps of the slice number, 0: not."""

    image_size: int
    sigma: float
    false_positive_rate: float
    band: int = 0
    bootstrap: int = 200
    panels: int = 12
    seed: int = 0
    volumes: Volumes | None = None
    smooth_slices: float = 0.0


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What healthy validation slices gave for one row: the threshold and pixels that make an
    alarm; thresholds by rate; of whole scans the threshold and the grid of the FROC curve."""

    value: float
    alarm_pixels: int
    rates: dict[float, float]
    volume: float = 0.0
    grid: tuple[float, ...] = ()


@dataclasses.dataclass
class _Scored:
    """One row of a set under way."""

    evaluator: evaluator_lib.Evaluator
    scans: scan_figures.Scans | None


class Evaluation:
    """Thresholds from healthy slices first, then one test set at a time."""

    def __init__(self, scorer: scorer_lib.Scorer, options: Options, batches_of: BatchesOf):
        self._scorer = scorer
        self._options = options
        self._batches_of = batches_of
        self._mean = no_learning.MeanImage(options.band)
        self.thresholds: dict[str, Threshold] = {}

    def fit_floor(self, train: record_lib.Source) -> None:
        """The mean training image, for the rows that learn nothing but that."""
        batches = self._batches_of(train)
        quiet = jax.process_index() != 0
        for batch in tqdm.tqdm(batches, desc="mean image", unit="batch", disable=quiet):
            watchdog.progress("mean image")
            batch = scorer_lib.whole(batch)
            numbers = [train.records[i].slice for i in batch["index"]]
            self._mean.add(batch["image"][..., 0], batch["brain_mask"], numbers)

    def choose_thresholds(self, val: record_lib.Source) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One threshold and alarm size a row, on healthy validation slices alone.

        Returns the detector's maps of them by signal [n,H,W], and their brain masks; both lie on
        disk for as long as they are used, since validation slices may be more than memory holds.
        """
        maps: dict[str, disk_arrays.Spill] = collections.defaultdict(disk_arrays.Spill)
        brains = disk_arrays.Spill()
        for batch, out in self._scored(val, "healthy validation"):
            brains.add(batch["brain_mask"])
            for name, values in self._all_maps(val, batch, out).items():
                maps[name].add(values)
        brain = brains.whole()
        whole_maps = {name: parts.whole() for name, parts in maps.items()}
        for name, values in whole_maps.items():
            self.thresholds[name] = found = self._threshold(val, values, brain)
            _LOG.info(
                "threshold of %s: %.4f, alarm from %d pixels", name, found.value, found.alarm_pixels
            )
        rows = {signal: self._scorer.name + suffix for signal, suffix in signals.SIGNALS.items()}
        return {k: whole_maps[row] for k, row in rows.items() if row in whole_maps}, brain

    def _scored(
        self, source: record_lib.Source, what: str
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        pairs = scorer_lib.scored(self._scorer, self._batches_of(source), what)
        if self._options.smooth_slices > 0:
            return across_slices.across_slices(pairs, source.records, self._options.smooth_slices)
        return pairs

    def _threshold(self, val: record_lib.Source, maps: np.ndarray, brain: np.ndarray) -> Threshold:
        rate = self._options.false_positive_rate
        value = thresholds.healthy_threshold(maps, brain, rate)
        found = Threshold(
            value=value,
            alarm_pixels=thresholds.alarm_pixels(maps, brain, value),
            rates=thresholds.at_rates(maps, brain, sorted({*RATES, rate})),
        )
        if self._options.volumes is None:
            return found
        # Post-processing moves scores: whole scans need a threshold of their own.
        parts = disk_arrays.Spill()
        for rows in calibrate.scans_of(val.records).values():
            o = self._options.volumes
            stack, inside = scan_stacks.processed(maps[rows], brain[rows], o.spacing, o.postprocess)
            parts.add(stack[inside])
        flat = parts.whole()[:, None, None]
        everywhere = np.broadcast_to(True, flat.shape)
        return dataclasses.replace(
            found,
            volume=thresholds.healthy_threshold(flat, everywhere, rate),
            grid=tuple(thresholds.at_rates(flat, everywhere, _FROC_RATES).values()),
        )

    def _all_maps(
        self, source: record_lib.Source, batch: Batch, out: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        images, brain = batch["image"][..., 0], batch["brain_mask"]
        sigma = self._options.sigma
        maps = {}
        for name, (direction, spread) in ROWS_WITHOUT_LEARNING.items():
            if direction:
                maps[name] = no_learning.intensity(images, brain, direction=direction, sigma=sigma)
            else:
                numbers = [source.records[i].slice for i in batch["index"]]
                maps[name] = self._mean.maps(
                    images, brain, sigma=sigma, spread=spread, slice_numbers=numbers
                )
        for key, suffix in signals.SIGNALS.items():
            if key in out:
                maps[self._scorer.name + suffix] = np.clip(out[key], 0.0, 1.0)
        return maps

    def score_set(
        self,
        name: str,
        test: record_lib.Source,
        healthy: record_lib.Source | None,
        folder: epath.Path,
        extra: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """Rows of one test set, and its pictures under `folder`.

        `healthy` slices count for false alarms only. `extra` goes into every row.
        """
        scored: dict[str, _Scored] = {}
        shown = panel_choice.Shown(test, self._options.panels)
        for batch, out in self._scored(test, name):
            records = [test.records[i] for i in batch["index"]]
            maps = self._all_maps(test, batch, out)
            for row, values in maps.items():
                one = scored.setdefault(row, self._empty(row, test, healthy))
                truth = (batch["segmentation"], batch["brain_mask"], batch["has_segmentation"])
                one.evaluator.add(values, *truth, records)
                if one.scans is not None:
                    one.scans.add(values, *truth, records)
            shown.add(batch, out, maps[self._scorer.name])
        if healthy is not None:
            self._add_healthy(name, healthy, scored)
        rows = self._rows(name, scored, extra)
        if jax.process_index() == 0:
            shown.draw(folder / "panels", self.thresholds[self._scorer.name].value)
            self._curves(folder, scored, rows)
            floor = [row for row in scored if row in ROWS_WITHOUT_LEARNING]
            facts = {"set": name, "fingerprint": test.fingerprint(), "floor": floor, **extra}
            set_files.write(
                folder,
                rows,
                {row: one.evaluator.subjects.sums for row, one in scored.items()},
                {row: one.scans.scans for row, one in scored.items() if one.scans},
                facts,
            )
        return rows

    def _add_healthy(
        self, name: str, healthy: record_lib.Source, scored: dict[str, _Scored]
    ) -> None:
        for batch, out in self._scored(healthy, f"{name}, healthy"):
            records = [healthy.records[i] for i in batch["index"]]
            brain = batch["brain_mask"]
            for row, values in self._all_maps(healthy, batch, out).items():
                scored[row].evaluator.add_healthy(values, brain, records)
                if (scans := scored[row].scans) is not None:
                    known = np.ones(len(records), bool)
                    scans.add(values, np.zeros_like(brain), brain, known, records)

    def _empty(
        self, row: str, test: record_lib.Source, healthy: record_lib.Source | None
    ) -> _Scored:
        o, at = self._options, self.thresholds[row]
        evaluator = evaluator_lib.Evaluator(
            image_size=o.image_size,
            healthy_threshold=at.value,
            alarm_pixels=at.alarm_pixels,
            rates=at.rates,
            draws=o.bootstrap,
        )
        if o.volumes is None:
            return _Scored(evaluator, None)
        # Healthy slices of a person in the test set belong to the same scan.
        records = [*test.records, *(healthy.records if healthy is not None else ())]
        scans = scan_figures.Scans(
            collections.Counter(r.subject for r in records),
            spacing=o.volumes.spacing,
            healthy_threshold=at.volume,
            grid=at.grid,
            options=o.volumes.postprocess,
            draws=o.bootstrap,
        )
        return _Scored(evaluator, scans)

    def _rows(
        self, name: str, scored: dict[str, _Scored], extra: dict[str, Any]
    ) -> list[dict[str, Any]]:
        entries, intensity = [], []
        for method, one in scored.items():
            direction = ROWS_WITHOUT_LEARNING.get(method, (None, None))[0]
            row = one.evaluator.result(
                method=method,
                learns=method not in ROWS_WITHOUT_LEARNING,
                seed=self._options.seed,
                set=name,
                false_positive_rate=self._options.false_positive_rate,
                **extra,
            )
            if one.scans is not None:
                row["volumes"] = one.scans.result(seed=self._options.seed)
            pair = (row, one.evaluator.subjects.sums)
            if direction:
                intensity.append(({**row, "direction": direction}, pair[1]))
            else:
                entries.append(pair)
        best = no_learning.best_intensity([row for row, _ in intensity])
        owner = next(sums for row, sums in intensity if row["direction"] == best["direction"])
        entries.insert(0, (best, owner))
        subject_sums.add_differences(
            entries, draws=self._options.bootstrap, seed=self._options.seed
        )
        return [row for row, _ in entries]

    def _curves(
        self, folder: epath.Path, scored: dict[str, _Scored], rows: list[dict[str, Any]]
    ) -> None:
        from madad_jax.evaluation import pictures  # as in `panels`

        curves = {name: one.evaluator.dice_curve() for name, one in scored.items()}
        curves = {name: curve for name, curve in curves.items() if curve is not None}
        marks = {name: self.thresholds[name].value for name in curves}
        pictures.threshold_curve(
            folder / "dice_over_thresholds.png", curves, healthy_thresholds=marks
        )
        froc = {r["method"]: r["volumes"]["froc"] for r in rows if r.get("volumes")}
        froc = {k: (v["false_positives"], v["sensitivity"]) for k, v in froc.items()}
        if any(len(found) for _, found in froc.values()):
            pictures.froc(folder / "froc.png", froc)
