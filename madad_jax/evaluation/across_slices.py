"""Maps smoothed over the neighbouring slices of a scan."""

import collections
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from madad_jax.core import signals
from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib


def smooth(
    pairs: Iterable[tuple[Batch, dict[str, np.ndarray]]],
    records: Sequence[record_lib.Record],
    sigma: float,
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """The same pairs, a scan each, with maps smoothed over its neighbouring slices.

    `sigma` in steps of the slice number; a gap weighs as much as it is wide, and the ends of a
    scan are no dark slices: weights add up to 1 everywhere. Holds the scans that are under way.
    """
    # Batches may cut a scan anywhere and a padded batch may end one, so that only the number of
    # its slices tells when a scan is complete.
    sizes = collections.Counter(r.subject for r in records)
    waiting: dict[str, list[tuple[Batch, dict[str, np.ndarray]]]] = {}
    for batch, out in pairs:
        for i, index in enumerate(batch["index"]):
            subject = records[index].subject
            # A copy: a view would keep the whole batch in memory for as long as its slowest scan.
            one = {k: v[i : i + 1].copy() for k, v in batch.items()}
            waiting.setdefault(subject, []).append((one, {k: v[i : i + 1] for k, v in out.items()}))
            if len(waiting[subject]) == sizes[subject]:
                yield _smooth_scan(waiting.pop(subject), records, sigma)


def _smooth_scan(
    parts: list[tuple[Batch, dict[str, np.ndarray]]],
    records: Sequence[record_lib.Record],
    sigma: float,
) -> tuple[Batch, dict[str, np.ndarray]]:
    batch, out = (
        {k: np.concatenate([p[side][k] for p in parts]) for k in parts[0][side]} for side in (0, 1)
    )
    numbers = np.array([records[i].slice for i in batch["index"]], np.float64)
    weights = np.exp(-0.5 * ((numbers[:, None] - numbers[None]) / sigma) ** 2)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    brain = batch["brain_mask"]
    for name in signals.SIGNALS:
        if name in out:
            # A neighbour's slice may have less brain: weigh what is there.
            inside = np.tensordot(weights, brain.astype(np.float32), 1)
            # Not a product: NaN outside the brain must not reach the slices beside.
            maps = np.tensordot(weights, np.where(brain, out[name], 0.0), 1) / np.maximum(
                inside, 1e-6
            )
            out[name] = np.where(brain, maps, out[name]).astype(np.float32)
    return batch, out
