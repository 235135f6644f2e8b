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
from jaxtyping import Float

from madad_jax.core import errors

Weights = Mapping[str, jax.Array]
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


def probability(weights: Weights, image: Float[jax.Array, "x y z"]) -> Float[jax.Array, "x y z"]:
    """Probability of brain at each voxel.

    Args:
      weights: as `check` accepts them.
      image: normalised intensities; sides are multiples of 32.
    """
    x = _normalise(_conv(weights, "init.0", image[None, ..., None], stride=2))
    x = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 3, 1), (1, 2, 2, 2, 1), ((0, 0), *[(1, 1)] * 3, (0, 0))
    )
    stem, down = x, []
    for i in range(4):
        x = _block(weights, f"down{i}.block1", x, stride=2 if i else 1)
        x = _block(weights, f"down{i}.block2", x)
        down.append(x)
    for i in range(4):
        if i:
            x = x + down[3 - i]
        x = _normalise(_conv(weights, f"up{i}.conv1.0", x))
        x = _normalise(_conv_transposed(weights, f"up{i}.tp_conv.0", x, stride=2 if i < 3 else 1))
        x = _normalise(_conv(weights, f"up{i}.conv2.0", x))
    x = x + stem
    x = _normalise(_conv_transposed(weights, "tp_conv1.0", x, stride=2))
    x = _normalise(_conv(weights, "conv.0", x))
    return jax.nn.softmax(_conv_transposed(weights, "tp_conv2", x, stride=2), -1)[0, ..., 1]


def _block(weights: Weights, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    y = _normalise(_conv(weights, f"{name}.double_conv.0", x, stride))
    y = _normalise(_conv(weights, f"{name}.double_conv.3", y), rectify=False)
    if f"{name}.downsample.0.weight" in weights:
        x = _normalise(_conv(weights, f"{name}.downsample.0", x, stride), rectify=False)
    return jax.nn.relu(x + y)


def _normalise(x: jax.Array, rectify: bool = True) -> jax.Array:
    """Instance normalisation, then ReLU."""
    mean = x.mean((1, 2, 3), keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean((1, 2, 3), keepdims=True)
    y = centred * jax.lax.rsqrt(variance + _EPSILON)
    return jax.nn.relu(y) if rectify else y


def _conv(weights: Weights, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 4, 1, 0)
    y = _correlate(x, kernel, stride, (kernel.shape[0] // 2,) * 2)
    return y + weights.get(f"{name}.bias", 0.0)


def _conv_transposed(weights: Weights, name: str, x: jax.Array, stride: int) -> jax.Array:
    """Grows the sides by `stride`: zeros between the voxels, then the mirrored kernel."""
    kernel = jnp.flip(weights[f"{name}.weight"], (2, 3, 4)).transpose(2, 3, 4, 0, 1)
    side = kernel.shape[0]
    spread = (0, stride - 1, stride - 1)
    wide = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *[spread] * 3, (0, 0, 0)))
    before = side // 2 if side % 2 else side - 1
    y = _correlate(wide, kernel, 1, (before, side - 1 - before))
    return y + weights.get(f"{name}.bias", 0.0)


def _correlate(x: jax.Array, kernel: jax.Array, stride: int, padding: tuple[int, int]) -> jax.Array:
    """A 3-D convolution as a sum of 2-D ones over the planes of the first axis: on CPUs XLA has a
    fast program for the latter alone (five times faster here)."""
    depth = kernel.shape[0]
    planes = jnp.pad(x[0], (padding, (0, 0), (0, 0), (0, 0)))
    count = (planes.shape[0] - depth) // stride + 1
    total = jnp.zeros((), x.dtype)
    for i in range(depth):
        total += jax.lax.conv_general_dilated(
            planes[i : i + (count - 1) * stride + 1 : stride],
            kernel[i],
            (stride, stride),
            [padding, padding],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return total[None]
