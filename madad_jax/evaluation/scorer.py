"""A method's maps on the host, batch by batch, on any number of processes."""

import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from madad_jax.core import random_keys, signals
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches as batches_lib
from madad_jax.devices import mesh as mesh_lib
from madad_jax.methods import base
from madad_jax.runtime import executables, stop, watchdog

_READ = ("image", "brain_mask", "available")  # the last one of several contrasts alone


class Scorer:
    """A method with its weights, as a compiled function from batches to maps on the host.

    Safe to call from several threads.
    """

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
        self.name = method.name
        # What the trace depends on besides the shapes.
        self._reads = (method, seed)
        self._lock = threading.Lock()
        self._programs: dict[tuple[Any, ...], futures.Future] = {}

        def maps(params: Params, frozen: Params, arrays: Batch, number: jax.Array):
            # Inside of the program: outside, each of these draws would be a program of its own.
            key = random_keys.stream(random_keys.root_key(seed), "evaluate")
            return method.anomaly_map(params, frozen, arrays, jax.random.fold_in(key, number))

        self._fn = jax.jit(maps)

    def __call__(self, number: int, batch: Batch) -> dict[str, np.ndarray]:
        """Maps and reconstruction of batch `number`, whole on every process."""
        arrays = {k: batch[k] for k in _READ if k in batch}
        arrays = batches_lib.global_batch(self._mesh, arrays)
        program = self._program(arrays)
        # By the number of the batch, not by process: draws are the same on any number of hosts.
        out = program(*self._weights, arrays, np.uint32(number))
        return {
            k: gather(v) for k, v in out.items() if k in signals.SIGNALS or k == "reconstruction"
        }

    def prepare(self, batch_size: int, image_size: int) -> None:
        """Makes the program of such batches in a thread, while the caller does something else.

        Args:
          batch_size: rows of a batch.
          image_size: side of an image in pixels.
        """
        shape, sharding = (batch_size, image_size, image_size), mesh_lib.batch_sharding(self._mesh)
        arrays = {
            "image": jax.ShapeDtypeStruct((*shape, 1), np.float32, sharding=sharding),
            "brain_mask": jax.ShapeDtypeStruct(shape, np.bool_, sharding=sharding),
        }
        # Not a daemon: Python must not end in the midst of the compiler.
        threading.Thread(target=self._promise, args=(arrays,), name="compile").start()

    def _program(self, arrays: Batch) -> Any:
        return self._promise(arrays).result()

    def _promise(self, arrays: Batch) -> futures.Future:
        """The program of such arrays; whoever asks first makes it, all others wait for it."""
        kind = tuple((name, a.shape, str(a.dtype)) for name, a in sorted(arrays.items()))
        with self._lock:
            promise, mine = self._programs.get(kind), kind not in self._programs
            if promise is None:
                promise = self._programs[kind] = futures.Future()
        if mine:
            try:
                promise.set_result(self._make(arrays))
            # Raised where the program is used, in whichever thread that is.
            except BaseException as error:
                promise.set_exception(error)
        return promise

    def _make(self, arrays: Batch) -> Any:
        arguments = (*self._weights, arrays, np.uint32(0))
        devices = list(self._mesh.devices.flat)
        return executables.compiled(f"{self.name} map", self._fn, arguments, self._reads, devices)


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
