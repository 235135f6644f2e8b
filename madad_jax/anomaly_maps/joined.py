"""Several signals of one slice in one map: a weighted sum of log-odds (ours).

    map = sigmoid( a logit p + b log d + c logit q )

p is the probability of a mask at image resolution, d the smoothed deviation from the atlas of
healthy slices in units of `_TYPICAL`, q the probability of a mask of latent cells. The default
weights are rounded from logistic regressions on validation slices with drawn anomalies. Which
anomalies to fit was decided on slices that served development (docs/methods.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors

_TYPICAL = 0.8  # spreads: the mean deviation of what is healthy
_SIGMA = 1 / 64  # of the smoothing of deviation and cells, share of the side
_LEAST = 1e-6  # a probability of 0 or 1 has no logit


@dataclasses.dataclass(frozen=True)
class Join:
    """Weights of the signals; 0 leaves one out."""

    pixels: float = 1.0
    atlas: float = 0.3
    cells: float = 0.15

    def __post_init__(self):
        if self.pixels <= 0 or min(self.atlas, self.cells) < 0:
            raise errors.UserError(
                f"inference.join: found {self.pixels}, {self.atlas}, {self.cells}; accepted: "
                "pixels above 0, atlas and cells at least 0"
            )


def join(
    pixels: Float[jax.Array, "b H W"],
    deviation: Float[jax.Array, "b H W"] | None,
    cells: Float[jax.Array, "b H W"],
    brain_masks: Bool[jax.Array, "b H W"],
    weights: Join,
) -> Float[jax.Array, "b H W"]:
    """The map in [0, 1], 0 outside the brain.

    Args:
      pixels: probabilities.
      deviation: signed, in spreads; None: there is no atlas.
      cells: probabilities, enlarged to the image.
      brain_masks: True in the brain.
      weights: of the three.
    """
    score = weights.pixels * _logit(pixels)
    if deviation is not None and weights.atlas > 0:
        far = smooth_inside(jnp.abs(deviation), brain_masks)
        score = score + weights.atlas * jnp.log((far + 1e-3) / _TYPICAL)
    if weights.cells > 0:
        score = score + weights.cells * _logit(smooth_inside(cells, brain_masks))
    return jax.nn.sigmoid(score) * brain_masks


def smooth_inside(
    maps: Float[jax.Array, "b H W"], brain_masks: Bool[jax.Array, "b H W"]
) -> Float[jax.Array, "b H W"]:
    """Gaussian means over the brain alone: at its rim half the window is empty."""
    brain = brain_masks.astype(jnp.float32)
    sigma = _SIGMA * maps.shape[1]
    share = difference.gaussian_smooth(brain, sigma)
    return difference.gaussian_smooth(maps * brain, sigma) / jnp.maximum(share, 0.05)


def _logit(p: Float[jax.Array, "b H W"]) -> Float[jax.Array, "b H W"]:
    p = jnp.clip(p, _LEAST, 1.0 - _LEAST)
    return jnp.log(p) - jnp.log1p(-p)
