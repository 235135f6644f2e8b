"""All pixels of all slices in one pool: exact AUROC, average precision and largest Dice.

`pooled_max_dice` is the largest Dice (= F1) over all distinct scores, P = (A >= score), an oracle
figure (anomalib's F1Max, the official "Global max Dice"): max 2PR / (P + R + 1e-10), with P
precision and R recall. AUROC and average precision count ties as sklearn does.
Source: anomalib and sklearn definitions; equal to both within 1e-6 by test.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.metrics import finite

# The official code's, kept for its last digits.
_F1_EPS = 1e-10
# Pixels that there is room for at first, 4 MiB: small beside a program.
_FIRST_BLOCK = 1 << 20
# Pixels looked through at a time for those of lesions: what that takes stays in a cache.
_CHUNK = 1 << 18

# Of lesion pixels by distinct score, lowest first: score, how many of them, and how many other
# pixels lie below it and at it.
Ranks = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Figures of one pool of pixels; all `None` when it holds no lesion (or nothing else).

    `threshold` is the score s at which `max_dice` is reached, predicting positive at A >= s.
    `*_bound` bound the distance to the exact value (0 when the value is exact).
    """

    auroc: float | None
    ap: float | None
    max_dice: float | None
    threshold: float | None
    auroc_bound: float = 0.0
    ap_bound: float = 0.0
    max_dice_bound: float = 0.0


NO_FIGURES = Pooled(None, None, None, None)


class Pool:
    """Pixels of many slices; takes 4 bytes each, and nothing for a zero.

    All three figures need the curve at the distinct *lesion* scores only: recall changes
    nowhere else, and adding pixels without lesion alone never raises Dice. The bits of a float32
    from 0 up sort as the number does and leave one free: shifted by it, a score and whether its
    pixel is lesion are one integer. So one sort gives the order of all pixels, and where a lesion
    pixel stands in it says how many others lie below. No score is ever searched for: binary
    searches in more than a cache holds cost as much as sorting, and by machine twice that.

    Zeros, which all is outside the brain, are counted and not kept. What is kept is written once,
    into an array that grows where it lies: new memory is dear, on a virtual machine above all.
    """

    def __init__(self, first_block: int = _FIRST_BLOCK):
        """`first_block` in pixels: room for so many at first."""
        self._keys = np.empty(first_block, np.uint32)
        self._used = 0
        self._zeros = [0, 0]  # others, lesion
        # Rounding may leave a score just below 0: too few to be worth a key.
        self._low: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])

    def add(self, positive: Float32[np.ndarray, "p"], negative: Float32[np.ndarray, "q"]) -> None:
        """Scores of lesion pixels and of all others. Raises UserError for NaN among them."""
        finite.check(positive, "lesion pixels")
        finite.check(negative, "other pixels")
        for lesion, scores in enumerate((negative, positive)):
            some = scores[scores != 0.0]
            self._zeros[lesion] += scores.size - some.size
            if some.size and some.min() < 0.0:
                self._low[lesion].append(some[some < 0.0])
                some = some[some > 0.0]
            self._keep(some, lesion)

    def add_above_zero(
        self,
        scores: Float32[np.ndarray, "n"],
        lesion: Bool[np.ndarray, "n"],
        zeros: tuple[int, int],
    ) -> None:
        """Scores above 0, and whether each is of a lesion pixel; `zeros` of other and of lesion
        pixels beside. As `add`, where scores are at hand like that; none may be NaN."""
        self._zeros = [mine + more for mine, more in zip(self._zeros, zeros, strict=True)]
        self._keep(scores, lesion)

    def _keep(self, scores: np.ndarray, lesion: np.ndarray | int) -> None:
        """Keeps scores above 0."""
        end = self._used + scores.size
        if end > self._keys.size:
            # By a quarter: `resize` moves pages and fills the new ones, so that what is not
            # needed in the end is little.
            self._keys.resize(max(end, self._keys.size * 5 // 4 + 1), refcheck=False)
        room = self._keys[self._used : end]
        np.left_shift(np.ascontiguousarray(scores, np.float32).view(np.uint32), 1, out=room)
        np.bitwise_or(room, lesion, out=room, casting="unsafe")
        self._used = end

    def figures(self) -> Pooled:
        """Of everything added so far."""
        low, zero, high = self._rank_low(), self._rank_zero(), self._rank_high()
        score, count, below, tied = (
            np.concatenate(parts) for parts in zip(low, zero, high, strict=True)
        )
        n_pos = int(count.sum())
        n_neg = self._others_up_to_zero() + self._used - int(high[1].sum())
        if not n_pos or not n_neg:
            return NO_FIGURES
        auroc = float((count * (below + 0.5 * tied)).sum() / (n_pos * n_neg))
        # From the highest score down: what is at or above each score.
        tp = count[::-1].cumsum()[::-1]  # lesion pixels at or above each distinct score
        fp = n_neg - below
        precision = tp / (tp + fp)
        recall = tp / n_pos
        dice = 2.0 * precision * recall / (precision + recall + _F1_EPS)
        best = int(dice.argmax())
        return Pooled(
            auroc=auroc,
            ap=float((precision * count).sum() / n_pos),
            max_dice=float(dice[best]),
            threshold=float(score[best]),
        )

    def _others_up_to_zero(self) -> int:
        return self._zeros[0] + sum(part.size for part in self._low[0])

    def _rank_low(self) -> Ranks:
        """Of lesion scores below 0."""
        other, lesion = (np.concatenate([np.zeros(0, np.float32), *part]) for part in self._low)
        score, count = np.unique(lesion, return_counts=True)
        other.sort()
        below = np.searchsorted(other, score, side="left")
        return score, count, below, np.searchsorted(other, score, side="right") - below

    def _rank_zero(self) -> Ranks:
        """Of lesion scores of 0."""
        other, lesion = self._zeros
        some = slice(0, int(lesion > 0))
        below = self._others_up_to_zero() - other
        return (
            np.zeros(1, np.float32)[some],
            *(np.array([n], np.int64)[some] for n in (lesion, below, other)),
        )

    def _rank_high(self) -> Ranks:
        """Of lesion scores above 0."""
        keys = self._keys[: self._used]
        # In place: a sorted copy would touch as much new memory again.
        keys.sort()
        places = [
            start + np.flatnonzero(keys[start : start + _CHUNK] & 1)
            for start in range(0, keys.size, _CHUNK)
        ]
        place = np.concatenate([np.zeros(0, np.int64), *places])  # of each lesion pixel
        own = keys[place]
        first = np.flatnonzero(np.append(True, own[1:] != own[:-1])[: own.size])
        count = np.diff(np.append(first, own.size))
        own, place = own[first], place[first]
        # Others of the same score stand just before: their keys are one less.
        up_to = place - first
        tied = np.zeros(len(own), np.int64)
        ties = np.flatnonzero(keys[np.maximum(place - 1, 0)] == own - 1)
        tied[ties] = place[ties] - np.searchsorted(keys, own[ties] - 1, side="left")
        below = up_to - tied + self._others_up_to_zero()
        return (own >> 1).view(np.float32), count, below, tied


def pooled(
    scores: Float32[np.ndarray, "n"] | Float32[np.ndarray, "n H W"],
    labels: Bool[np.ndarray, "n"] | Bool[np.ndarray, "n H W"],
) -> Pooled:
    """Exact pooled AUROC, AP and maximum Dice of `scores` against `labels`."""
    out = Pool()
    out.add(scores[labels], scores[~labels])
    return out.figures()
