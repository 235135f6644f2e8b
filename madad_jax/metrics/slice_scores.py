"""One slice as the evaluator takes it, and figures of slices whose pixels are at hand."""

import dataclasses
from typing import Any

import numpy as np

from madad_jax.metrics import pixel_pool, region_overlap, threshold_counts


@dataclasses.dataclass
class SliceScores:
    """One slice: its summary and the scores of its pixels.

    `hits` and `above` [k] count lesion and scored pixels above each threshold of the grid,
    `brain_above` [k] brain pixels (slices without lesion only). `positive`, `negative` and
    `brain` are the scores of lesion pixels, other scored pixels and brain pixels (`brain` for
    slices without lesion only); `weight` is 1 / the size of each lesion pixel's region.
    """

    id: str
    subject: str
    size: str
    kind: str
    lesion: int
    regions: int
    n_brain: int
    brain_max: float
    brain_mean: float
    positive: np.ndarray
    weight: np.ndarray
    negative: np.ndarray
    brain: np.ndarray | None
    hits: np.ndarray
    above: np.ndarray
    brain_above: np.ndarray | None

    @property
    def dice(self) -> np.ndarray:
        """Dice at each threshold of the grid [k], official conventions."""
        return threshold_counts.slice_dice(self.above, self.hits, np.array(self.lesion))

    def above_threshold(self, threshold: float) -> tuple[int, int, int]:
        """(lesion pixels, scored pixels, brain pixels) above the threshold (`>`, float32)."""
        limit = np.float32(threshold)
        hits = int(np.count_nonzero(self.positive > limit))
        brain = 0 if self.brain is None else int(np.count_nonzero(self.brain > limit))
        return hits, hits + int(np.count_nonzero(self.negative > limit)), brain


def measure(
    maps: np.ndarray,
    truth: np.ndarray,
    kept: np.ndarray,
    brain: np.ndarray,
    records: list[Any],
) -> list[SliceScores]:
    """Each slice of [n, H, W] arrays; `truth` only where `kept`."""
    counts = threshold_counts.ThresholdCounts()
    # None is faster: no mask is applied where all pixels count.
    counts.add(maps, truth, None if kept.all() else kept)
    above, hits = counts.positives, counts.true_positives
    healthy = np.flatnonzero(~truth.any(axis=(1, 2)))
    # Brain pixels above the grid matter for false alarms, so for slices without lesion alone.
    in_brain = threshold_counts.ThresholdCounts()
    in_brain.add(maps[healthy], truth[healthy], brain[healthy])
    brain_above = dict(zip(healthy.tolist(), in_brain.positives, strict=True))
    out = []
    for i, record in enumerate(records):
        inside, lesion = maps[i][brain[i]], truth[i]
        sick = i not in brain_above
        area = int(np.count_nonzero(lesion))
        weight, regions = region_overlap.weights(lesion) if sick else (np.zeros(0, np.float32), 0)
        out.append(
            SliceScores(
                id=str(record.id),
                subject=str(record.subject),
                size=threshold_counts.size_group(area, maps.shape[1:]),
                kind=(record.lesion_kind or "unknown") if sick else "",
                lesion=area,
                regions=regions,
                n_brain=inside.size,
                brain_max=float(inside.max()) if inside.size else 0.0,
                brain_mean=float(inside.mean()) if inside.size else 0.0,
                # Indexing by a mask copies, so that the batch can be freed.
                positive=maps[i][lesion],
                weight=weight,
                negative=maps[i][kept[i] & ~lesion],
                brain=None if sick else inside,
                hits=hits[i],
                above=above[i],
                brain_above=brain_above.get(i),
            )
        )
    return out


def pooled(chosen: list[SliceScores]) -> pixel_pool.Pooled:
    """Exact pooled figures of some slices."""
    found = pixel_pool.Pool()
    for one in chosen:
        found.add(one.positive, one.negative)
    return found.figures()


def region_overlap_of(chosen: list[SliceScores]) -> float | None:
    """Exact AUPRO of some slices."""
    if not chosen:
        return None
    parts = ("positive", "weight", "negative")
    return region_overlap.exact(*(np.concatenate([getattr(s, p) for s in chosen]) for p in parts))


def max_dice_exact(chosen: list[SliceScores], max_pixels: int) -> float | None:
    """`metrics.max_dice_exact` of some slices; `None` past so many pixels."""
    # It would take more memory than a figure beside 201 thresholds is worth.
    if sum(len(s.positive) + len(s.negative) for s in chosen) > max_pixels:
        return None
    return threshold_counts.max_dice_exact(
        [np.concatenate([s.positive, s.negative]) for s in chosen],
        [np.arange(len(s.positive) + len(s.negative)) < len(s.positive) for s in chosen],
    )
