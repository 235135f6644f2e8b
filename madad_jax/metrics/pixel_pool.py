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
# Pixels of the first block, 4 MiB: small beside a program, and 20 doublings from any set.
_FIRST_BLOCK = 1 << 20


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
    """Pixels of many slices; takes 4 bytes each, and nothing for a zero outside all lesions.

    All three figures need the curve at the distinct *lesion* scores only: recall changes
    nowhere else, and adding non-lesion pixels alone never raises Dice. So sorting both sides does,
    with no index arrays. Zeros, which all is outside the brain, are counted and not kept. What is
    kept is written once, into blocks each as large as all before it: on a large set new
    memory costs more than sorting it, so blocks are sorted where they lie and never joined.
    """

    def __init__(self, first_block: int = _FIRST_BLOCK):
        """`first_block` in pixels; further blocks double what is there."""
        self._positive: list[np.ndarray] = []
        self._blocks = [np.empty(first_block, np.float32)]
        self._used = 0  # of the last block
        self._zeros = 0

    def add(self, positive: Float32[np.ndarray, "p"], negative: Float32[np.ndarray, "q"]) -> None:
        """Scores of lesion pixels and of all others. Raises UserError for NaN among them."""
        finite.check(positive, "lesion pixels")
        finite.check(negative, "other pixels")
        self._positive.append(positive)
        some = negative[negative != 0.0]
        self._zeros += negative.size - some.size
        while some.size:
            room = self._blocks[-1][self._used :]
            fits = min(room.size, some.size)
            room[:fits] = some[:fits]
            some = some[fits:]
            self._used += fits
            if self._used == self._blocks[-1].size:
                size = sum(block.size for block in self._blocks)
                self._blocks.append(np.empty(size, np.float32))
                self._used = 0

    def figures(self) -> Pooled:
        """Of everything added so far."""
        positive = np.concatenate([np.zeros(0, np.float32), *self._positive])
        blocks = [*self._blocks[:-1], self._blocks[-1][: self._used]]
        n_pos, n_neg = positive.size, self._zeros + sum(block.size for block in blocks)
        if not n_pos or not n_neg:
            return NO_FIGURES
        score, count = np.unique(positive, return_counts=True)
        # Zeros that were only counted stand below every positive lesion score, and tie with 0.
        below = np.where(score > 0.0, self._zeros, 0)
        tied = np.where(score == 0.0, self._zeros, 0)
        for block in blocks:
            # In place: a sorted copy would touch as much new memory again.
            block.sort()
            under = np.searchsorted(block, score, side="left")
            below += under
            tied += np.searchsorted(block, score, side="right") - under
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


def pooled(
    scores: Float32[np.ndarray, "n"] | Float32[np.ndarray, "n H W"],
    labels: Bool[np.ndarray, "n"] | Bool[np.ndarray, "n H W"],
) -> Pooled:
    """Exact pooled AUROC, AP and maximum Dice of `scores` against `labels`."""
    out = Pool()
    out.add(scores[labels], scores[~labels])
    return out.figures()
