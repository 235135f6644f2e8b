"""Which slices of a set are shown, and their pictures."""

import numpy as np
from etils import epath

from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib


class PanelChoice:
    """Slices for the panels: of each subject the one with the most lesion, then spread evenly
    over the subjects. Never picked by score."""

    def __init__(self, source: record_lib.Source, count: int):
        self._source = source
        self._count = count
        self._best: dict[str, tuple[int, bool, dict[str, np.ndarray]]] = {}
        self._subjects: dict[str, bool] = {}  # all that could be shown; whether they are kept
        self._stride = 1

    def add(self, batch: Batch, out: dict[str, np.ndarray], maps: np.ndarray) -> None:
        """Takes note of a batch and its maps [n, H, W]."""
        for i, index in enumerate(batch["index"]):
            truth = batch["segmentation"][i]
            # Known to be healthy: nothing to find on it. An unknown slice may hold a lesion.
            if batch["has_segmentation"][i] and not truth.any():
                continue
            subject = self._source.records[index].subject
            if not self._keeps_subject(subject):
                continue
            item = {
                "image": batch["image"][i],
                "reconstruction": out["reconstruction"][i],
                "map": maps[i],
                "segmentation": truth,
            }
            entry = (int(index), bool(batch["has_segmentation"][i]), item)
            if subject not in self._best or _area(entry) > _area(self._best[subject]):
                # Copies: a view would keep the whole batch.
                self._best[subject] = (*entry[:2], {k: v.copy() for k, v in item.items()})

    def _keeps_subject(self, subject: str) -> bool:
        """Keeps every `_stride`-th subject, so that memory does not grow with their number."""
        if subject not in self._subjects:
            self._subjects[subject] = len(self._subjects) % self._stride == 0
            # Eight times what is shown is enough to spread evenly, and bounds the copies in memory.
            if len(self._best) >= 8 * max(1, self._count):
                self._stride *= 2
                # Every other one goes, so that those left are as far apart as the new stride says.
                for old in list(self._best)[1::2]:
                    del self._best[old]
                    self._subjects[old] = False
        return self._subjects[subject]

    def draw(self, folder: epath.Path, threshold: float, rows: int = 6) -> None:
        """Writes the pages, `rows` slices each."""
        if not self._best or not self._count:
            return
        from madad_jax.evaluation import (
            pictures,  # matplotlib, a second to load, where nothing trains
        )

        one_each = list(self._best.values())
        # Evenly over the subjects in the order of the set, blind to how well they were scored.
        which = np.linspace(0, len(one_each) - 1, min(self._count, len(one_each)))
        chosen = [one_each[int(i)] for i in np.unique(which.round())]
        folder.mkdir(parents=True, exist_ok=True)
        for page, start in enumerate(range(0, len(chosen), rows)):
            part = chosen[start : start + rows]
            stack = {k: np.stack([item[k] for _, _, item in part]) for k in part[0][2]}
            pictures.panels(
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
