"""The latent cache on disk: posterior mean and log-variance of every slice, drawn k times.

    <folder>/<key>/train-00000-of-00012.array_record ...   record slice * draws + draw
    <folder>/<key>/val-00000-of-00001.array_record         one draw, not augmented
    <folder>/<key>/manifest.json                           when whole: facts, digests of the shards

The key is a digest of all that decides the content (autoencoder weights, data, augmentation,
seed, size), so that a cache of something else is never found. A record holds the mean and the
log-variance as bfloat16 (bit patterns, little endian, [h, w, c]) and the brain mask's bits, which
still gate where noise may fall. Who fills it: `madad_jax/experiment/latent_cache.py`.
"""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, UInt16

from madad_jax.core import atomic_files, errors, folder_lock, json_file
from madad_jax.data.input import augment as augment_lib
from madad_jax.data.sources import record as record_lib
from madad_jax.data.sources import shards

_LOG = logging.getLogger(__name__)

FORMAT = 1  # a part of the key: older caches are not found and written anew
RECORDS_PER_SHARD = 1024  # what a stopped run has to encode again at most


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shapes of a record: `image_size` px a side of the brain mask, `latent` = (h, w, c)."""

    image_size: int
    latent: tuple[int, int, int]

    def pack(
        self,
        mean: UInt16[np.ndarray, "h w c"],
        logvar: UInt16[np.ndarray, "h w c"],
        brain_mask: Bool[np.ndarray, "H W"],
    ) -> bytes:
        """bfloat16 bit patterns and a mask as one record."""
        # Little endian on any machine: a cache may be filled on one and read on another.
        parts = (mean.astype("<u2"), logvar.astype("<u2"), np.packbits(brain_mask))
        return b"".join(part.tobytes() for part in parts)

    def unpack(self, content: bytes) -> dict[str, np.ndarray]:
        """`latent_mean`, `latent_logvar` float32 [h, w, c] and `brain_mask` bool [H, W].

        Raises UserError for a record of another length.
        """
        count, side = math.prod(self.latent), self.image_size
        wanted = 4 * count + -(-side * side // 8)
        # The length is enough: shards carry checksums of their own.
        if len(content) != wanted:
            raise errors.UserError(
                f"latent cache: a record has {len(content)} bytes and {wanted} were expected; "
                "remove the cache, it will be written anew"
            )
        bits = np.frombuffer(content, "<u2", 2 * count)
        mean, logvar = _from_bfloat16(bits).reshape(2, *self.latent)
        packed = np.frombuffer(content, np.uint8, offset=4 * count)
        mask = np.unpackbits(packed, count=side * side).astype(bool).reshape(side, side)
        return {"latent_mean": mean, "latent_logvar": logvar, "brain_mask": mask}


def _from_bfloat16(bits: UInt16[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    """Exact: bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Draws:
    """The records `start` to `stop` of a split as images, before they are encoded (`Slices`).

    Draw d of slice i is augmented by a generator of (seed, i, d) alone, so that a shard comes out
    the same whenever and wherever it is written.
    """

    def __init__(
        self,
        source: record_lib.Slices,
        *,
        draws: int,
        augment: augment_lib.Augment | None,
        seed: int,
        start: int,
        stop: int,
    ):
        self._source = source
        self._draws = draws
        self._augment = augment
        self._seed = seed
        self._start = start
        self._stop = stop

    def __len__(self) -> int:
        """Number of records."""
        return self._stop - self._start

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`image` float32 [H, W, 1] and `brain_mask` bool [H, W]."""
        number, draw = divmod(self._start + index, self._draws)
        element = self._source[number]
        # Never a segmentation: what training reads is made from this.
        element = {key: element[key] for key in ("image", "brain_mask")}
        if self._augment is None:
            return element
        return self._augment(element, np.random.default_rng([self._seed, number, draw]))


class CachedLatents:
    """One split of a cache: random access to slices and to their draws (`Slices`)."""

    def __init__(self, folder: epath.Path, split: str, *, draws: int, layout: Layout):
        """Opens the split. Raises UserError when it is not whole."""
        self._reader = shards.Reader(shards.list_shards(folder, split))
        self._layout = layout
        self.draws = draws

    def __len__(self) -> int:
        """Number of slices."""
        return len(self._reader) // self.draws

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The first draw of the slice `index`, as `Layout.unpack`."""
        return self.read(index, 0)

    def read(self, index: int, draw: int) -> dict[str, np.ndarray]:
        """One draw of the slice `index`. Raises UserError for a damaged record."""
        return self._layout.unpack(self._reader[int(index) * self.draws + draw])


@dataclasses.dataclass(frozen=True)
class Part:
    """The records of one shard: `start` to `stop` of a split."""

    split: str
    name: str
    start: int
    stop: int


def list_parts(split: str, records: int) -> list[Part]:
    """How the records of a split are cut into shards."""
    count = max(1, -(-records // RECORDS_PER_SHARD))
    # Even shares: processes encode whole shards, and none should wait for another.
    edges = [records * i // count for i in range(count + 1)]
    return [
        Part(split, shards.shard_name(split, i, count), edges[i], edges[i + 1])
        for i in range(count)
    ]


def read_digests(folder: epath.Path) -> dict[str, str]:
    """Digests by shard name of a finished cache; {} when it is not finished."""
    try:
        found = json_file.read_object(folder / "manifest.json").get("shards")
    except errors.UserError:
        return {}
    return found if isinstance(found, dict) else {}


def remove_damaged(folder: epath.Path, wanted: Iterable[Part]) -> None:
    """Removes shards of a finished cache whose bytes are not those that were written."""
    digests = read_digests(folder)
    for part in wanted:
        path = folder / part.name
        if (
            part.name in digests
            and path.exists()
            and atomic_files.sha256(path) != digests[part.name]
        ):
            _LOG.warning("latents: '%s' is damaged (its sha256 differs); written anew", path)
            path.unlink()


def fill(
    folder: epath.Path, wanted: Iterable[Part], encode: Callable[[Part], Iterable[bytes]]
) -> int:
    """Writes the shards that are not there yet; returns the number of records written."""
    written = 0
    for part in wanted:
        if not (folder / part.name).exists():
            written += shards.write(folder / part.name, encode(part))
    return written


def finish(folder: epath.Path, wanted: Iterable[Part], facts: dict[str, Any]) -> None:
    """Writes the manifest, unless it says the same already.

    Raises UserError when a shard is missing: hosts that share no folder see only their own.
    """
    digests = {}
    for part in wanted:
        path = folder / part.name
        if not path.exists():
            raise errors.UserError(
                f"'{path}' is missing; data.latents_dir must be one folder that all hosts see"
            )
        # Of what lies there now: other hosts wrote shards that this one never saw.
        digests[part.name] = atomic_files.sha256(path)
    if digests == read_digests(folder):
        return
    text = json.dumps({"facts": facts, "shards": digests}, indent=1, sort_keys=True)
    atomic_files.write_text(folder / "manifest.json", text)


def lock(
    folder: epath.Path, process: int, wait: Callable[[], None] = lambda: None
) -> contextlib.AbstractContextManager[None]:
    """Only one run fills a shared cache; others wait here and then find it full.

    Args:
      folder: of the cache.
      process: of the job; each fills its own share.
      wait: called while another run holds the lock; may raise.

    Raises:
      UserError: `folder` cannot be written.
    """
    return folder_lock.hold(folder, "latents", name=f".lock-{process}", wait=wait)
