"""Masked U-Net denoiser with the official geometry, and two heads.

The ADM/LDM U-Net (Dhariwal & Nichol 2021, Rombach et al. 2022) as the official MAD-AD code
sets it up: per level `num_res_blocks` residual blocks, each followed by attention where the
level's down-sampling rate is in `attention_rates`; stride-2 convolutions with symmetric padding
down, nearest doubling and a convolution up; the middle (block, attention, block). Skips are
joined as [current, skip] on the channels. GroupNorm eps 1e-5.

Two output heads: `out` = GroupNorm, SiLU, conv -> clean latent; `mt_out` = GroupNorm, conv ->
mask, with no SiLU between (so in the official code). The official network returns the sigmoid
of the mask head; this one returns the logit, which a cross-entropy needs. With `sspcab` (ours to
combine) that block stands before the heads.

Every residual block's second convolution, every attention's output map and both heads start
from zero: at initialisation x0 = 0 and p(visible) = 1/2. Submodules bear the published names
with "_" for ".": `input_blocks.1.0.in_layers.2` is `input_blocks_1_0/in_layers_2`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import attention as attention_lib
from madad_jax.models.layers import basic, blocks
from madad_jax.models.layers import sspcab as sspcab_lib

# name: (model_channels, num_heads). The official XL (320 channels, 12 heads) cannot run: 320 is
# not divisible by 12. Ten heads keep the head size of 32 that S, M and L have at the first
# level, and the parameter count does not depend on the heads.
SIZES = {"XS": (64, 4), "S": (128, 4), "M": (192, 6), "L": (256, 8), "XL": (320, 10)}
NORM_EPSILON = 1e-5


class ResBlock(nn.Module):
    """Two convolutions; the embedded time step is added between them."""

    features: int
    num_groups: int
    dropout: float
    convolution: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: Shaped[jax.Array, "b h w c"], emb: Shaped[jax.Array, "b e"], train: bool
    ) -> Shaped[jax.Array, "b h w d"]:
        """[b, h, w, c], [b, e] -> [b, h, w, features]."""

        def norm(name: str) -> basic.GroupNorm:
            return basic.GroupNorm(self.num_groups, NORM_EPSILON, self.dtype, name=name)

        def conv(name: str, zero_init: bool = False) -> basic.Conv:
            return basic.Conv(
                self.features,
                zero_init=zero_init,
                convolution=self.convolution,
                dtype=self.dtype,
                name=name,
            )

        h = conv("in_layers_2")(nn.silu(norm("in_layers_0")(x)))
        # Of the time step alone: `moments=False`.
        of_time = basic.Linear(self.features, dtype=self.dtype, moments=False, name="emb_layers_1")
        emb = of_time(nn.silu(emb))
        h = nn.silu(norm("out_layers_0")(h + emb[:, None, None]))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv("out_layers_3", zero_init=True)(h)
        if x.shape[-1] != self.features:
            x = basic.Linear(self.features, dtype=self.dtype, name="skip_connection")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Multi-head self-attention over all positions, with a residual connection.

    The channels of `qkv` are ordered head by head, (q, k, v) within each head: the "legacy"
    order of the published code, which is not the usual (q of all heads, k, v).
    """

    num_heads: int
    num_groups: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b h w c"]:
        """[b, h, w, c] -> the same shape."""
        b, height, width, channels = x.shape
        h = basic.GroupNorm(self.num_groups, NORM_EPSILON, self.dtype, name="norm")(x)
        h = h.reshape(b, height * width, channels)
        qkv = basic.Linear(3 * channels, dtype=self.dtype, name="qkv")(h)
        q, k, v = jnp.split(qkv.reshape(b, height * width, self.num_heads, -1), 3, axis=-1)
        h = attention_lib.attend(q, k, v, self.attention).reshape(b, height * width, channels)
        h = basic.Linear(channels, init_scheme="zero", dtype=self.dtype, name="proj_out")(h)
        return x + h.reshape(x.shape)


class Downsample(nn.Module):
    """3x3 convolution with stride 2 and one zero on every side."""

    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww c"]:
        """Halves both sides."""
        return basic.Conv(x.shape[-1], stride=2, dtype=self.dtype, name="op")(x)


class UNet(nn.Module):
    """The whole network. Latent sides must be multiples of 2**(levels - 1)."""

    model_channels: int
    num_heads: int
    channel_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: int = 2
    attention_rates: tuple[int, ...] = (1, 2, 4)
    num_groups: int = 32
    dropout: float = 0.4
    attention: str = "chunked"
    convolution: str = "auto"
    remat: bool = False
    residual_x0: bool = False
    sspcab: bool = False
    out_channels: int = 0  # 0: as the input
    mask_head: bool = True
    patch: int = 1  # ours: squares of so many pixels are folded into channels first
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], train: bool = False
    ) -> tuple[
        Float[jax.Array, "b h w d"],
        Float[jax.Array, "b h w 1"] | None,
        Float[jax.Array, ""] | None,
    ]:
        """Noised latent and raw step index -> (clean latent, logit of "untouched", penalty).

        All are float32. The logit is None without `mask_head`, the penalty (`layers/sspcab.py`)
        without `sspcab`. With `out_channels` the first has so many channels, whatever the input
        has.
        """
        self._check_sides(x.shape)
        emb = basic.timestep_embedding(t, self.model_channels)
        # The embedding is computed once; every block maps it to its own width.
        emb = nn.silu(self._linear("time_embed_0")(emb))
        emb = self._linear("time_embed_2")(emb)

        conv_in = basic.Conv(self.model_channels, dtype=self.dtype, name="input_blocks_0_0")
        h = conv_in(basic.space_to_depth(x, self.patch))
        skips, block, rate = [h], 1, 1
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks):
                h = self._stage(h, emb, train, mult, rate, f"input_blocks_{block}")
                skips.append(h)
                block += 1
            if level + 1 < len(self.channel_mult):
                h = Downsample(self.dtype, name=f"input_blocks_{block}_0")(h)
                skips.append(h)
                block, rate = block + 1, rate * 2

        h = self._res_block(h, emb, train, self.channel_mult[-1], "middle_block_0")
        h = self._attention(h, "middle_block_1")
        h = self._res_block(h, emb, train, self.channel_mult[-1], "middle_block_2")

        block = 0
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.num_res_blocks + 1):
                # [current, skip], the published order: the kernels' input channels depend on it.
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._stage(h, emb, train, mult, rate, f"output_blocks_{block}")
                if level and i == self.num_res_blocks:
                    # In the published names the doubling is the last member of its stage.
                    place = 2 if rate in self.attention_rates else 1
                    name = f"output_blocks_{block}_{place}"
                    h = blocks.Upsample(self.convolution, self.dtype, name=name)(h)
                    rate //= 2
                block += 1
        penalty = None
        if self.sspcab:
            h, penalty = sspcab_lib.SSPCAB(dtype=self.dtype, name="sspcab")(h)
        return (*self._heads(h, x), penalty)

    def _check_sides(self, shape: tuple[int, ...]) -> None:
        multiple = self.patch * 2 ** (len(self.channel_mult) - 1)
        if shape[1] % multiple or shape[2] % multiple:
            raise errors.UserError(
                f"denoiser.channel_mult: {len(self.channel_mult)} levels need latent sides that "
                f"are multiples of {multiple}, found {shape[1]}x{shape[2]}"
            )

    def _linear(self, name: str) -> basic.Linear:
        features = 4 * self.model_channels
        return basic.Linear(features, dtype=self.dtype, moments=False, name=name)

    def _stage(
        self, h: jax.Array, emb: jax.Array, train: bool, mult: int, rate: int, name: str
    ) -> jax.Array:
        """Residual block and, where the level has it, attention."""
        h = self._res_block(h, emb, train, mult, f"{name}_0")
        return self._attention(h, f"{name}_1") if rate in self.attention_rates else h

    def _res_block(
        self, h: jax.Array, emb: jax.Array, train: bool, mult: int, name: str
    ) -> jax.Array:
        # Argument 3 is `train` (self counts as 0): traced, it could not choose the dropout.
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        features = self.model_channels * mult
        options = (self.num_groups, self.dropout, self.convolution, self.dtype)
        return block(features, *options, name=name)(h, emb, train)

    def _attention(self, h: jax.Array, name: str) -> jax.Array:
        block = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        return block(self.num_heads, self.num_groups, self.attention, self.dtype, name=name)(h)

    def _heads(self, h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Both heads in float32: they are small, and losses and thresholds read them."""

        def norm(name: str) -> basic.GroupNorm:
            return basic.GroupNorm(self.num_groups, NORM_EPSILON, name=name)

        channels = self.out_channels or x.shape[-1]
        fold = self.patch**2
        x0 = basic.Conv(channels * fold, zero_init=True, name="out_2")(nn.silu(norm("out_0")(h)))
        x0 = basic.depth_to_space(x0, self.patch)
        if self.residual_x0:
            # Further input channels are conditions, and no part of what is predicted.
            x0 = x[..., :channels].astype(jnp.float32) + x0
        if not self.mask_head:
            return x0, None
        return x0, self._mask(norm("mt_out_0")(h))

    def _mask(self, h: jax.Array) -> jax.Array:
        logit = basic.Conv(self.patch**2, zero_init=True, name="mt_out_1")(h)
        return basic.depth_to_space(logit, self.patch)
