"""Whole scans: every slice of a person as one stack, judged in 3-D.

    scans = Scans(slices_of, spacing=(3.0, 1.0, 1.0), healthy_threshold=t, grid=thresholds)
    scans.add(maps, segmentations, brain_masks, has_segmentation, records)   # in any order
    figures = scans.result()

A scan is judged when its last slice has come and is forgotten then, so memory holds the scans that
are under way and one line each of the others. What is reported:

* Dice of the whole scan, mean over scans with a lesion: at the healthy threshold, and at the best
  common threshold (oracle).
* Lesions: 3-D components (26 neighbours) of the segmentation, with their volume. One is found at
  a threshold when at least a tenth of its voxels lie above it. Sensitivity by volume.
* False positives: components above the threshold that touch no lesion; per scan, and per scan
  without any lesion.
* Lesions found, and false positives, at thresholds that healthy validation scans gave for a number
  of false positives a scan (`lesion_sums`).
* FROC: sensitivity against false positives per scan over a grid of thresholds that healthy
  validation slices gave (`thresholds.grid`), and the sensitivity at 1, 2, 4 and 8 of them.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.metrics import (
    bootstrap,
    finite,
    histogram,
    lesion_names,
    lesion_sums,
    scan_stacks,
)

ORACLE = ("dice_oracle", "dice_oracle_threshold")
# A tenth: a stray voxel on a large lesion is no detection, a hit on its middle is one.
FOUND_SHARE = 0.1
# Per scan, as FROC figures of lesion detection are reported.
FALSE_POSITIVES = (1, 2, 4, 8)
# 26 neighbours: touching at a corner is touching.
_NEIGHBOURS = np.ones((3, 3, 3), bool)
_EDGES = np.array(
    [histogram.lower_edge(i, histogram.COARSE_BINS) for i in range(histogram.COARSE_BINS)]
)


@dataclasses.dataclass
class Scan:
    """What is kept of a scan. `lesions` are (volume in ml, score above which it is found) and
    `kinds` theirs; `false_positives` [k] at each threshold of the grid, `at_healthy` at the healthy
    one; `found` bool [p, lesions] and `false` [p] at the points that have a threshold."""

    id: str
    known: bool
    lesion_ml: float
    lesions: list[tuple[float, float]]
    dice_healthy: float | None
    at_healthy: int
    false_positives: np.ndarray
    score: float
    kinds: list[str]
    found: np.ndarray
    false: np.ndarray


class Scans:
    """Collects slices into scans; see the module docstring."""

    def __init__(
        self,
        slices_of: Mapping[str, int],
        *,
        spacing: scan_stacks.Spacing,
        healthy_threshold: float,
        grid: Sequence[float],
        options: scan_stacks.Options | None = None,
        points: Sequence[lesion_sums.Point] = (),
        named: Mapping[str, Sequence[lesion_names.Named]] | None = None,
        draws: int = 200,
    ):
        """Starts an empty set.

        Args:
          slices_of: how many slices each scan (`record.subject`) has.
          spacing: mm between slices, rows, columns.
          healthy_threshold: chosen on healthy validation scans, after `options`.
          grid: thresholds of the FROC curve.
          options: post-processing of each stack; none when None.
          points: thresholds for numbers of false positives a scan, after `options`.
          named: lesions of a table by scan; they give components kind and volume. Without,
            kinds are those of the slices (`record.lesion_kind`).
          draws: bootstrap draws over scans.
        """
        self._slices_of = dict(slices_of)
        self._spacing = spacing
        self._threshold = healthy_threshold
        # Falling, so that false positives and sensitivity rise along the curve.
        self._grid = np.unique(np.asarray(grid, np.float32))[::-1]
        self._options = options or scan_stacks.Options()
        self._points = tuple(points)
        self._named = named
        self._unbound = 0
        self._draws = draws
        self._open: dict[str, list[tuple]] = {}
        self._dice = np.zeros(histogram.COARSE_BINS)  # sum over scans with a lesion
        self.scans: list[Scan] = []

    def add(
        self,
        maps: Float32[np.ndarray, "n H W"],
        segmentations: Bool[np.ndarray, "n H W"],
        brain_masks: Bool[np.ndarray, "n H W"],
        has_segmentation: Bool[np.ndarray, "n"],
        records: Sequence[Any],
    ) -> None:
        """Adds slices; those that complete their scan judge it.

        Raises:
          UserError: a slice of a scan that was not announced, one too many, or NaN in a map.
        """
        for i, record in enumerate(records):
            finite.check(maps[i], f"slice {record.id}")
            waiting = self._open.setdefault(record.subject, [])
            # Copies: a view would keep the whole batch alive.
            parts = (maps[i].copy(), segmentations[i].copy(), brain_masks[i].copy())
            kind = record.lesion_kind
            waiting.append((record.slice, bool(has_segmentation[i]), *parts, kind))
            if len(waiting) == self._slices_of.get(record.subject, 0):
                self._judge(record.subject, self._open.pop(record.subject))
                self._slices_of.pop(record.subject)
            elif record.subject not in self._slices_of:
                raise errors.UserError(
                    f"slice {record.id}: its scan '{record.subject}' is complete or not announced"
                )

    def _judge(self, name: str, entries: list[tuple]) -> None:
        # Slices may come in any order; neighbours in 3-D are neighbours by number.
        entries = sorted(entries, key=lambda e: e[0])
        # A slice without truth may hold a lesion: what the scan marks there is no false positive.
        known = all(e[1] for e in entries)
        maps, truth, brain = (np.stack([e[k] for e in entries]) for k in (2, 3, 4))
        maps, inside = scan_stacks.process_stack(maps, brain, self._spacing, self._options)
        limit = np.float32(self._threshold)
        lesions, dice = [], None
        # No truth, no lesion to touch: the scan is kept for its score and left out of all figures.
        counted = truth if known else np.zeros_like(truth)
        labels, _ = ndimage.label(counted, structure=_NEIGHBOURS)
        kinds = _kinds(labels, [e[5] for e in entries])
        if counted.any():
            lesions = _lesions(maps, labels, scan_stacks.voxel_ml(self._spacing))
            if self._named is not None:
                lesions, kinds = self._name(name, lesions, labels, [e[0] for e in entries])
            predicted = maps > limit
            dice = 2.0 * float((predicted & truth).sum()) / float(predicted.sum() + truth.sum())
            self._dice += _dice_curve(maps[truth], maps[~truth])
        at_grid, at_points = self._count(maps, labels)
        self.scans.append(
            Scan(
                id=name,
                known=known,
                lesion_ml=float(truth.sum() * scan_stacks.voxel_ml(self._spacing)),
                lesions=lesions,
                dice_healthy=dice,
                at_healthy=at_grid[0],
                false_positives=np.array(at_grid[1:]),
                score=scan_stacks.score(maps, inside),
                kinds=kinds,
                found=_found(labels, [covered for _, covered in at_points]),
                false=np.array([false for false, _ in at_points], np.int64),
            )
        )

    def _name(
        self,
        name: str,
        lesions: list[tuple[float, float]],
        labels: np.ndarray,
        numbers: Sequence[int],
    ) -> tuple[list[tuple[float, float]], list[str]]:
        """(lesions, kinds) by the table; a component that it does not have keeps its volume."""
        named = self._named.get(name, ())
        members = lesion_names.bind(labels, numbers, self._spacing, named)
        self._unbound += len(named) - sum(map(len, members))
        volumes = [
            sum(n.volume_ml for n in mine) if mine else volume
            for mine, (volume, _) in zip(members, lesions, strict=True)
        ]
        kinds = [mine[0].kind if mine else lesion_sums.UNKNOWN for mine in members]
        return [(v, score) for v, (_, score) in zip(volumes, lesions, strict=True)], kinds

    def _count(self, maps: np.ndarray, lesions: np.ndarray) -> tuple[list[int], list[tuple]]:
        """False positives at the healthy threshold and along the grid; what points touch."""
        limits = [p.threshold for p in self._points if p.threshold is not None]
        # The box of all that lies above any threshold, and of the lesions.
        lowest = np.float32(min([self._threshold, *limits, *map(float, self._grid)]))
        box = ndimage.find_objects(((maps > lowest) | (lesions > 0)).astype(np.uint8))
        if box:
            maps, lesions = maps[box[0]], lesions[box[0]]

        def touch(threshold: float) -> tuple[int, np.ndarray]:
            return scan_stacks.count_touching(
                maps, lesions, threshold, self._spacing, self._options
            )

        at_grid = [touch(t)[0] for t in (self._threshold, *map(float, self._grid))]
        return at_grid, [touch(t) for t in limits]

    def lesion_sums(self) -> lesion_sums.LesionSums:
        """What each complete scan with known truth adds to the figures of `points`."""
        judged = [
            lesion_sums.Judged(
                s.id,
                [(volume, kind) for (volume, _), kind in zip(s.lesions, s.kinds, strict=True)],
                s.found,
                s.false,
            )
            for s in self.scans
            if s.known
        ]
        return lesion_sums.add_up(judged, self._points)

    def result(self, *, seed: int = 0) -> dict[str, Any]:
        """Plain, JSON-able figures of all complete scans; `None` where nothing was there.

        Raises:
          UserError: a scan lacks slices that were announced.
        """
        if self._open:
            name = next(iter(self._open))
            raise errors.UserError(
                f"scan '{name}': found {len(self._open[name])} of {self._slices_of[name]} slices"
            )
        # By name: sums of floats and draws must not depend on which scan was complete first.
        judged = sorted((s for s in self.scans if s.known), key=lambda s: s.id)
        sick = [s for s in judged if s.dice_healthy is not None]
        healthy = [s for s in judged if s.dice_healthy is None]
        out: dict[str, Any] = {
            "n_scans": len(judged),
            "n_lesion_scans": len(sick),
            "n_lesions": sum(len(s.lesions) for s in sick),
            "n_unknown": len(self.scans) - len(judged),
            # Of the table, in scans that were judged.
            "n_lesions_outside": None if self._named is None else self._unbound,
            "spacing_mm": list(self._spacing),
            "postprocess": dataclasses.asdict(self._options),
            "healthy_threshold": self._threshold,
            "found_share": FOUND_SHARE,
            "dice_healthy": _mean([s.dice_healthy for s in sick]),
            "dice_oracle": None,
            "dice_oracle_threshold": None,
            "sensitivity_healthy": self._sensitivity(sick, self._threshold),
            "false_positives_per_scan": _mean([s.at_healthy for s in judged]),
            "false_positives_per_healthy_scan": _mean([s.at_healthy for s in healthy]),
            "by_volume": self._by_volume(sick),
            "at_false_positives": lesion_sums.list_figures(
                self.lesion_sums(), self._points, draws=self._draws, seed=seed
            ),
            "froc": self._froc(judged, sick),
            "intervals": self._intervals(judged, seed),
            "oracle": list(ORACLE),
        }
        if sick:
            best = int(self._dice.argmax())
            out["dice_oracle"] = float(self._dice[best] / len(sick))
            out["dice_oracle_threshold"] = float(_EDGES[best])
        curve = out["froc"]
        counts = curve["false_positives"]
        # Below the threshold of the most, components merge into one that touches everything: few
        # false positives and every lesion found, and nothing detected.
        last = int(np.argmax(counts)) + 1 if sick else 0
        for limit in FALSE_POSITIVES if sick else ():
            pairs = zip(curve["sensitivity"][:last], counts[:last], strict=True)
            out[f"sensitivity_at_{limit}"] = max((s for s, f in pairs if f <= limit), default=0.0)
        return out

    def _sensitivity(self, scans: Sequence[Scan], threshold: float) -> float | None:
        scores = [score for s in scans for _, score in s.lesions]
        return float(np.mean(np.array(scores) > np.float32(threshold))) if scores else None

    def _by_volume(self, scans: Sequence[Scan]) -> dict[str, Any]:
        lesions = np.array([pair for s in scans for pair in s.lesions]).reshape(-1, 2)
        out, low = {}, 0.0
        for name, high in lesion_sums.VOLUMES:
            scores = lesions[(lesions[:, 0] >= low) & (lesions[:, 0] < high), 1]
            low = high
            if len(scores):
                found = float((scores > np.float32(self._threshold)).mean())
                out[name] = {"n_lesions": len(scores), "sensitivity_healthy": found}
        return out

    def _froc(self, judged: Sequence[Scan], sick: Sequence[Scan]) -> dict[str, list[float]]:
        if not sick:
            return {"thresholds": [], "false_positives": [], "sensitivity": []}
        counts = np.mean([s.false_positives for s in judged], axis=0)
        return {
            "thresholds": [float(t) for t in self._grid],
            "false_positives": [float(c) for c in counts],
            "sensitivity": [self._sensitivity(sick, float(t)) for t in self._grid],
        }

    def _intervals(self, judged: Sequence[Scan], seed: int) -> dict[str, list[float]]:
        """95 % bootstrap intervals over scans."""
        if len(judged) < bootstrap.MIN_SUBJECTS or not self._draws:
            return {}
        limit = np.float32(self._threshold)
        parts = np.array(
            [
                [
                    s.dice_healthy or 0.0,
                    float(s.dice_healthy is not None),
                    float(sum(score > limit for _, score in s.lesions)),
                    float(len(s.lesions)),
                    float(s.at_healthy),
                    1.0,
                ]
                for s in judged
            ]
        )
        drawn = bootstrap.draw_weights(len(judged), self._draws, seed) @ parts
        out = {}
        names = ("dice_healthy", "sensitivity_healthy", "false_positives_per_scan")
        for name, above, below in zip(names, (0, 2, 4), (1, 3, 5), strict=True):
            usable = drawn[drawn[:, below] > 0]
            if len(usable):
                ratio = usable[:, above] / usable[:, below]
                out[name] = [float(v) for v in np.percentile(ratio, (2.5, 97.5))]
        return out


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _lesions(maps: np.ndarray, labels: np.ndarray, voxel_ml: float) -> list[tuple[float, float]]:
    """(volume, score s: found at every threshold below s) of each lesion."""
    out = []
    for k, box in enumerate(ndimage.find_objects(labels), start=1):
        scores = maps[box][labels[box] == k]
        # The score that a tenth of its voxels reach: found at every threshold below it.
        needed = _needed(scores.size)
        score = np.partition(scores, scores.size - needed)[scores.size - needed]
        out.append((scores.size * voxel_ml, float(score)))
    return out


def _needed(voxels: int) -> int:
    """Voxels of a lesion that must be marked for it to be found."""
    return max(1, int(np.ceil(FOUND_SHARE * voxels - 1e-9)))


def _found(labels: np.ndarray, covered: Sequence[np.ndarray]) -> np.ndarray:
    """Whether each lesion is found, bool [points, lesions], from its voxels in candidates."""
    sizes = np.bincount(labels.ravel())[1:]
    needed = np.array([_needed(n) for n in sizes.tolist()], np.int64)
    return np.array([c >= needed for c in covered], bool).reshape(len(covered), len(sizes))


def _kinds(labels: np.ndarray, of_slices: Sequence[str]) -> list[str]:
    """The kind of each lesion: the one that most of its slices are said to be of."""
    out = []
    for box in ndimage.find_objects(labels):
        names = [name for name in of_slices[box[0]] if name]
        # Of two that are as many the first, from the bottom.
        common = collections.Counter(names).most_common(1)
        out.append(common[0][0] if common else lesion_sums.UNKNOWN)
    return out


def _dice_curve(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Dice of P = (A >= lower edge of each bin), lowest first."""
    hits, false = (
        histogram.fold(histogram.count_fine(part))[::-1].cumsum()[::-1]
        for part in (positive, negative)
    )
    return 2.0 * hits / (hits + false + len(positive))
