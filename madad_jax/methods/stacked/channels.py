"""Several contrasts, some missing, and neighbouring slices: what methods on them share.

    x       [b,H,W,C]   C = contrasts * (1 + 2 neighbours), the slice's own contrasts first
    o       [b,C]       what is there;      d <= o  what the network is shown

Training drops contrasts: each sample shows a random non-empty subset of those that it has, every
subset as likely, and all of them with probability `keep_all` at least. A network is given the
shown channels and a plane of ones for each; a missing one has a plane of zeros, so that it cannot
be taken for a dark picture. So one network serves every subset (ours; the drop-out of channels is
common, as in HeMIS, 2016).
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import autoencoder as autoencoder_lib

MISSING = ("learned", "zero")
FUSIONS = ("largest", "mean", "joint")


@dataclasses.dataclass(frozen=True)
class Channels:
    """Channels of an image, and how training treats them.

    Attributes:
      contrasts: pictures of the slice itself.
      neighbours: slices below and above it, each with all contrasts.
      missing: what stands for the latent of a missing channel: a `learned` number, or `zero`.
      keep_all: least probability that a training sample keeps every contrast that it has.
      same_blocks: share of the samples whose noised blocks are the same in all channels.
      hidden: share of the drawn anomalies that a contrast does not show.
      fusion: of a mask at image resolution: the `largest` or the `mean` of the probabilities that
        a network for each contrast gives, or `joint`, one network that sees all of them.
    """

    contrasts: int
    neighbours: int = 0
    missing: str = "learned"
    keep_all: float = 0.3
    same_blocks: float = 0.7
    hidden: float = 0.3
    fusion: str = "joint"  # runs before this option

    def __post_init__(self):
        if self.missing not in MISSING:
            raise errors.UserError(
                f"contrasts.missing: found {self.missing!r}, accepted: {', '.join(MISSING)}"
            )
        if self.fusion not in FUSIONS:
            raise errors.UserError(
                f"contrasts.fusion: found {self.fusion!r}, accepted: {', '.join(FUSIONS)}"
            )
        for name in ("keep_all", "same_blocks", "hidden"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise errors.UserError(f"contrasts.{name}: found {value}, accepted: 0 to 1")

    @property
    def repeats(self) -> int:
        """Slices of an element: its own and the neighbours."""
        return 1 + 2 * self.neighbours

    @property
    def count(self) -> int:
        """All channels."""
        return self.contrasts * self.repeats

    def drop(self, key: jax.Array, exists: Bool[jax.Array, "b C"]) -> Bool[jax.Array, "b C"]:
        """What each training sample is shown of what it has; neighbours go with their contrast.

        A sample whose own slice has no contrast at all is shown nothing.
        """
        m = self.contrasts
        # Every non-empty subset is a row, and a sample draws among those that it has.
        subsets = np.array(list(itertools.product((False, True), repeat=m)))[1:]
        own = exists[:, :m]
        possible = ~(subsets[None] & ~own[:, None]).any(-1)
        full = (subsets[None] == own[:, None]).all(-1)
        number = jnp.maximum(possible.sum(-1, keepdims=True), 1)
        keep = jnp.maximum(self.keep_all, 1.0 / number)
        others = (1.0 - keep) / jnp.maximum(number - 1, 1)
        share = jnp.where(full, keep, others)
        # A floor below the logarithm: keep_all=1 leaves the others out.
        logits = jnp.where(possible & (share > 0), jnp.log(jnp.maximum(share, 1e-30)), -jnp.inf)
        logits = jnp.where(possible.any(-1, keepdims=True), logits, 0.0)
        chosen = jnp.asarray(subsets)[jax.random.categorical(key, logits)]
        return jnp.tile(chosen, (1, self.repeats)) & exists


def mean_shown(
    maps: Float[jax.Array, "b H W m"], shown: Bool[jax.Array, "b m"]
) -> Float[jax.Array, "b H W"]:
    """The mean over the channels that are there; those that are not are not read."""
    weight = shown[:, None, None, :]
    total = jnp.where(weight, maps, 0.0).sum(-1)
    return total / jnp.maximum(shown.sum(-1), 1)[:, None, None]


def largest_shown(
    maps: Float[jax.Array, "b H W m"], shown: Bool[jax.Array, "b m"]
) -> Float[jax.Array, "b H W"]:
    """The largest, at least 0, over the channels that are there; others are not read."""
    return jnp.where(shown[:, None, None, :], maps, 0.0).max(-1)


def fold(x: Shaped[jax.Array, "b H W C"]) -> Shaped[jax.Array, "n H W 1"]:
    """Channels as samples of their own, those of a sample one after the other."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3], 1)


def unfold(x: Float[jax.Array, "n h w c"], batch: int) -> Float[jax.Array, "b h w C c"]:
    """Undoes `fold`, for arrays of any depth."""
    return jnp.moveaxis(x.reshape(batch, -1, *x.shape[1:]), 1, 3)


@dataclasses.dataclass(frozen=True)
class ContrastAutoencoder(autoencoder_lib.KLAutoencoder):
    """One autoencoder of one channel for all contrasts: each step every sample brings one channel
    that it has, drawn at random."""

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters for images of one channel."""
        image = batch_spec["image"]
        one = jax.ShapeDtypeStruct((*image.shape[:3], 1), image.dtype)
        return super().init(key, batch_spec | {"image": one})

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The loss of one available channel a sample."""
        logits = jnp.where(batch["available"], 0.0, -jnp.inf)
        chosen = jax.random.categorical(jax.random.fold_in(key, 1), logits)
        image = jnp.take_along_axis(batch["image"], chosen[:, None, None, None], axis=-1)
        return super().loss(params, frozen, batch | {"image": image}, key, train=train)

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Of the first channel."""
        first = batch | {"image": batch["image"][..., :1]}
        return super().anomaly_map(params, frozen, first, key)
