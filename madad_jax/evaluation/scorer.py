"""A method's maps on the host, batch by batch, on any number of processes."""

from collections.abc import Iterable, Iterator

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from madad_jax.core import random_keys, signals
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.methods import base
from madad_jax.runtime import stop, watchdog


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
        replicated = mesh_lib.replicated(mesh)
        self._mesh = mesh
        # Every device scores other slices of a batch and needs all weights for that.
        self._weights = jax.device_put((params, frozen), replicated)
        self._key = random_keys.stream(random_keys.root_key(seed), "evaluate")
        self._fn = jax.jit(method.anomaly_map)
        self.name = method.name

    def __call__(self, number: int, batch: Batch) -> dict[str, np.ndarray]:
        """Maps and reconstruction of batch `number`, whole on every process."""
        arrays = {k: batch[k] for k in ("image", "brain_mask")}
        arrays = batches_lib.global_batch(self._mesh, arrays)
        # By the number of the batch, not by process: draws are the same on any number of hosts.
        key = jax.random.fold_in(self._key, number)
        out = self._fn(*self._weights, arrays, key)
        return {
            k: gather(v) for k, v in out.items() if k in signals.SIGNALS or k == "reconstruction"
        }


def gather(x: jax.Array) -> np.ndarray:
    """The whole array as numpy, from wherever its shards are."""
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def score_batches(
    scorer: Scorer, batches: Iterable[Batch], what: str
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """(batch, maps) pairs without their padding."""
    quiet = jax.process_index() != 0
    # Progress on process 0 alone: lines of several processes would overwrite each other.
    for i, batch in enumerate(tqdm.tqdm(batches, desc=what, unit="batch", disable=quiet)):
        watchdog.progress(f"{what}: batch {i}")
        stop.check(f"evaluation: {what}")
        out = scorer(i, batch)
        # Only after scoring: the padding keeps the shape that was compiled.
        batch = gather_batch(batch)
        yield batch, {k: v[: len(batch["index"])] for k, v in out.items()}


def gather_batch(batch: Batch) -> Batch:
    """The global batch without its padding, in the order of its rows, on every process.

    Sorted by index because processes that share rows (a `tensor` axis over hosts) hold them
    twice, and because the padding (index -1) stands at the end of the last batch only.
    """
    if jax.process_count() > 1:
        batch = {k: multihost_utils.process_allgather(v, tiled=True) for k, v in batch.items()}
    index = np.asarray(batch["index"])
    # np.unique sorts, and names the first of equal rows.
    _, rows = np.unique(index, return_index=True)
    rows = rows[index[rows] >= 0]
    return {k: np.asarray(v)[rows] for k, v in batch.items()}
