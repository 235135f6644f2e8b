"""PatchGAN discriminator of LDM's autoencoder loss (Isola et al. 2017).

Kernel 4, stride 2 for `num_layers` convolutions, stride 1 for two more; BatchNorm after all but
the first and the last; LeakyReLU 0.2. One logit per patch. 2,763,585 parameters at one channel.

BatchNorm keeps no running averages. They would only be read in evaluation mode, and a
discriminator is never evaluated: every use of it is a training step, and there the published
code takes the statistics of the batch at hand too. The function stays pure. Under data
parallelism the statistics are those of the global batch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import basic, initialize

KERNEL = 4
SLOPE = 0.2


class BatchNorm(nn.Module):
    """Batch statistics only, biased variance, eps 1e-5; scale ~ N(1, 0.02)."""

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Float[jax.Array, "b h w c"]:
        """Normalises each channel over (b, h, w); float32 out."""
        scale = self.param("scale", initialize.normal(0.02, mean=1.0), (x.shape[-1],))
        bias = self.param("bias", initialize.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=(0, 1, 2))
        variance = jnp.mean(jnp.square(centred), axis=(0, 1, 2))
        return centred * (jax.lax.rsqrt(variance + 1e-5) * scale) + bias


class PatchDiscriminator(nn.Module):
    """Image -> patch logits; hinge loss reads them as real (> 0) or decoded (< 0)."""

    channels: int = 64
    num_layers: int = 3
    dtype: str = "float32"

    @nn.compact
    def __call__(self, image: Float[jax.Array, "b H W c"]) -> Float[jax.Array, "b h w 1"]:
        """[b, H, W, c] in [-1, 1] -> [b, H/2^n - 2, W/2^n - 2, 1] logits, float32."""
        # The two last convolutions take a cell each; below this side nothing would be left.
        if min(image.shape[1:3]) < 3 * 2**self.num_layers:
            raise errors.UserError(
                f"discriminator.num_layers: images of {image.shape[1]}x{image.shape[2]} pixels "
                f"are too small for {self.num_layers} layers; sides of at least "
                f"{3 * 2**self.num_layers} are accepted"
            )

        def conv(features: int, stride: int, name: str, bias: bool, dtype: str) -> basic.Conv:
            return basic.Conv(
                features, KERNEL, stride, use_bias=bias, normal_std=0.02, dtype=dtype, name=name
            )

        h = conv(self.channels, 2, "conv_0", True, self.dtype)(image)
        h = nn.leaky_relu(h, SLOPE)
        for i in range(1, self.num_layers + 1):
            stride = 2 if i < self.num_layers else 1
            features = self.channels * min(2**i, 8)
            h = conv(features, stride, f"conv_{i}", False, self.dtype)(h)
            h = nn.leaky_relu(BatchNorm(name=f"norm_{i}")(h), SLOPE)
        # Logits in float32, as every value that a loss reads.
        return conv(1, 1, f"conv_{self.num_layers + 1}", True, "float32")(h)
