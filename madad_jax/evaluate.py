"""A trained method and its test sets: result rows, maps and pictures.

Order matters for honesty: thresholds are chosen on healthy validation slices before any
test slice is scored, and the rows that learn nothing are scored on the same slices with
the same smoothing and stand first.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from etils import epath
from jax.experimental import multihost_utils

from madad_jax import rng, sharding, visualize
from madad_jax.data import record as record_lib
from madad_jax.evaluation import evaluator as evaluator_lib
from madad_jax.evaluation import no_learning, subjects, thresholds
from madad_jax.methods import base
from madad_jax.typing import Batch, Params

_LOG = logging.getLogger(__name__)

# The three signals of the paper's table 3; the first is what the paper reports.
SIGNALS = {"map": "", "latent_map": " (latent difference)", "mask_map": " (mask head)"}
ROWS_WITHOUT_LEARNING = {
    "intensity bright": ("bright", None),
    "intensity dark": ("dark", None),
    "intensity absolute": ("absolute", None),
    "mean image": (None, False),
    "mean image over spread": (None, True),
}

BatchesOf = Callable[[record_lib.Source], Iterable[Batch]]  # with a length


@dataclasses.dataclass(frozen=True)
class Options:
    """`sigma` in pixels of the image; `band` in slice numbers (0: one mean image for all)."""

    image_size: int
    sigma: float
    false_positive_rate: float
    band: int = 0
    bootstrap: int = 200
    panels: int = 12
    seed: int = 0


class Scorer:
    """A method with its weights, as a compiled function from batches to maps on the host."""

    def __init__(
        self,
        method: base.Method,
        params: Params,
        frozen: Params,
        mesh: jax.sharding.Mesh,
        seed: int,
    ):
        whole = sharding.replicated(mesh)
        self._mesh = mesh
        self._weights = jax.device_put((params, frozen), whole)
        self._key = rng.stream(rng.root_key(seed), "evaluate")
        self._fn = jax.jit(method.anomaly_map)
        self.name = method.name

    def __call__(self, number: int, batch: Batch) -> dict[str, np.ndarray]:
        """Maps and reconstruction of batch `number`, whole on every process."""
        arrays = {k: batch[k] for k in ("image", "brain_mask")}
        arrays = sharding.global_batch(self._mesh, arrays)
        key = jax.random.fold_in(self._key, number)
        out = self._fn(*self._weights, arrays, key)
        return {k: gather(v) for k, v in out.items() if k in SIGNALS or k == "reconstruction"}


def gather(x: jax.Array) -> np.ndarray:
    """The whole array as numpy, from wherever its shards are."""
    if jax.process_count() > 1:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def scored(
    scorer: Scorer, batches: Iterable[Batch], what: str
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """(batch, maps) pairs without their padding."""
    quiet = jax.process_index() != 0
    for i, batch in enumerate(tqdm.tqdm(batches, desc=what, unit="batch", disable=quiet)):
        out = scorer(i, batch)
        batch = whole(batch)
        yield batch, {k: v[: len(batch["index"])] for k, v in out.items()}


def whole(batch: Batch) -> Batch:
    """The global batch without its padding, in the order of its rows, on every process.

    Sorted by index because processes that share rows (a `tensor` axis over hosts) hold them
    twice, and because the padding (index -1) stands at the end of the last batch only.
    """
    if jax.process_count() > 1:
        batch = {k: multihost_utils.process_allgather(v, tiled=True) for k, v in batch.items()}
    index = np.asarray(batch["index"])
    _, rows = np.unique(index, return_index=True)
    rows = rows[index[rows] >= 0]
    return {k: np.asarray(v)[rows] for k, v in batch.items()}


class Evaluation:
    """Thresholds from healthy slices first, then one test set at a time."""

    def __init__(self, scorer: Scorer, options: Options, batches_of: BatchesOf):
        self._scorer = scorer
        self._options = options
        self._batches_of = batches_of
        self._mean = no_learning.MeanImage(options.band)
        self.thresholds: dict[str, tuple[float, int]] = {}

    def fit_floor(self, train: record_lib.Source) -> None:
        """The mean training image, for the rows that learn nothing but that."""
        batches = self._batches_of(train)
        for batch in tqdm.tqdm(batches, desc="mean image", unit="batch"):
            batch = whole(batch)
            numbers = [train.records[i].slice for i in batch["index"]]
            self._mean.add(batch["image"][..., 0], batch["brain_mask"], numbers)

    def choose_thresholds(self, val: record_lib.Source) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """One threshold and alarm size a row, on healthy validation slices alone.

        Returns the detector's maps of them by signal [n,H,W], and their brain masks.
        """
        maps: dict[str, list[np.ndarray]] = {}
        brains = []
        for batch, out in scored(self._scorer, self._batches_of(val), "healthy validation"):
            brains.append(batch["brain_mask"])
            for name, values in self._all_maps(val, batch, out).items():
                maps.setdefault(name, []).append(values)
        brain = np.concatenate(brains)
        whole_maps = {name: np.concatenate(parts) for name, parts in maps.items()}
        for name, values in whole_maps.items():
            threshold = thresholds.healthy_threshold(
                values, brain, self._options.false_positive_rate
            )
            pixels = thresholds.alarm_pixels(values, brain, threshold)
            self.thresholds[name] = (threshold, pixels)
            _LOG.info("threshold of %s: %.4f, alarm from %d pixels", name, threshold, pixels)
        rows = {signal: self._scorer.name + suffix for signal, suffix in SIGNALS.items()}
        return {k: whole_maps[row] for k, row in rows.items() if row in whole_maps}, brain

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
        for key, suffix in SIGNALS.items():
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
        evaluators: dict[str, evaluator_lib.Evaluator] = {}
        shown = _Shown(test, self._options.panels)
        for batch, out in scored(self._scorer, self._batches_of(test), name):
            records = [test.records[i] for i in batch["index"]]
            maps = self._all_maps(test, batch, out)
            for row, values in maps.items():
                evaluator = evaluators.setdefault(row, self._evaluator())
                truth = (batch["segmentation"], batch["brain_mask"], batch["has_segmentation"])
                evaluator.add(values, *truth, records)
            shown.add(batch, out, maps[self._scorer.name])
        if healthy is not None:
            for batch, out in scored(self._scorer, self._batches_of(healthy), f"{name}, healthy"):
                records = [healthy.records[i] for i in batch["index"]]
                for row, values in self._all_maps(healthy, batch, out).items():
                    evaluators[row].add_healthy(values, batch["brain_mask"], records)
        if jax.process_index() == 0:
            shown.draw(folder / "panels", self.thresholds[self._scorer.name][0])
            self._dice_curves(folder, evaluators)
        return self._rows(name, evaluators, extra)

    def _evaluator(self) -> evaluator_lib.Evaluator:
        o = self._options
        return evaluator_lib.Evaluator(image_size=o.image_size, draws=o.bootstrap)

    def _rows(
        self, name: str, evaluators: dict[str, evaluator_lib.Evaluator], extra: dict[str, Any]
    ) -> list[dict[str, Any]]:
        entries, intensity = [], []
        for method, evaluator in evaluators.items():
            threshold, pixels = self.thresholds[method]
            direction = ROWS_WITHOUT_LEARNING.get(method, (None, None))[0]
            row = evaluator.result(
                method=method,
                healthy_threshold=threshold,
                alarm_pixels=pixels,
                learns=method not in ROWS_WITHOUT_LEARNING,
                seed=self._options.seed,
                set=name,
                false_positive_rate=self._options.false_positive_rate,
                **extra,
            )
            if direction:
                intensity.append(({**row, "direction": direction}, evaluator))
            else:
                entries.append((row, evaluator))
        best = no_learning.best_intensity([row for row, _ in intensity])
        owner = next(e for row, e in intensity if row["direction"] == best["direction"])
        entries.insert(0, (best, owner))
        pairs = [(row, evaluator.subjects.sums) for row, evaluator in entries]
        subjects.add_differences(pairs, draws=self._options.bootstrap, seed=self._options.seed)
        return [row for row, _ in entries]

    def _dice_curves(
        self, folder: epath.Path, evaluators: dict[str, evaluator_lib.Evaluator]
    ) -> None:
        curves = {name: e.dice_curve() for name, e in evaluators.items()}
        curves = {name: curve for name, curve in curves.items() if curve is not None}
        marks = {name: self.thresholds[name][0] for name in curves}
        visualize.threshold_curve(
            folder / "dice_over_thresholds.png", curves, healthy_thresholds=marks
        )


class _Shown:
    """Slices for the panels: of each subject the one with the most lesion, then spread evenly
    over the subjects. Never picked by score."""

    def __init__(self, source: record_lib.Source, count: int):
        self._source = source
        self._count = count
        self._kept: list[tuple[int, bool, dict[str, np.ndarray]]] = []

    def add(self, batch: Batch, out: dict[str, np.ndarray], maps: np.ndarray) -> None:
        for i, index in enumerate(batch["index"]):
            truth = batch["segmentation"][i]
            if batch["has_segmentation"][i] and not truth.any():
                continue
            item = {
                "image": batch["image"][i],
                "reconstruction": out["reconstruction"][i],
                "map": maps[i],
                "segmentation": truth,
            }
            self._kept.append((int(index), bool(batch["has_segmentation"][i]), item))

    def draw(self, folder: epath.Path, threshold: float, rows: int = 6) -> None:
        if not self._kept or not self._count:
            return
        best: dict[str, tuple[int, bool, dict[str, np.ndarray]]] = {}
        for entry in self._kept:
            subject = self._source.records[entry[0]].subject
            if subject not in best or _area(entry) > _area(best[subject]):
                best[subject] = entry
        one_each = list(best.values())
        which = np.linspace(0, len(one_each) - 1, min(self._count, len(one_each)))
        chosen = [one_each[int(i)] for i in np.unique(which.round())]
        folder.mkdir(parents=True, exist_ok=True)
        for page, start in enumerate(range(0, len(chosen), rows)):
            part = chosen[start : start + rows]
            stack = {k: np.stack([item[k] for _, _, item in part]) for k in part[0][2]}
            visualize.panels(
                folder / f"panel_{page:02d}.png",
                stack["image"],
                stack["reconstruction"],
                stack["map"],
                threshold,
                stack["segmentation"] if all(known for _, known, _ in part) else None,
                [self._title(index) for index, _, _ in part],
            )

    def _title(self, index: int) -> str:
        record = self._source.records[index]
        return f"{record.id}\n{record.lesion_kind}".strip()


def _area(entry: tuple[int, bool, dict[str, np.ndarray]]) -> int:
    return int(entry[2]["segmentation"].sum())
