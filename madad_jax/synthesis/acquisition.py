"""Another appearance of a healthy slice, on device: what differs between scanners and days.

    x -> G * (f (x ^ g)) + n      g contrast (gamma), f a smooth field, G a blur, n white noise

Each slice has its own draws. The brain stays where it is, apart from a mirror image for a half.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.core import errors
from madad_jax.synthesis import smooth_noise


@dataclasses.dataclass(frozen=True)
class Options:
    """How far slices are varied; all 0 leaves them.

    Attributes:
      gamma: deviation of the logarithm of the exponent.
      field: largest deviation of the smooth factor from 1.
      blur: share of the slices that are blurred, by up to one pixel.
      noise: largest deviation of the noise, of the range [0, 1].
      flip: share of the slices that are mirrored, left for right.
    """

    gamma: float = 0.2
    field: float = 0.08
    blur: float = 0.3
    noise: float = 0.03
    flip: float = 0.5

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not 0.0 <= value <= 1.0:
                raise errors.UserError(f"appearance.{name}: found {value}, accepted: 0 to 1")


def vary(
    key: jax.Array,
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    options: Options,
) -> tuple[Float[jax.Array, "b H W 1"], Bool[jax.Array, "b H W"]]:
    """(slices in [-1, 1] with background -1, brain masks) of another appearance."""
    k_flip, k_gamma, k_field, k_size, k_blur, k_width, k_noise, k_white = jax.random.split(key, 8)
    one = (len(images), 1, 1)
    flip = jax.random.bernoulli(k_flip, options.flip, one)
    x = jnp.where(flip, images[:, :, ::-1, 0], images[..., 0])
    brain = jnp.where(flip, brain_masks[:, :, ::-1], brain_masks)
    x = jnp.where(brain, jnp.maximum((x + 1.0) * 0.5, 0.0), 0.0)
    exponent = jnp.exp(options.gamma * jax.random.normal(k_gamma, one))
    # The floor: the gradient of 0 ^ g is no number.
    x = jnp.where(x > 0, jnp.maximum(x, 1e-6) ** exponent, 0.0)
    size = options.field * jax.random.uniform(k_size, one)
    x = x * (1.0 + size * smooth_noise.draw(k_field, x.shape, max(8, x.shape[1] // 2)))
    chosen = jax.random.bernoulli(k_blur, options.blur, one)
    width = jax.random.uniform(k_width, one) * chosen
    x = x + width * (smooth_noise.blur(x) - x)
    deviation = options.noise * jax.random.uniform(k_noise, one)
    x = x + deviation * jax.random.normal(k_white, x.shape)
    out = jnp.where(brain, jnp.clip(x, 0.0, 1.0) * 2.0 - 1.0, -1.0)
    return out[..., None], brain
