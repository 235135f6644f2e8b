"""Detection figures by loops over thresholds and images, as the official code takes them.

Written from the definitions (numpy alone):

    max Dice   the mean over images of 2 |P and G| / (|P| + |G| + 1e-6), P = (A > th) or (A >= 1),
               at each of 201 even thresholds from 0 to 1; the largest of the 201 means. Without
               lesion an image counts 1 where P is empty and 0 elsewhere.
    pooled     all pixels sorted by score: AUROC by trapezoids, average precision, largest F1

`loop="builtin"` adds the truth's pixels with Python's `sum` at every threshold, which is where the
official code spends its time; `loop="numpy"` is the same loop with numpy's sums.
"""

import numpy as np


class Metrics:
    """One pass over the stored maps."""

    def __init__(self, request):
        with np.load(request["file"]) as stored:
            self._maps = stored["maps"][: request["count"]].astype(np.float32)
            self._truth = stored["truth"][: request["count"]]
        self._total = sum if request["loop"] == "builtin" else np.sum
        self.facts = {"maps": len(self._maps)}

    def run(self):
        """All four figures."""
        return {"max_dice": self._max_dice()} | pooled(self._maps.ravel(), self._truth.ravel())

    def wait(self):
        """Nothing runs on."""

    def _max_dice(self):
        best = 0.0
        for threshold in np.linspace(0, 1, 201).astype(np.float32):
            scores = [
                self._dice(a, g, threshold) for a, g in zip(self._maps, self._truth, strict=True)
            ]
            best = max(best, float(np.mean(scores)))
        return best

    def _dice(self, scores, truth, threshold):
        positive = (scores > threshold) | (scores >= 1)
        lesion = self._total(truth.ravel().astype(np.int64))
        if lesion == 0:
            return float(self._total(positive.ravel().astype(np.int64)) == 0)
        both = (positive & truth).sum()
        return 2.0 * both / (positive.sum() + lesion + 1e-6)


def pooled(scores, truth):
    """AUROC, average precision and largest F1 of one pool of pixels."""
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of each tie
    tp = truth.cumsum()[last]
    fp = 1 + last - tp
    recall, precision = tp / tp[-1], tp / (tp + fp)
    f1 = 2 * precision * recall / (precision + recall + 1e-10)
    before = np.concatenate([[0.0], recall[:-1]])
    negative = np.concatenate([[0.0], fp]) / fp[-1]
    area = np.trapezoid(np.concatenate([[0.0], recall]), negative)
    return {
        "auroc": float(area),
        "ap": float(((recall - before) * precision).sum()),
        "pooled_max_dice": float(f1.max()),
    }


def build(request):
    """The job `metrics`: file (npz of maps and truth), count, loop (builtin | numpy)."""
    return Metrics(request)
