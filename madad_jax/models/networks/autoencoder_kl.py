"""KL-regularised convolutional autoencoder with LDM's geometry (Rombach et al. 2022).

Encoder: conv, then per level `num_res_blocks` residual blocks and a stride-2 convolution
(not after the last level), a middle (block, attention, block), GroupNorm, swish, conv. Decoder:
the mirror image with one block more per level and nearest-neighbour doubling. A 1x1 convolution
stands on each side of the latent. Down-sampling pads one zero on the right and at the bottom
only; GroupNorm's eps is 1e-6; the log-variance is clamped to [-30, 20].

`patch` > 1 folds squares of so many pixels into channels before the first level and unfolds them
after the last convolution (ours, for light members: most of a small autoencoder's time goes to
wide maps of few channels). The factor between the sides is patch * 2**(levels - 1).

The decoder may be sized apart from the encoder: it is most of the inference cost of the
published model (622 of 894 GFLOP per 256x256 slice), and it runs twice per slice.
Submodules bear the published names with "_" for ".": `encoder.down.0.block.1.conv2` is
`encoder/down_0_block_1/conv2`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.models.layers import attention as attention_lib
from madad_jax.models.layers import basic, blocks

# Of the published autoencoder; the U-Net's is 1e-5.
NORM_EPSILON = 1e-6
# LDM's clamp: exp of the rim neither vanishes into 0 nor overflows float32.
LOGVAR_RANGE = (-30.0, 20.0)


class ResBlock(nn.Module):
    """norm, swish, conv, norm, swish, conv; plus the input (through 1x1 if widths differ)."""

    features: int
    num_groups: int
    convolution: str
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b h w d"]:
        """[b, h, w, c] -> [b, h, w, features]."""
        h = x
        for i in (1, 2):
            norm = basic.GroupNorm(self.num_groups, NORM_EPSILON, self.dtype, name=f"norm{i}")
            conv = basic.Conv(
                self.features, convolution=self.convolution, dtype=self.dtype, name=f"conv{i}"
            )
            h = conv(nn.silu(norm(h)))
        if x.shape[-1] != self.features:
            x = basic.Linear(self.features, dtype=self.dtype, name="nin_shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions, with a residual connection."""

    num_groups: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b h w c"]:
        """[b, h, w, c] -> the same shape."""
        b, height, width, channels = x.shape
        h = basic.GroupNorm(self.num_groups, NORM_EPSILON, self.dtype, name="norm")(x)
        h = h.reshape(b, height * width, channels)
        # A head axis of 1: the published block has a single head.
        q, k, v = (
            basic.Linear(channels, dtype=self.dtype, name=name)(h)[:, :, None] for name in "qkv"
        )
        h = attention_lib.attend(q, k, v, self.attention).reshape(b, height, width, channels)
        return x + basic.Linear(channels, dtype=self.dtype, name="proj_out")(h)


class _Stack(nn.Module):
    """Settings and middle part that encoder and decoder share."""

    channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    out_channels: int
    patch: int
    num_groups: int
    mid_attention: bool
    attention: str
    convolution: str
    remat: bool
    dtype: str

    def _conv(self, features: int, name: str) -> basic.Conv:
        return basic.Conv(features, convolution=self.convolution, dtype=self.dtype, name=name)

    def _block(self, x: jax.Array, features: int, name: str) -> jax.Array:
        block = nn.remat(ResBlock) if self.remat else ResBlock
        return block(features, self.num_groups, self.convolution, self.dtype, name=name)(x)

    def _middle(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = self._block(x, width, "mid_block_1")
        if self.mid_attention:
            block = nn.remat(AttentionBlock) if self.remat else AttentionBlock
            x = block(self.num_groups, self.attention, self.dtype, name="mid_attn_1")(x)
        return self._block(x, width, "mid_block_2")

    def _norm_out(self, x: jax.Array) -> jax.Array:
        norm = basic.GroupNorm(self.num_groups, NORM_EPSILON, self.dtype, name="norm_out")
        return nn.silu(norm(x))


class Encoder(_Stack):
    """Image -> `out_channels` feature maps at 1 / f of the side, f = patch * 2**(levels-1)."""

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b H W c"]) -> Shaped[jax.Array, "b h w d"]:
        """[b, H, W, c] -> [b, H/f, W/f, out_channels]."""
        h = self._conv(self.channels, "conv_in")(basic.space_to_depth(x, self.patch))
        for i, mult in enumerate(self.channel_mult):
            for j in range(self.num_res_blocks):
                h = self._block(h, self.channels * mult, f"down_{i}_block_{j}")
            # The last level keeps its size: levels - 1 halvings.
            if i + 1 < len(self.channel_mult):
                h = _Downsample(self.dtype, name=f"down_{i}_downsample")(h)
        return self._conv(self.out_channels, "conv_out")(self._norm_out(self._middle(h)))


class Decoder(_Stack):
    """Latent -> image; each level has `num_res_blocks` + 1 blocks, as published."""

    def setup(self) -> None:
        """The output layer is a member of its own, so that it can be called alone."""
        # Float32: losses, maps and thresholds read its result.
        self.conv_out = basic.Conv(self.out_channels * self.patch**2, dtype="float32")

    @nn.compact
    def features(self, z: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww d"]:
        """Everything but the last convolution; sides H / patch."""
        h = self._conv(self.channels * self.channel_mult[-1], "conv_in")(z)
        h = self._middle(h)
        for i in reversed(range(len(self.channel_mult))):
            for j in range(self.num_res_blocks + 1):
                h = self._block(h, self.channels * self.channel_mult[i], f"up_{i}_block_{j}")
            if i:
                h = blocks.Upsample(self.convolution, self.dtype, name=f"up_{i}_upsample")(h)
        return self._norm_out(h)

    def output(self, h: Shaped[jax.Array, "b hh ww d"]) -> Float[jax.Array, "b H W c"]:
        """The last convolution, in float32; no tanh."""
        return basic.depth_to_space(self.conv_out(h), self.patch)


class _Downsample(nn.Module):
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww c"]:
        return basic.Conv(x.shape[-1], stride=2, padding=(0, 1), dtype=self.dtype, name="conv")(x)


class AutoencoderKL(nn.Module):
    """Encoder, decoder and the two 1x1 convolutions around the latent."""

    in_channels: int = 1
    out_channels: int = 1
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    latent_channels: int = 4
    embed_dim: int = 4
    decoder_channels: int = 128
    decoder_channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    decoder_num_res_blocks: int = 2
    patch: int = 1
    num_groups: int = 32
    mid_attention: bool = True
    attention: str = "chunked"
    convolution: str = "auto"
    remat: bool = False
    dtype: str = "float32"

    def setup(self) -> None:
        """Members bear the published names."""
        shared = {
            "patch": self.patch,
            "num_groups": self.num_groups,
            "mid_attention": self.mid_attention,
            "attention": self.attention,
            "convolution": self.convolution,
            "remat": self.remat,
            "dtype": self.dtype,
        }
        self.encoder = Encoder(
            channels=self.channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            out_channels=2 * self.latent_channels,
            **shared,
        )
        self.decoder = Decoder(
            channels=self.decoder_channels,
            channel_mult=self.decoder_channel_mult,
            num_res_blocks=self.decoder_num_res_blocks,
            out_channels=self.out_channels,
            **shared,
        )
        self.quant_conv = basic.Linear(2 * self.embed_dim)
        self.post_quant_conv = basic.Linear(self.latent_channels)

    def __call__(self, image: Float[jax.Array, "b H W c"]) -> Float[jax.Array, "b H W d"]:
        """Decoded posterior mean; touches every parameter, for initialisation."""
        return self.decode(self.encode(image)[0])

    def encode(
        self, image: Float[jax.Array, "b H W c"]
    ) -> tuple[Float[jax.Array, "b h w z"], Float[jax.Array, "b h w z"]]:
        """Posterior mean and clamped log-variance, float32."""
        moments = self.quant_conv(self.encoder(image))
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, *LOGVAR_RANGE)

    def decode_features(
        self, latent: Float[jax.Array, "b h w z"]
    ) -> Shaped[jax.Array, "b hh ww d"]:
        """Decoder up to, and without, its last convolution."""
        return self.decoder.features(self.post_quant_conv(latent))

    def output_layer(self, h: Shaped[jax.Array, "b hh ww d"]) -> Float[jax.Array, "b H W c"]:
        """The decoder's last convolution."""
        return self.decoder.output(h)

    def decode(self, latent: Float[jax.Array, "b h w z"]) -> Float[jax.Array, "b H W c"]:
        """Latent (unscaled) -> image, float32, not clipped."""
        return self.output_layer(self.decode_features(latent))
