"""The "unified" convolutional autoencoder of the brain UAD baselines, dense or spatial.

Baur et al., "Autoencoders for unsupervised anomaly segmentation in brain MR images: a
comparative study" (Medical Image Analysis 2021), and the settings of its public repository:

    encoder     `levels` x (5x5 convolution of stride 2, norm, leaky ReLU 0.3), widths
                min(128, 32 * 2^i); 128 pixels -> 8 x 8 x 128
    dense       1x1 convolution to an eighth of the channels, dense to `latent` numbers, dense
                back, 1x1 convolution; variational: two dense maps give mean and log sigma
    spatial     the 8 x 8 x 128 map itself
    decoder     norm, ReLU, `levels` x (5x5 transposed convolution of stride 2, norm, leaky
                ReLU), widths max(32, 128 / 2^i), and a 1x1 convolution; no skip connections

Differs: GroupNorm in place of batch normalisation, whose running averages would be a state
beside the weights and whose answer for a slice would depend on the others in its batch.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.models.layers import basic, initialize

KINDS = ("dense", "spatial")
SLOPE = 0.3  # of the leaky ReLU below zero (Keras' default)


class _Strided(nn.Module):
    """5x5 convolution with stride 2, padded as "SAME" pads it: (1, 2).

    Written as a 3x3 convolution of 2x2 squares folded into channels, the same sums: XLA's code
    for CPUs runs the gradient of a strided convolution some ten times slower.
    """

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww d"]:
        channels = x.shape[-1]
        # Of the 5x5 kernel that a checkpoint holds, not of the folded 3x3 one.
        draw = initialize.torch_default(25 * channels)
        kernel = self.param("kernel", draw, (5, 5, channels, self.features))
        bias = self.param("bias", initialize.zeros, (self.features,))
        # The square left of a cell gives it one of its two columns.
        k = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        k = k.reshape(3, 2, 3, 2, channels, self.features).transpose(0, 2, 1, 3, 4, 5)
        k = k.reshape(3, 3, 4 * channels, self.features)
        return _convolve(basic.space_to_depth(x, 2), k, self.dtype) + bias.astype(self.dtype)


class _Up(nn.Module):
    """5x5 transposed convolution with stride 2: doubles both sides. Written as a 3x3
    convolution to the four pixels of each cell, the same sums."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww d"]:
        channels = x.shape[-1]
        # A cell of the result is reached by a quarter of the 25 taps on average.
        draw = initialize.torch_default(max(1, 25 * channels // 4))
        kernel = self.param("kernel", draw, (5, 5, channels, self.features))
        bias = self.param("bias", initialize.zeros, (self.features,))
        # The even pixel of a cell reads taps 1 and 3, the odd one 0, 2 and 4.
        k = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
        k = k.reshape(3, 2, 3, 2, channels, self.features)[:, ::-1, :, ::-1]
        k = k.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, channels, 4 * self.features)
        y = basic.depth_to_space(_convolve(x, k, self.dtype), 2)
        return y + bias.astype(self.dtype)


def _convolve(x: jax.Array, kernel: jax.Array, dtype: str) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class BottleneckAutoencoder(nn.Module):
    """Image -> (reconstruction, mean, log sigma or None)."""

    kind: str = "dense"
    variational: bool = False
    levels: int = 4
    channels: int = 32
    max_channels: int = 128
    latent: int = 128
    dropout: float = 0.1
    num_groups: int = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "b H W c"], train: bool = False
    ) -> tuple[Float[jax.Array, "b H W c"], jax.Array, jax.Array | None]:
        """Sides must be multiples of 2 ** levels. With `train`, dropout is active and the
        latent of a variational one is drawn; without, it is the mean."""
        h = x
        for i in range(self.levels):
            width = min(self.max_channels, self.channels * 2**i)
            conv = _Strided(width, self.dtype, name=f"enc_conv_{i}")
            h = nn.leaky_relu(self._norm(f"enc_norm_{i}")(conv(h)), SLOPE)
        bottleneck = self._dense if self.kind == "dense" else self._spatial
        h, mean, log_sigma = bottleneck(h, nn.Dropout(self.dropout, deterministic=not train), train)
        h = nn.relu(self._norm("dec_norm")(h))
        for i in range(self.levels):
            width = max(self.channels, self.max_channels // 2**i)
            h = _Up(width, self.dtype, name=f"dec_conv_{i}")(h)
            h = nn.leaky_relu(self._norm(f"dec_norm_{i}")(h), SLOPE)
        return basic.Linear(x.shape[-1], name="dec_out")(h), mean, log_sigma

    def _norm(self, name: str) -> basic.GroupNorm:
        return basic.GroupNorm(self.num_groups, dtype=self.dtype, name=name)

    def _spatial(self, h: jax.Array, drop: nn.Dropout, train: bool):
        del train
        h = drop(h)
        return h, h, None

    def _dense(self, h: jax.Array, drop: nn.Dropout, train: bool):
        shape, width = h.shape, h.shape[-1]
        h = basic.Linear(max(1, width // 8), name="squeeze")(h)
        inner = h.shape[1:]
        flat = h.reshape(shape[0], -1)
        mean = drop(basic.Linear(self.latent, name="mean")(flat))
        log_sigma, z = None, mean
        if self.variational:
            log_sigma = drop(basic.Linear(self.latent, name="log_sigma")(flat))
            if train:
                # A stream of its own: dropout and the draw must not share bits.
                noise = jax.random.normal(self.make_rng("latent"), mean.shape)
                z = mean + jnp.exp(log_sigma) * noise
        h = drop(basic.Linear(math.prod(inner), name="expand")(z))
        return basic.Linear(width, name="unsqueeze")(h.reshape(-1, *inner)), mean, log_sigma
