"""A trained method and its test sets: result rows, maps and pictures.

Order matters for honesty: thresholds are chosen on healthy validation slices before any
test slice is scored, and the baselines are scored on the same slices with the same smoothing
and stand first.
"""

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath

from madad_jax.core import signals
from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib
from madad_jax.evaluation import (
    across_slices,
    baselines,
    calibrate,
    lesion_list,
    panel_choice,
    row_evaluator,
    set_files,
)
from madad_jax.evaluation import scorer as scorer_lib
from madad_jax.metrics import (
    baseline_maps,
    calibration,
    disk_arrays,
    finite,
    lesion_sums,
    scan_figures,
    scan_stacks,
    subject_sums,
    thresholds,
)
from madad_jax.metrics import evaluator as evaluator_lib
from madad_jax.runtime import stop, watchdog

_LOG = logging.getLogger(__name__)

BatchesOf = Callable[[record_lib.Source], Iterable[Batch]]  # with a length
RowEvaluators = Mapping[str, row_evaluator.RowEvaluator]  # by row, in the order of the report


_PICTURES = ("image", "reconstruction")
# Whether thresholds keep their promise is told at these rates, beside the one in use.
RATES = (0.001, 0.005, 0.01, 0.05, 0.1)
# Shares of healthy validation voxels that give the thresholds of the FROC curve. The curve's
# axis spans decades: from one voxel in 100,000, a dot in a scan, to a third of the brain.
_FROC_RATES = tuple(np.logspace(-5, -0.5, 28).tolist())


@dataclasses.dataclass(frozen=True)
class Volumes:
    """Whole scans are judged too: `spacing` in mm (slices, rows, columns), what is done to a
    stack before, the numbers of false positives a scan that thresholds are chosen for, and the
    lesions of a table by scan (None: there is no table)."""

    spacing: scan_stacks.Spacing
    postprocess: scan_stacks.Options
    false_positives: tuple[float, ...] = ()
    named: lesion_list.Lesions | None = None


@dataclasses.dataclass(frozen=True)
class Options:
    """`sigma` in pixels of the image; `band` in slice numbers (0: one mean image for all);
    `volumes` None judges slices alone; `smooth_slices` in steps of the slice number, 0: not.
    `channel` is the one of several that baselines and pictures are made from."""

    image_size: int
    sigma: float
    false_positive_rate: float
    band: int = 0
    bootstrap: int = 200
    panels: int = 12
    seed: int = 0
    volumes: Volumes | None = None
    smooth_slices: float = 0.0
    channel: int = 0


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What healthy validation slices gave for one row: the threshold and pixels that make an
    alarm; thresholds by rate; of whole scans the threshold, the grid of the FROC curve, and a point
    for each number of false positives a scan."""

    value: float
    alarm_pixels: int
    rates: dict[float, float]
    volume: float = 0.0
    grid: tuple[float, ...] = ()
    points: tuple[lesion_sums.Point, ...] = ()


class Evaluation:
    """Thresholds from healthy slices first, then one test set at a time."""

    def __init__(self, scorer: scorer_lib.Scorer, options: Options, batches_of: BatchesOf):
        self._scorer = scorer
        self._options = options
        self._batches_of = batches_of
        self._baselines = baselines.Baselines(sigma=options.sigma, band=options.band)
        self.thresholds: dict[str, Threshold] = {}

    def fit_baselines(self, train: record_lib.Source) -> None:
        """The mean of the training images, which is all that the baselines learn."""
        batches = self._batches_of(train)
        quiet = jax.process_index() != 0
        for batch in tqdm.tqdm(batches, desc="mean image", unit="batch", disable=quiet):
            watchdog.progress("mean image")
            stop.check("evaluation: mean image")
            batch = self._of_channel(scorer_lib.gather_batch(batch))
            self._baselines.add_training(batch, train.records)

    def _of_channel(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """With one channel in place of several, in pictures."""
        first = self._options.channel
        return {
            name: values[..., first : first + 1] if name in _PICTURES else values
            for name, values in arrays.items()
        }

    def choose_thresholds(self, val: record_lib.Source) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One threshold and alarm size a row, on healthy validation slices alone.

        Returns the detector's maps of them by signal [n,H,W], and their brain masks; both lie on
        disk for as long as they are used, since validation slices may be more than memory holds.
        """
        parts: dict[str, disk_arrays.DiskArray] = collections.defaultdict(disk_arrays.DiskArray)
        brains = disk_arrays.DiskArray()
        for batch, out in self._score_batches(val, "healthy validation"):
            brains.append(batch["brain_mask"])
            for row, values in self._row_maps(val, batch, out).items():
                parts[row].append(values)
        brain = brains.read()
        maps = {row: values.read() for row, values in parts.items()}
        for row, values in maps.items():
            stop.check(f"evaluation: threshold of {row}")
            self.thresholds[row] = found = _choose_threshold(
                values, brain, val.records, self._options
            )
            _LOG.info(
                "threshold of %s: %.4f, alarm from %d pixels", row, found.value, found.alarm_pixels
            )
        rows = {signal: self._scorer.name + suffix for signal, suffix in signals.SIGNALS.items()}
        return {signal: maps[row] for signal, row in rows.items() if row in maps}, brain

    def score_healthy(self, val: record_lib.Source) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The detector's maps of healthy slices by signal [n,H,W], and their brain masks; no
        threshold is chosen."""
        parts: dict[str, disk_arrays.DiskArray] = collections.defaultdict(disk_arrays.DiskArray)
        brains = disk_arrays.DiskArray()
        for batch, out in self._score_batches(val, "healthy validation"):
            brains.append(batch["brain_mask"])
            for signal in signals.SIGNALS:
                if signal in out:
                    parts[signal].append(np.clip(out[signal], 0.0, 1.0))
        return {signal: values.read() for signal, values in parts.items()}, brains.read()

    def _score_batches(
        self, source: record_lib.Source, what: str
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        pairs = scorer_lib.score_batches(self._scorer, self._batches_of(source), what)
        pairs = ((self._of_channel(batch), self._of_channel(out)) for batch, out in pairs)
        pairs = _checked(pairs, source.records, self._scorer.name)
        if self._options.smooth_slices > 0:
            return across_slices.smooth(pairs, source.records, self._options.smooth_slices)
        return pairs

    def _row_maps(
        self, source: record_lib.Source, batch: Batch, out: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Maps in [0, 1] of every row: the baselines, then a row for each signal."""
        maps = self._baselines.maps(batch, source.records)
        for signal, suffix in signals.SIGNALS.items():
            if signal in out:
                maps[self._scorer.name + suffix] = np.clip(out[signal], 0.0, 1.0)
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
        evaluators = self._build_evaluators(test, healthy)
        panels = panel_choice.PanelChoice(test, self._options.panels)
        seen = hashlib.sha256()
        for batch, out in self._score_batches(test, name):
            records = [test.records[i] for i in batch["index"]]
            _add_truth(seen, batch, records)
            maps = self._row_maps(test, batch, out)
            for row, values in maps.items():
                evaluators[row].add(values, batch, records)
            panels.add(batch, out, maps[self._scorer.name])
        if healthy is not None:
            for batch, out in self._score_batches(healthy, f"{name}, healthy"):
                records = [healthy.records[i] for i in batch["index"]]
                for row, values in self._row_maps(healthy, batch, out).items():
                    evaluators[row].add_healthy(values, batch, records)
        rows = _result_rows(name, evaluators, extra, self._options)
        if jax.process_index() == 0:
            panels.draw(folder / "panels", self.thresholds[self._scorer.name].value)
            _draw_curves(folder, evaluators, rows, self.thresholds)
            # "floor" is the key of stored files for the baselines.
            floor = [row for row in evaluators if row in baselines.ROWS]
            facts = {"set": name, "fingerprint": test.fingerprint(), "floor": floor, **extra}
            facts["truth"] = seen.hexdigest()
            set_files.write(
                folder,
                rows,
                {row: one.slices.subjects.sums for row, one in evaluators.items()},
                {row: one.scans for row, one in evaluators.items() if one.scans},
                facts,
            )
        return rows

    def _build_evaluators(
        self, test: record_lib.Source, healthy: record_lib.Source | None
    ) -> dict[str, row_evaluator.RowEvaluator]:
        """One empty evaluator a row of `thresholds`."""
        # Healthy slices of a person in the test set belong to the same scan. Counted once for
        # all rows: on a large set counting takes longer than building.
        records = [*test.records, *(healthy.records if healthy is not None else ())]
        slices_of = collections.Counter(r.subject for r in records)
        return {
            row: _build_evaluator(threshold, slices_of, self._options)
            for row, threshold in self.thresholds.items()
        }


def _add_truth(seen: Any, batch: Batch, records: Sequence[record_lib.Record]) -> None:
    """Adds who is scored and what is true of them: other contrasts of the same slices agree."""
    for i, record in enumerate(records):
        seen.update(f"{record.subject}\0{record.slice}\0".encode())
        for name in ("brain_mask", "segmentation", "has_segmentation"):
            seen.update(np.packbits(np.atleast_1d(batch[name][i])).tobytes())


def _checked(
    pairs: Iterable[tuple[Batch, dict[str, np.ndarray]]],
    records: Sequence[record_lib.Record],
    name: str,
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """The same pairs. Raises UserError for NaN or infinity, with row and slice."""
    # Before maps are clipped, which would make a score of 1 of what is infinite, and smoothed over
    # slices, which would spread it.
    for batch, out in pairs:
        for signal, suffix in signals.SIGNALS.items():
            for index, values in zip(batch["index"], out.get(signal, ()), strict=signal in out):
                finite.check(values, f"{name}{suffix}, slice {records[index].id}")
        yield batch, out


def _choose_threshold(
    maps: np.ndarray, brain: np.ndarray, records: Sequence[record_lib.Record], options: Options
) -> Threshold:
    rate = options.false_positive_rate
    value = thresholds.healthy_threshold(maps, brain, rate)
    chosen = Threshold(
        value=value,
        alarm_pixels=thresholds.alarm_pixels(maps, brain, value),
        rates=thresholds.at_rates(maps, brain, sorted({*RATES, rate})),
    )
    volumes = options.volumes
    if volumes is None:
        return chosen
    # Post-processing moves scores: whole scans need a threshold of their own.
    spacing, postprocess = volumes.spacing, volumes.postprocess
    parts, scans = disk_arrays.DiskArray(), []
    for subject, rows in calibrate.group_by_scan(records).items():
        stack, inside = scan_stacks.process_stack(maps[rows], brain[rows], spacing, postprocess)
        parts.append(stack[inside])
        scans.append(calibration.measure_processed(subject, stack, inside, spacing, postprocess))
    # As slices of one pixel each, which is the shape that thresholds are chosen on.
    scores = parts.read()[:, None, None]
    everywhere = np.broadcast_to(True, scores.shape)
    return dataclasses.replace(
        chosen,
        volume=thresholds.healthy_threshold(scores, everywhere, rate),
        grid=tuple(thresholds.at_rates(scores, everywhere, _FROC_RATES).values()),
        points=lesion_sums.choose_points(
            calibration.Healthy(tuple(scans)), volumes.false_positives
        ),
    )


def _build_evaluator(
    threshold: Threshold, slices_of: Mapping[str, int], options: Options
) -> row_evaluator.RowEvaluator:
    slices = evaluator_lib.Evaluator(
        image_size=options.image_size,
        healthy_threshold=threshold.value,
        alarm_pixels=threshold.alarm_pixels,
        rates=threshold.rates,
        draws=options.bootstrap,
    )
    if options.volumes is None:
        return row_evaluator.RowEvaluator(slices)
    scans = scan_figures.Scans(
        slices_of,
        spacing=options.volumes.spacing,
        healthy_threshold=threshold.volume,
        grid=threshold.grid,
        options=options.volumes.postprocess,
        points=threshold.points,
        named=options.volumes.named,
        draws=options.bootstrap,
    )
    return row_evaluator.RowEvaluator(slices, scans)


def _result_rows(
    name: str, evaluators: RowEvaluators, extra: Mapping[str, Any], options: Options
) -> list[dict[str, Any]]:
    """Rows of a set: the best intensity, the other baselines, the detector's."""
    entries, intensities = [], []
    for method, one in evaluators.items():
        stop.check(f"evaluation: figures of {method}")
        row = one.slices.result(
            method=method,
            learns=method not in baselines.ROWS,
            seed=options.seed,
            set=name,
            false_positive_rate=options.false_positive_rate,
            **extra,
        )
        lesions = None
        if one.scans is not None:
            row["volumes"] = one.scans.result(seed=options.seed)
            lesions = one.scans.lesion_sums()
        entry = (row, one.slices.subjects.sums, lesions)
        if method in baselines.INTENSITIES:
            row["direction"] = baselines.INTENSITIES[method]
            intensities.append(entry)
        else:
            entries.append(entry)
    best = baseline_maps.best_intensity([row for row, *_ in intensities])
    parts = next(rest for row, *rest in intensities if row["direction"] == best["direction"])
    entries.insert(0, (best, *parts))
    draws, seed = options.bootstrap, options.seed
    subject_sums.add_differences([(row, sums) for row, sums, _ in entries], draws=draws, seed=seed)
    of_rows = [(row, lesions) for row, _, lesions in entries if lesions is not None]
    lesion_sums.add_differences(of_rows, draws=draws, seed=seed)
    return [row for row, *_ in entries]


def _draw_curves(
    folder: epath.Path,
    evaluators: RowEvaluators,
    rows: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Threshold],
) -> None:
    # Loads matplotlib, a second that programs without pictures need not wait.
    from madad_jax.evaluation import pictures

    curves = {row: one.slices.dice_curve() for row, one in evaluators.items()}
    curves = {row: curve for row, curve in curves.items() if curve is not None}
    pictures.threshold_curve(
        folder / "dice_over_thresholds.png",
        curves,
        healthy_thresholds={row: chosen[row].value for row in curves},
    )
    froc = {r["method"]: r["volumes"]["froc"] for r in rows if r.get("volumes")}
    froc = {k: (v["false_positives"], v["sensitivity"]) for k, v in froc.items()}
    if any(len(false) for false, _ in froc.values()):
        pictures.froc(folder / "froc.png", froc)
