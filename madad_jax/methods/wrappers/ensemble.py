"""Several looks at one slice, and several signals in one map. Ours; off in every published preset.

A wrapper around any method: training and weights are the method's own, only the score changes.

* `draws`: the mean of the maps over so many draws of the sampler's noise. A sampler without noise
  (eta 0) gives the same map each time.
* `flips`: each draw also of the mirrored slice, mirrored back.
* `combine`: one more map, `combined_map`, of the signals (`map`, `latent_map`, `mask_map`): their
  "mean", "geometric" mean or "max"; or "mahalanobis", |x - mean| / (spread + 0.05) of the input
  from the reconstructions over draws and flips, clipped at 4 and smoothed.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors, signals
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import base

COMBINE = ("none", "mean", "geometric", "max", "mahalanobis")
# In units of intensities in [-1, 1]. Without the floor the background, where all
# reconstructions agree, would have infinite distances.
_SPREAD_FLOOR = 0.05
# Standard deviations that count as certainly abnormal; the map is divided by it into [0, 1].
_FARTHEST = 4.0


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The method's maps over several looks; `sigma` of the smoothing in pixels."""

    method: base.Method
    draws: int = 1
    flips: bool = False
    combine: str = "none"
    sigma: float = 0.0

    def __post_init__(self):
        if self.draws < 1:
            raise errors.UserError(f"ensemble.draws: found {self.draws}, must be at least 1")
        if self.combine not in COMBINE:
            raise errors.UserError(
                f"ensemble.combine: found {self.combine!r}, accepted: {', '.join(COMBINE)}"
            )
        if self.combine == "mahalanobis" and self.draws * (1 + self.flips) < 2:
            raise errors.UserError(
                "ensemble.combine: mahalanobis needs a spread; set ensemble.draws above 1 (with "
                "sampler.eta above 0) or ensemble.flips"
            )

    @property
    def name(self) -> str:
        """The method's."""
        return self.method.name

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """The method's parameters."""
        return self.method.init(key, batch_spec)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The method's loss."""
        return self.method.loss(params, frozen, batch, key, train=train)

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """As the method's, averaged, and `combined_map` [b,H,W] if asked for."""
        # One draw keeps the key as it is, so that the map equals the method's own to the bit.
        keys = jax.random.split(key, self.draws) if self.draws > 1 else key[None]
        mirrored = jnp.zeros(len(keys), bool)
        if self.flips:
            # A slice and its mirror image share a key: what differs between them is the flip.
            keys = jnp.concatenate([keys, keys])
            mirrored = jnp.arange(len(keys)) >= self.draws
        arrays = {k: batch[k] for k in ("image", "brain_mask")}

        def look(one: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
            k, flip = one
            seen = {n: jnp.where(flip, jnp.flip(v, 2), v) for n, v in arrays.items()}
            out = self.method.anomaly_map(params, frozen, seen, k)
            out = {n: v for n, v in out.items() if n.endswith("map") or n == "reconstruction"}
            return {n: jnp.where(flip, jnp.flip(v, 2), v) for n, v in out.items()}

        # One look after the other: memory is that of one.
        looks = jax.lax.map(look, (keys, mirrored))
        out = {n: v.mean(0) for n, v in looks.items()}
        if self.combine == "mahalanobis":
            out["combined_map"] = self._distance(batch, looks["reconstruction"])
        elif self.combine != "none":
            found = [out[name] for name in signals.SINGLE if name in out]
            out["combined_map"] = combine_maps(jnp.stack(found), self.combine)
        return out

    def _distance(self, batch: Batch, reconstructions: jax.Array) -> jax.Array:
        spread = reconstructions.std(0) + _SPREAD_FLOOR
        far = jnp.abs(batch["image"] - reconstructions.mean(0)) / spread
        maps = jnp.minimum(far, _FARTHEST)[..., 0] / _FARTHEST
        return difference.gaussian_smooth(maps * batch["brain_mask"], self.sigma)


def combine_maps(maps: Float[jax.Array, "s b H W"], kind: str) -> Float[jax.Array, "b H W"]:
    """One map of several in [0, 1]: their "mean", "geometric" mean or "max"."""
    if kind == "mean":
        return maps.mean(0)
    if kind == "max":
        return maps.max(0)
    # The logarithm needs a floor; the last factor gives back the exact 0 that it took away.
    return jnp.exp(jnp.log(jnp.clip(maps, 1e-12, 1.0)).mean(0)) * (maps > 0).all(0)
