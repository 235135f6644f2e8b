"""A method's maps on the host, batch by batch, on any number of processes."""

import collections
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from madad_jax.core import random_keys
from madad_jax.core.types import Batch, Params
from madad_jax.data.sources import record as record_lib
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.methods import base
from madad_jax.runtime import watchdog

# The three signals of the paper's table 3, the first is what the paper reports; and all combined.
SIGNALS = {
    "map": "",
    "latent_map": " (latent difference)",
    "mask_map": " (mask head)",
    "combined_map": " (signals combined)",
}


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
        whole = mesh_lib.replicated(mesh)
        self._mesh = mesh
        self._weights = jax.device_put((params, frozen), whole)
        self._key = random_keys.stream(random_keys.root_key(seed), "evaluate")
        self._fn = jax.jit(method.anomaly_map)
        self.name = method.name

    def __call__(self, number: int, batch: Batch) -> dict[str, np.ndarray]:
        """Maps and reconstruction of batch `number`, whole on every process."""
        arrays = {k: batch[k] for k in ("image", "brain_mask")}
        arrays = batches_lib.global_batch(self._mesh, arrays)
        key = jax.random.fold_in(self._key, number)
        out = self._fn(*self._weights, arrays, key)
        return {k: gather(v) for k, v in out.items() if k in SIGNALS or k == "reconstruction"}


def gather(x: jax.Array) -> np.ndarray:
    """The whole array as numpy, from wherever its shards are."""
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def scored(
    scorer: Scorer, batches: Iterable[Batch], what: str
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """(batch, maps) pairs without their padding."""
    quiet = jax.process_index() != 0
    for i, batch in enumerate(tqdm.tqdm(batches, desc=what, unit="batch", disable=quiet)):
        watchdog.progress(f"{what}: batch {i}")
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


def across_slices(
    pairs: Iterable[tuple[Batch, dict[str, np.ndarray]]],
    records: Sequence[record_lib.Record],
    sigma: float,
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """The same pairs, a scan each, with maps smoothed over its neighbouring slices.

    `sigma` in steps of the slice number; a gap weighs as much as it is wide, and the ends of a
    scan are no dark slices: weights add up to 1 everywhere. Holds the scans that are under way.
    """
    sizes = collections.Counter(r.subject for r in records)
    waiting: dict[str, list[tuple[Batch, dict[str, np.ndarray]]]] = {}
    for batch, out in pairs:
        for i, index in enumerate(batch["index"]):
            subject = records[index].subject
            one = {k: v[i : i + 1].copy() for k, v in batch.items()}
            waiting.setdefault(subject, []).append((one, {k: v[i : i + 1] for k, v in out.items()}))
            if len(waiting[subject]) == sizes[subject]:
                yield _smoothed(waiting.pop(subject), records, sigma)


def _smoothed(
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
    for name in SIGNALS:
        if name in out:
            # A neighbour's slice may have less brain: weigh what is there.
            inside = np.tensordot(weights, brain.astype(np.float32), 1)
            maps = np.tensordot(weights, out[name] * brain, 1) / np.maximum(inside, 1e-6)
            out[name] = np.where(brain, maps, out[name]).astype(np.float32)
    return batch, out
