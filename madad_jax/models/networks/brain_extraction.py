"""A small 3-D LinkNet that tells brain from the rest of a head scan.

The architecture is that of deepbet (Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845; MIT
licence), read off the names and shapes of its published weights: residual blocks (He et al. 2016)
going down, narrow transposed convolutions going up, skips added (LinkNet, Chaurasia & Culurciello
2017), instance normalisation without parameters everywhere. Weights are a flat dict under the
published names; convolution kernels as PyTorch has them, [out, in, z, y, x], transposed ones
[in, out, z, y, x].
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.core import errors
from madad_jax.models.layers import volume_convolution

Weights = Mapping[str, jax.Array]
_Measured = tuple[jax.Array, ...]  # planes, their means, their variances
_WIDTHS = (16, 32, 64, 128)
_EPSILON = 1e-5
FACTOR = 32  # sides of the input are multiples of it


def shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every weight, by its published name."""
    cube = (3, 3, 3)
    found = {"init.0.weight": (_WIDTHS[0], 1, 7, 7, 7)}
    for i, width in enumerate(_WIDTHS):
        before = _WIDTHS[max(i - 1, 0)]
        for block, channels in (("block1", before), ("block2", width)):
            found[f"down{i}.{block}.double_conv.0.weight"] = (width, channels, *cube)
            found[f"down{i}.{block}.double_conv.3.weight"] = (width, width, *cube)
        if i:
            found[f"down{i}.block1.downsample.0.weight"] = (width, before, 1, 1, 1)
        up, inner = 3 - i, width // 4
        found[f"up{up}.conv1.0.weight"] = (inner, width, 1, 1, 1)
        found[f"up{up}.tp_conv.0.weight"] = (inner, inner, *cube)
        found[f"up{up}.conv2.0.weight"] = (before, inner, 1, 1, 1)
    last = _WIDTHS[0] // 2
    found |= {"tp_conv1.0.weight": (_WIDTHS[0], last, *cube), "tp_conv1.0.bias": (last,)}
    found |= {"conv.0.weight": (last, last, *cube), "conv.0.bias": (last,)}
    return found | {"tp_conv2.weight": (last, 2, 2, 2, 2), "tp_conv2.bias": (2,)}


def check(name: str, weights: Mapping[str, object]) -> None:
    """Raises UserError, naming the file, unless the weights are those of this network."""
    wanted = shapes()
    for key in sorted({*wanted, *weights}):
        found = getattr(weights.get(key), "shape", None)
        if found != wanted.get(key):
            raise errors.UserError(
                f"{name}: weight {key} has shape {found}, accepted: {wanted.get(key)}; these are "
                "not the weights of the brain extraction of deepbet 1"
            )


def encode(
    weights: Weights, image: Float[jax.Array, "x y z"]
) -> Float[jax.Array, "x/4 y/4 z/4 16"]:
    """Features at a quarter of the sides: the network but its last two layers.

    Args:
      weights: as `check` accepts them.
      image: normalised intensities; sides are multiples of 32.
    """
    x = _stem(weights, image)
    stem, down = x, []
    for i in range(4):
        x = _block(weights, f"down{i}.block1", x, stride=2 if i else 1)
        x = _block(weights, f"down{i}.block2", x)
        down.append(x)
    for i in range(4):
        if i:
            x = x + down[3 - i]
        x = _rectified(_conv(weights, f"up{i}.conv1.0", x))
        x = _rectified(_conv_transposed(weights, f"up{i}.tp_conv.0", x, stride=2 if i < 3 else 1))
        x = _rectified(_conv(weights, f"up{i}.conv2.0", x))
    return x + stem


def decide(
    weights: Weights, features: Float[jax.Array, "x y z 16"]
) -> Bool[jax.Array, "x*4 y*4 z*4"]:
    """Where brain is more likely than not, from what `encode` gave."""
    x = _rectified(_conv_transposed(weights, "tp_conv1.0", features, stride=2))
    return _last(weights, _rectified(_conv(weights, "conv.0", x)))


def _stem(weights: Weights, image: jax.Array) -> jax.Array:
    """The first convolution, pooled before it is ever whole: it is twice the image."""

    def pool(y: jax.Array) -> tuple[jax.Array, ...]:
        return (_pool(_pool(y, 1), 2), *_with_moments(y)[1:])

    pooled, *moments = volume_convolution.convolve(
        image[..., None], _kernel(weights, "init.0"), 2, 2, pool
    )
    # The largest of some voxels stays the largest when it is normalised.
    return _rectified((_pool(pooled, 0), *moments))


def _pool(x: jax.Array, axis: int) -> jax.Array:
    """The largest of three neighbours around every second place along an axis."""
    even, odd = (jax.lax.slice_in_dim(x, i, None, 2, axis) for i in (0, 1))
    pads = [(0, 0, 0)] * x.ndim
    pads[axis] = (1, -1, 0)
    before = jax.lax.pad(odd, jnp.array(-jnp.inf, x.dtype), pads)
    return jnp.maximum(jnp.maximum(even, odd), before)


def _last(weights: Weights, x: jax.Array) -> jax.Array:
    """The last layer, two channels of which the second is brain: the larger one is likelier."""
    kernel, bias = weights["tp_conv2.weight"], weights["tp_conv2.bias"]
    kernel = (kernel[:, 1] - kernel[:, 0]).reshape(kernel.shape[0], 8)  # eight voxels from one

    def of_planes(planes: jax.Array) -> jax.Array:
        return volume_convolution.spread_parities(planes @ kernel > bias[0] - bias[1], 1)[..., 0]

    return volume_convolution.map_planes(of_planes, x)


def _block(weights: Weights, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    y = _rectified(_conv(weights, f"{name}.double_conv.0", x, stride))
    y = _normalised(_conv(weights, f"{name}.double_conv.3", y))
    if f"{name}.downsample.0.weight" in weights:
        x = _normalised(_conv(weights, f"{name}.downsample.0", x, stride))
    return jax.nn.relu(x + y)


def _with_moments(y: jax.Array) -> _Measured:
    """Planes [p, Y, X, c], and mean and variance [p, c] of each while it is in the cache."""
    # A sum of millions of numbers in float32 loses digits, one a plane does not.
    mean = y.mean((1, 2))
    return y, mean, jnp.square(y - mean[:, None, None]).mean((1, 2))


def _normalised(measured: _Measured) -> jax.Array:
    """Instance normalisation."""
    y, means, variances = measured
    mean = means.mean(0)
    variance = (variances + jnp.square(means - mean)).mean(0)
    return (y - mean) * jax.lax.rsqrt(variance + _EPSILON)


def _rectified(measured: _Measured) -> jax.Array:
    """Instance normalisation, then ReLU."""
    return jax.nn.relu(_normalised(measured))


def _kernel(weights: Weights, name: str) -> jax.Array:
    return weights[f"{name}.weight"].transpose(2, 3, 4, 1, 0)


def _conv(weights: Weights, name: str, x: jax.Array, stride: int = 1) -> _Measured:
    """Without the bias, which the normalisation that always follows takes away again."""
    kernel = _kernel(weights, name)
    if kernel.shape[0] == 1:
        return _with_moments(x[::stride, ::stride, ::stride] @ kernel[0, 0, 0])
    return volume_convolution.convolve(x, kernel, stride, of_planes=_with_moments)


def _conv_transposed(weights: Weights, name: str, x: jax.Array, stride: int) -> _Measured:
    """Grows the sides by `stride`: zeros between the voxels, then the mirrored kernel."""
    kernel = jnp.flip(weights[f"{name}.weight"], (2, 3, 4)).transpose(2, 3, 4, 0, 1)
    if stride == 1:
        return volume_convolution.convolve(x, kernel, of_planes=_with_moments)
    return volume_convolution.convolve_transposed(x, kernel, of_planes=_with_moments)
