"""Building blocks shared by all networks: convolution, linear map, GroupNorm, embeddings.

Arrays are NHWC. Parameters are always float32; a layer casts its input and its parameters to
`dtype` ("float32" or "bfloat16") and returns `dtype`. Statistics of a normalisation are taken
in float32 whatever `dtype` is.

Initialisation is PyTorch's default where nothing else is said, U(-1/sqrt(fan_in),
1/sqrt(fan_in)) for kernels and biases, because that is what the published networks start from.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import convolution as convolution_lib
from madad_jax.models.layers import initialize, moments

DTYPES = ("float32", "bfloat16")


def check_dtype(key: str, dtype: str) -> None:
    """Raises `UserError` when `dtype` is no compute type of ours."""
    if dtype not in DTYPES:
        raise errors.UserError(f"{key}: found {dtype!r}, accepted are {', '.join(DTYPES)}")


def check_groups(key: str, channels: int, num_groups: int) -> None:
    """Raises `UserError` when GroupNorm cannot split `channels` into `num_groups`."""
    if channels % num_groups:
        raise errors.UserError(
            f"{key}: {channels} channels do not divide into num_groups={num_groups} groups; "
            "change the channels or num_groups"
        )


class Conv(nn.Module):
    """Square 2-D convolution with explicit padding; parameters `kernel` (HWIO) and `bias`.

    `padding` is (before, after) for both axes, so that the one-sided zero padding of the
    autoencoder's down-sampling can be said. `upsample` doubles both sides (nearest) first.
    `convolution` is how 3x3 convolutions with stride 1 and padding 1 are computed
    (`convolution.py`).
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    use_bias: bool = True
    zero_init: bool = False
    normal_std: float | None = None
    upsample: bool = False
    convolution: str = "plain"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww d"]:
        """[b, h, w, c] -> [b, h', w', features]."""
        k, channels = self.kernel_size, x.shape[-1]
        # PyTorch draws the bias within the kernel's bound, from the kernel's fan-in.
        kernel_init = bias_init = initialize.torch_default(k * k * channels)
        if self.zero_init:
            kernel_init = bias_init = initialize.zeros
        elif self.normal_std is not None:
            kernel_init = initialize.normal(self.normal_std)
        kernel = self.param("kernel", kernel_init, (k, k, channels, self.features))
        # Parameters stay float32 and are cast for use, so that small updates are not lost.
        x = x.astype(self.dtype)
        moments.record(self, x, constant=False)
        y = self._convolve(x, jnp.asarray(kernel, self.dtype))
        if self.use_bias:
            y = y + self.param("bias", bias_init, (self.features,)).astype(self.dtype)
        return y

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        # The only shape that has fast forms.
        if (self.kernel_size, self.stride, self.padding) == (3, 1, (1, 1)):
            if self.upsample:
                return convolution_lib.upsample_convolve(x, kernel, self.convolution)
            return convolution_lib.convolve(x, kernel, self.convolution)
        return jax.lax.conv_general_dilated(
            convolution_lib.upsample_nearest(x) if self.upsample else x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=convolution_lib.DIMENSIONS,
        )


class Linear(nn.Module):
    """Linear map of the last axis (also the 1x1 convolution); `kernel` is (in, out).

    `init`: "torch", "xavier" (bias zero), "zero", or a standard deviation (bias zero).
    `moments=False`: its inputs are not recorded (`moments.py`), as where they are the time step's.
    """

    features: int
    init_scheme: str | float = "torch"
    dtype: str = "float32"
    use_bias: bool = True
    moments: bool = True

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "*batch c"]) -> Shaped[jax.Array, "*batch d"]:
        """[..., c] -> [..., features]."""
        channels = x.shape[-1]
        kernel_init = bias_init = initialize.torch_default(channels)
        if self.init_scheme != "torch":
            bias_init = initialize.zeros
            if self.init_scheme == "zero":
                kernel_init = initialize.zeros
            elif self.init_scheme == "xavier":
                kernel_init = initialize.xavier(channels, self.features)
            else:
                kernel_init = initialize.normal(self.init_scheme)
        kernel = self.param("kernel", kernel_init, (channels, self.features))
        # One matrix product: XLA's CPU code runs the kernel's gradient of a batched product, which
        # sums over two axes, two to three times slower.
        rows = x.astype(self.dtype).reshape(-1, channels)
        if self.moments:
            moments.record(self, rows, constant=self.use_bias)
        y = rows @ kernel.astype(self.dtype)
        if self.use_bias:
            y = y + self.param("bias", bias_init, (self.features,)).astype(self.dtype)
        return y.reshape(*x.shape[:-1], self.features)


class ParallelLinear(nn.Module):
    """`parts` linear maps of one input in one product; `kernel` (in, parts, out), `bias` (parts,
    out), drawn as one map to parts * out features.

    The axis of its own lets each part be split alike over devices. In a kernel of (in, parts *
    out) a split cuts across parts, and attention would have to gather q, k and v again.
    """

    parts: int
    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "*batch c"]) -> Shaped[jax.Array, "*batch p d"]:
        """[..., c] -> [..., parts, features]."""
        channels, shape = x.shape[-1], (self.parts, self.features)
        # The bound of the fused map: one of (in, out) would be wider and another network.
        scheme = initialize.xavier(channels, self.parts * self.features)
        kernel = self.param("kernel", scheme, (channels, *shape))
        bias = self.param("bias", initialize.zeros, shape)
        rows = x.astype(self.dtype).reshape(-1, channels)  # as in Linear
        moments.record(self, rows, constant=True)
        y = jnp.einsum("nc,cpd->npd", rows, kernel.astype(self.dtype)) + bias.astype(self.dtype)
        return y.reshape(*x.shape[:-1], *shape)


class GroupNorm(nn.Module):
    """GroupNorm over (h, w, channels of the group) with float32 statistics; `scale`, `bias`.

    The sums run over space first and over the group's channels on the small [b, c] result:
    the last axis stays whole, which XLA's CPU code vectorises, where a reduction over a grouped
    reshape costs two to five times as much. The variance is of the centred values: the one-pass
    form E[x^2] - E[x]^2 loses digits when the mean is large.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b h w c"]:
        """[b, h, w, c] -> the same shape, in `dtype`."""
        channels = x.shape[-1]
        # Builders check before; this catches a network built without `registry`.
        check_groups(self.name or "GroupNorm", channels, self.num_groups)
        scale = self.param("scale", initialize.ones, (channels,))
        bias = self.param("bias", initialize.zeros, (channels,))
        x = x.astype(jnp.float32)
        centred = x - self._group_mean(x)
        variance = self._group_mean(jnp.square(centred))
        y = centred * (jax.lax.rsqrt(variance + self.epsilon) * scale) + bias
        return y.astype(self.dtype)

    def _group_mean(self, x: Any) -> Any:
        """Mean of each group, repeated for its channels: [b, h, w, c] -> [b, 1, 1, c]."""
        b, _, _, c = x.shape
        # Groups have equally many channels, so the mean of means is the mean.
        per_channel = jnp.mean(x, axis=(1, 2))
        per_group = per_channel.reshape(b, self.num_groups, -1).mean(axis=-1)
        return jnp.repeat(per_group, c // self.num_groups, axis=-1)[:, None, None, :]


def layer_norm(
    x: Shaped[jax.Array, "b n c"], dtype: str, epsilon: float = 1e-6
) -> Shaped[jax.Array, "b n c"]:
    """LayerNorm without scale and bias, float32 statistics, result in `dtype`."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + epsilon)).astype(dtype)


def space_to_depth(x: Shaped[jax.Array, "b H W c"], side: int) -> Shaped[jax.Array, "b h w d"]:
    """Squares of `side` pixels into channels: [b, H, W, c] -> [b, H/side, W/side, side^2 c]."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // side, side, width // side, side, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height // side, width // side, -1)


def depth_to_space(x: Shaped[jax.Array, "b h w d"], side: int) -> Shaped[jax.Array, "b H W c"]:
    """Undoes `space_to_depth`."""
    b, height, width, channels = x.shape
    x = x.reshape(b, height, width, side, side, channels // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, height * side, width * side, -1)


def timestep_embedding(t: Shaped[jax.Array, " b"], dim: int) -> Float[jax.Array, "b dim"]:
    """Sinusoids of the raw step index, cosines first.

    f_k = exp(-ln(10000) k / (dim/2)), k = 0 .. dim/2 - 1; [cos(t f), sin(t f)] (official U-Net
    and published DiT alike). `dim` must be even.
    """
    half = dim // 2
    # In float32 in any compute type: bfloat16 could not tell neighbouring steps apart.
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
