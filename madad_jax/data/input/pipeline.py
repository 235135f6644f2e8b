"""From a source to batches: Grain for training, padded passes for evaluation.

Training order: `source -> seed -> shuffle -> repeat -> random_map -> batch ->
[process::count]`. Slicing by process comes last, so the global stream of samples and their
augmentation draws do not depend on the number of hosts, and a position in it is one number:
the count of global samples consumed. A state saved on one host restores on any other count.
Batches are formed before the slice and not after: process p then holds the p-th block of
consecutive rows of each global batch, as the sharded array does, so that a draw by row on the
device meets the same slice on any number of hosts.

Evaluation never drops a remainder: it pads, says so in `valid`, and every host runs the
same number of batches (or a pod would hang in a collective).
"""

import concurrent.futures
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from madad_jax.core import errors
from madad_jax.data.input import augment as augment_lib
from madad_jax.data.input import cached_latents
from madad_jax.data.sources import record as record_lib

# One thread per OpenCV call: the reading threads are the parallelism, and OpenCV's own
# pool on top of them is slower and starves the training step on few cores.
cv2.setNumThreads(1)


_TRAIN_KEYS = ("image", "brain_mask", "available", "unhealthy")


class _TrainView:
    """The part of a source that training may see: never a segmentation."""

    def __init__(self, source: record_lib.Slices):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = self._source[int(index)]
        return {key: element[key] for key in _TRAIN_KEYS if key in element}


class _PickDraw:
    """Slice number -> one of its cached draws, as Grain's `random_map` calls it."""

    def __init__(self, cached: cached_latents.CachedLatents):
        self._cached = cached

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self._cached.read(index, int(rng.integers(self._cached.draws)))


class TrainIterator:
    """Endless training batches whose position is one number."""

    def __init__(self, dataset: Any, options: Any, global_batch: int):
        """Takes a Grain `MapDataset`, its `ReadOptions`, and the samples of a global batch."""
        self._dataset = dataset
        self._options = options
        self._global_batch = global_batch
        self._batches_read = 0
        self._iterator = iter(dataset.to_iter_dataset(options))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        """`brain_mask` bool [local, H, W] and `image` float32 [local, H, W, 1], or in its place
        `latent_mean` and `latent_logvar` float32 [local, h, w, c]."""
        batch = next(self._iterator)
        self._batches_read += 1
        return batch

    def state(self) -> dict[str, int]:
        """The position after the last batch handed out, for `json.dumps`."""
        return {"samples_read": self._batches_read * self._global_batch}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues exactly after the saved position, on any number of processes.

        Raises:
          UserError: the state is not one of ours, or lies inside a batch of this size.
        """
        samples = state.get("samples_read") if isinstance(state, dict) else None
        if not isinstance(samples, int) or samples < 0:
            raise errors.UserError(
                f"data iterator state: found {state!r}, accepted: {{'samples_read': int >= 0}}"
            )
        if samples % self._global_batch:
            raise errors.UserError(
                f"data iterator state: samples_read={samples} is not a multiple of the batch "
                f"size {self._global_batch}; continue with the batch size of the saved run"
            )
        self._batches_read = samples // self._global_batch
        # A new iterator rather than a rewound one: nothing prefetched may survive.
        self._iterator = iter(self._dataset.to_iter_dataset(self._options))
        self._iterator.set_state({"next_index": self._batches_read})


def train_iterator(
    source: record_lib.Slices,
    *,
    batch_size: int,
    seed: int,
    augment: dict[str, Any] | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 4,
) -> TrainIterator:
    """Shuffled, augmented, endless batches of this process's share.

    Args:
      source: slices, of which `image`, `brain_mask` and, of `labelled.Labelled`, `unhealthy`
        are read on; or cached latents.
      batch_size: global, over all processes.
      seed: of the order and the augmentation.
      augment: options of `augment.from_options`; None = no augmentation. Cached latents are
        augmented already.
      process_index: this process.
      process_count: all processes; must divide `batch_size`.
      num_threads: reading threads.
      prefetch: batches held ready.

    Raises:
      UserError: `batch_size` not divisible by `process_count`, empty source, bad option.
    """
    import grain  # A second, with Orbax: a prediction trains nothing.

    local = _local_batch_size(batch_size, process_count)
    if len(source) == 0:
        raise errors.UserError("training data: found 0 slices, at least 1 is needed")
    if isinstance(source, cached_latents.CachedLatents):
        # Numbers are shuffled and the draw is picked per sample: the order of the slices is
        # that of the images, however many draws there are.
        dataset, transform = grain.MapDataset.range(len(source)), _PickDraw(source)
    else:
        dataset, transform = (
            grain.MapDataset.source(_TrainView(source)),
            augment_lib.from_options(augment),
        )
    # Grain's seeds have 32 bits.
    dataset = dataset.seed(int(seed) % 2**32).shuffle().repeat()
    if transform is not None:
        dataset = dataset.random_map(transform)
    dataset = dataset.batch(local, drop_remainder=True)[process_index::process_count]
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=max(prefetch, 1) if num_threads else 0
    )
    return TrainIterator(dataset, options, batch_size)


class EvalBatches:
    """One padded pass over a source; iterate as often as needed."""

    def __init__(
        self,
        source: record_lib.Slices,
        *,
        batch_size: int,
        process_index: int,
        process_count: int,
        num_threads: int,
    ):
        self._source = source
        self._global_batch = batch_size
        self._local = _local_batch_size(batch_size, process_count)
        self._process = process_index
        self._threads = num_threads

    def __len__(self) -> int:
        """Number of batches, the same on every process."""
        return -(-len(self._source) // self._global_batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not len(self):
            return
        with concurrent.futures.ThreadPoolExecutor(max(self._threads, 1)) as pool:
            ahead = self._submit(pool, 0)
            for number in range(len(self)):
                elements = ahead
                # The next batch is read while the caller works on this one.
                if number + 1 < len(self):
                    ahead = self._submit(pool, number + 1)
                yield self._collate(number, [future.result() for future in elements])

    def _indices(self, number: int) -> np.ndarray:
        start = number * self._global_batch + self._process * self._local
        return start + np.arange(self._local)

    def _submit(self, pool: concurrent.futures.Executor, number: int) -> list:
        # Padding repeats the last slice: unlike zeros it has a brain, so that no mean over
        # one divides by nothing.
        last = len(self._source) - 1
        indices = np.minimum(self._indices(number), last)
        return [pool.submit(self._source.__getitem__, int(i)) for i in indices]

    def _collate(self, number: int, elements: list[dict[str, Any]]) -> dict[str, Any]:
        indices = self._indices(number)
        valid = indices < len(self._source)
        batch = {key: np.stack([element[key] for element in elements]) for key in elements[0]}
        batch["index"] = np.where(valid, indices, -1).astype(np.int32)
        batch["valid"] = valid
        return batch


def eval_batches(
    source: record_lib.Slices,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> EvalBatches:
    """Every slice exactly once over all processes, in order, padded to full batches.

    Batches hold `image` float32 [local, H, W, 1], `brain_mask`, `segmentation` bool
    [local, H, W], `has_segmentation` bool [local] (or whatever else the elements hold), `index`
    int32 [local] (position in `source.records`; -1 for padding) and `valid` bool [local].

    Raises:
      UserError: `batch_size` (global) not divisible by `process_count`.
    """
    return EvalBatches(
        source,
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        num_threads=num_threads,
    )


def _local_batch_size(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise errors.UserError(
            f"batch_size: found {batch_size}, accepted: a positive multiple of the "
            f"{process_count} processes"
        )
    return batch_size // process_count
