"""What the evaluator remembers of each slice, and the figures of a group of slices."""

import dataclasses

import numpy as np

from madad_jax import errors
from madad_jax.evaluation import histogram, metrics


@dataclasses.dataclass
class SliceScores:
    """One slice: its summary, and its scores as long as they are kept.

    `dice` [k] and `brain_above` [k] are taken on the grid of thresholds; `positive`, `negative`
    and `brain` are the scores of lesion pixels, other scored pixels and brain pixels (`brain`
    for slices without lesion only), `None` once dropped.
    """

    id: str
    subject: str
    size: str
    kind: str
    lesion: int
    dice: np.ndarray | None
    brain_above: np.ndarray
    n_brain: int
    brain_max: float
    brain_mean: float
    positive: np.ndarray | None
    negative: np.ndarray | None
    brain: np.ndarray | None
    counted: dict[float, tuple[int, int, int]] = dataclasses.field(default_factory=dict)

    def above(self, threshold: float) -> tuple[int, int, int]:
        """(lesion pixels, scored pixels, brain pixels) above the threshold (`>`, float32)."""
        if threshold in self.counted:
            return self.counted[threshold]
        if self.positive is None or self.negative is None:
            raise errors.UserError(
                f"healthy threshold: found {threshold:.6g} after the pixels were dropped, "
                "accepted: the one given to Evaluator(healthy_threshold=...), or a larger "
                "max_exact_pixels"
            )
        limit = np.float32(threshold)
        hits = int((self.positive > limit).sum())
        brain = 0 if self.brain is None else int((self.brain > limit).sum())
        self.counted[threshold] = (hits, hits + int((self.negative > limit).sum()), brain)
        return self.counted[threshold]

    def drop(self) -> None:
        """Forgets the scores; counts taken before stay."""
        self.positive = self.negative = self.brain = None


class Pool:
    """Pooled figures of any union of (size, kind) groups: exact, or by histogram past a limit."""

    def __init__(self, max_exact_pixels: int):
        self.exact = True
        self._limit = max_exact_pixels
        self._pixels = 0
        self._histograms: dict[tuple[str, str], np.ndarray] = {}
        self._dropped = 0

    def update(self, slices: list[SliceScores], healthy_threshold: float | None) -> None:
        """Takes note of slices added since the last call; drops their scores past the limit."""
        new = slices[self._dropped :] if not self.exact else slices
        if self.exact:
            self._pixels = sum(len(s.positive) + len(s.negative) for s in new)
            if self._pixels <= self._limit:
                return
            self.exact = False
        for one in new:
            key = (one.size, one.kind)
            counts = histogram.counts(one.positive, one.negative)
            self._histograms[key] = self._histograms.get(key, 0) + counts
            if healthy_threshold is not None:
                one.above(healthy_threshold)
            one.drop()
        self._dropped = len(slices)

    def figures(
        self, slices: list[SliceScores], *, size: str | None = None, kind: str | None = None
    ) -> metrics.Pooled:
        """Pooled figures of all slices, of one size group, or of one kind."""
        if self.exact:
            chosen = select(slices, size=size, kind=kind)
            if not chosen:
                return metrics.NO_FIGURES
            return metrics.pooled_split(
                np.concatenate([s.positive for s in chosen]),
                np.concatenate([s.negative for s in chosen]),
            )
        parts = [
            h
            for (s, k), h in self._histograms.items()
            if (size is None or s == size) and (kind is None or k == kind)
        ]
        return histogram.pooled(sum(parts)) if parts else metrics.NO_FIGURES


def select(
    slices: list[SliceScores], *, size: str | None = None, kind: str | None = None
) -> list[SliceScores]:
    """The slices of one size group and/or kind; all for `None`."""
    return [
        s for s in slices if (size is None or s.size == size) and (kind is None or s.kind == kind)
    ]


def mean_dice_at(slices: list[SliceScores], threshold: float) -> float | None:
    """Mean per-slice Dice of P = (A > threshold), official conventions."""
    if not slices:
        return None
    hits, above, _ = np.array([s.above(threshold) for s in slices]).T
    lesion = np.array([s.lesion for s in slices])
    return float(metrics.slice_dice(above, hits, lesion).mean())


def pooled_at(slices: list[SliceScores], threshold: float) -> dict[str, float | None]:
    """Pooled Dice, precision and recall of P = (A > threshold)."""
    lesion = sum(s.lesion for s in slices)
    if not lesion:
        return {"dice": None, "precision": None, "recall": None}
    hits, above, _ = np.array([s.above(threshold) for s in slices]).sum(axis=0)
    return {
        "dice": float(2.0 * hits / (above + lesion)),
        "precision": float(hits / above) if above else None,
        "recall": float(hits / lesion),
    }


def false_alarms(
    healthy: list[SliceScores], above: list[int], min_pixels: int
) -> tuple[float | None, float | None]:
    """(share of healthy slices with at least `min_pixels` above, share of brain pixels above)."""
    if not healthy:
        return None, None
    brain = sum(s.n_brain for s in healthy)
    slices = sum(a >= min_pixels for a in above) / len(healthy)
    return float(slices), float(sum(above) / brain) if brain else None
