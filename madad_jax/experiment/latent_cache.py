"""Fills the latent cache of a run: the frozen encoder runs once a slice and draw, not once a step.

Each process encodes its share of the shards on its own devices, so that no process waits for
another, and a shard on disk is never encoded again: a stopped run continues where it stopped.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from etils import epath

from madad_jax.assembly import parts as parts_lib
from madad_jax.checkpoints import digests
from madad_jax.core import json_digest
from madad_jax.core.types import Params
from madad_jax.data.input import augment as augment_lib
from madad_jax.data.input import cached_latents, pipeline
from madad_jax.data.sources import shards
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import inputs as inputs_lib
from madad_jax.experiment import workdir as workdir_lib
from madad_jax.models import interfaces
from madad_jax.runtime import stop as stop_lib
from madad_jax.runtime import watchdog

_LOG = logging.getLogger(__name__)


def folder_of(parts: parts_lib.Parts, workdir: workdir_lib.Workdir) -> epath.Path:
    """Where caches are kept. Raises UserError for a folder that is not local."""
    named = parts.data.latents_dir
    if named:
        return shards.require_local(named, "data.latents_dir")
    return shards.require_local(workdir.folder / "latents", "data.latents=cached, --workdir")


def prepare(
    parts: parts_lib.Parts,
    workdir: workdir_lib.Workdir,
    inputs: inputs_lib.Inputs,
    stop: stop_lib.GracefulStop,
    params: Params,
) -> dict[str, cached_latents.CachedLatents]:
    """The cached `train` and `val` splits, written first where they are missing or damaged.

    Args:
      parts: of the run; they decide draws, augmentation, seed and size.
      workdir: its folder.
      inputs: its slices.
      stop: asks for an end between batches.
      params: weights of the autoencoder.

    Raises:
      UserError: a folder that cannot be written, or data that cannot be read.
      Stopped: a signal asked for the end; whole shards are kept.
    """
    network = parts.autoencoder.network
    layout, draws = _layout(parts, network), _draws(parts)
    facts = _facts(parts, inputs, params, draws)
    folder = folder_of(parts, workdir) / json_digest.json_digest(facts)[:16]
    counts = {split: len(inputs.source(split)) * k for split, k in draws.items()}
    shares = [part for split, n in counts.items() for part in cached_latents.list_parts(split, n)]
    # Every n-th part, so that the large training split is shared evenly.
    ours = shares[jax.process_index() :: jax.process_count()]
    started = time.monotonic()

    def wait() -> None:
        stop_lib.check("latents: waiting for another run", shared=False)

    with cached_latents.lock(folder, jax.process_index(), wait):
        cached_latents.remove_damaged(folder, ours)
        left = sum(p.stop - p.start for p in ours if not (folder / p.name).exists())
        with tqdm.tqdm(
            total=left, desc="latents", unit="slice", disable=not left or not workdir.primary
        ) as bar:
            encode = _Encoder(parts, inputs, stop, params, layout, draws, bar)
            written = cached_latents.fill(folder, ours, encode)
        watchdog.wait_for_all("latents")
        if workdir.primary:
            cached_latents.finish(folder, shares, facts)
    watchdog.wait_for_all("latents_whole")
    _LOG.info(
        "latents: %d of train, %d of val, %s (%d encoded in %.0f s)",
        counts["train"],
        counts["val"],
        folder,
        written,
        time.monotonic() - started,
    )
    return {
        split: cached_latents.CachedLatents(folder, split, draws=k, layout=layout)
        for split, k in draws.items()
    }


def _layout(parts: parts_lib.Parts, network: interfaces.Autoencoder) -> cached_latents.Layout:
    size = parts.data.image_size
    side = size // network.factor
    return cached_latents.Layout(size, (side, side, network.latent_channels))


def _draws(parts: parts_lib.Parts) -> dict[str, int]:
    """Draws by split. Without augmentation they would all be equal."""
    data = parts.data
    return {"train": 1 if data.augment == "none" else data.latent_draws, "val": 1}


def _facts(
    parts: parts_lib.Parts, inputs: inputs_lib.Inputs, params: Params, draws: dict[str, int]
) -> dict[str, Any]:
    """All that decides the content of the cache."""
    return {
        "format": cached_latents.FORMAT,
        "autoencoder": json_digest.json_digest(digests.tree_digests(params)),
        "encoder": dict(parts.autoencoder.encoder),
        "matmul_precision": parts.matmul_precision,
        "image_size": parts.data.image_size,
        "augment": parts.data.augment,
        "seed": parts.seed,
        "draws": draws,
        "data": {split: inputs.source(split).fingerprint() for split in draws},
    }


class _Encoder:
    """Records of a shard, batch by batch."""

    def __init__(
        self,
        parts: parts_lib.Parts,
        inputs: inputs_lib.Inputs,
        stop: stop_lib.GracefulStop,
        params: Params,
        layout: cached_latents.Layout,
        draws: dict[str, int],
        bar: tqdm.tqdm,
    ):
        self._data, self._inputs, self._stop = parts.data, inputs, stop
        self._layout, self._draws, self._bar = layout, draws, bar
        mine = [d for d in inputs.mesh.devices.flat if d.process_index == jax.process_index()]
        self._mesh = mesh_lib.make_mesh(devices=mine)
        whole = mesh_lib.replicated(self._mesh)
        # One copy of the weights per host, on a mesh of its own devices alone.
        local = jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), params)
        self._params = jax.device_put(local, whole)
        # A process encodes alone: its share of the global batch, rounded up to its devices.
        share = max(1, inputs.eval_batch_size // jax.process_count())
        self._batch_size = -(-share // len(mine)) * len(mine)
        self._batches = 0
        network = parts.autoencoder.network

        def encode(params: Params, image: jax.Array) -> tuple[jax.Array, ...]:
            moments = network.encode(params, image)
            # Bits of bfloat16 as integers: numpy, and the shards, know no bfloat16.
            return tuple(
                jax.lax.bitcast_convert_type(m.astype(jnp.bfloat16), jnp.uint16) for m in moments
            )

        rows = mesh_lib.batch_sharding(self._mesh)
        self._encode = jax.jit(encode, in_shardings=(whole, rows), out_shardings=(rows, rows))

    def __call__(self, part: cached_latents.Part) -> Iterator[bytes]:
        augment = None
        if part.split == "train" and self._data.augment != "none":
            augment = augment_lib.from_options({"style": self._data.augment})
        images = cached_latents.Draws(
            self._inputs.source(part.split),
            draws=self._draws[part.split],
            augment=augment,
            seed=self._data.seed,
            start=part.start,
            stop=part.stop,
        )
        batches = pipeline.eval_batches(
            images, batch_size=self._batch_size, num_threads=self._data.num_threads
        )
        for batch in batches:
            self._check_stop()
            watchdog.progress(f"latents of {part.split}: batch {self._batches}")
            image = jax.device_put(batch["image"], mesh_lib.batch_sharding(self._mesh))
            mean, logvar = (np.asarray(m) for m in self._encode(self._params, image))
            for i in np.flatnonzero(batch["valid"]):
                yield self._layout.pack(mean[i], logvar[i], batch["brain_mask"][i])
            self._bar.update(int(batch["valid"].sum()))

    def _check_stop(self) -> None:
        """Between batches. Processes that encode different shards share no step to agree on, so
        that a job of several hosts stops once it trains."""
        if jax.process_count() == 1 and self._stop.requested(self._batches):
            raise stop_lib.Stopped(
                self._stop.signal, f"latents: stopped after {self._bar.n} slices"
            )
        self._batches += 1
