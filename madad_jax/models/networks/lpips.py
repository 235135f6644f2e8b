"""LPIPS, the learned perceptual distance on VGG16 (Zhang et al. 2018), as a pure function.

Both images go through VGG16; at relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 the features are
scaled to unit length over the channels, their squared difference is weighted per channel by a
learned non-negative vector and averaged over space; the five averages are summed:

    d(a, b) = sum_l mean_hw  w_l . (f_l(a)/|f_l(a)| - f_l(b)/|f_l(b)|)^2

Nothing is trained here and no weights come along: `prepare` reads them from arrays that the
user has. Accepted names, in PyTorch's layouts:

- VGG16's convolutions: `features.{n}.weight|bias` (torchvision's vgg16) or
  `net.slice{k}.{n}.weight|bias` (LPIPS's own state dict),
  n in 0 2 5 7 10 12 14 17 19 21 24 26 28;
- the channel weights: `lin{l}.model.1.weight` (l in 0..4), shape (1, channels, 1, 1).

Other names (`classifier.*`, `lins.*`, `scaling_layer.*`) are passed over.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from madad_jax.core import errors
from madad_jax.models.layers import convolution

# torchvision's indices of the convolutions, by the block whose last activation is read.
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
SHIFT = (-0.030, -0.088, -0.188)  # ImageNet's mean and deviation for images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
UNIT_EPSILON = 1e-10


def prepare(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Weights for `distance` from a state dict of arrays.

    Returns:
        {"conv_{n}": {"kernel": HWIO, "bias"}, "lin_{l}": {"kernel": [channels]}}, float32.

    Raises:
        UserError: a tensor is missing or has another shape; the first is named.
    """
    named = {re.sub(r"^net\.slice\d\.", "features.", key): value for key, value in state.items()}

    def take(key: str, shape: tuple[int, ...]) -> np.ndarray:
        if key not in named:
            raise errors.UserError(f"LPIPS weights: {key} is missing")
        if tuple(np.shape(named[key])) != shape:
            raise errors.UserError(
                f"LPIPS weights: {key} has shape {tuple(np.shape(named[key]))}, accepted is {shape}"
            )
        return np.asarray(named[key], np.float32)

    weights: dict[str, dict[str, np.ndarray]] = {}
    channels = 3
    for block, (indices, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        for n in indices:
            kernel = take(f"features.{n}.weight", (width, channels, 3, 3))
            bias = take(f"features.{n}.bias", (width,))
            weights[f"conv_{n}"] = {
                "kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
                "bias": bias,
            }
            channels = width
        # Index 1: the published layer has dropout, of no effect here, at 0.
        line = take(f"lin{block}.model.1.weight", (1, width, 1, 1))
        weights[f"lin_{block}"] = {"kernel": line.reshape(-1)}
    return weights


def distance(
    weights: Mapping[str, Any],
    a: Float[jax.Array, "b H W c"],
    b: Float[jax.Array, "b H W c"],
) -> Float[jax.Array, "b 1 1 1"]:
    """Perceptual distance of images in [-1, 1] with one channel (repeated) or three.

    Args:
        weights: from `prepare`.
        a: images; sides of at least 16 pixels.
        b: images of the same shape.
    """
    total = jnp.zeros((a.shape[0], 1, 1, 1), jnp.float32)
    features = zip(_features(weights, a), _features(weights, b), strict=True)
    for block, (fa, fb) in enumerate(features):
        squared = jnp.square(_unit(fa) - _unit(fb))
        weighted = squared @ jnp.asarray(weights[f"lin_{block}"]["kernel"])[:, None]
        total = total + jnp.mean(weighted, axis=(1, 2), keepdims=True)
    return total


def distance_map(
    weights: Mapping[str, Any],
    a: Float[jax.Array, "b H W c"],
    b: Float[jax.Array, "b H W c"],
) -> Float[jax.Array, "b H W"]:
    """`distance` before its means over space: every layer enlarged bilinearly to the image."""
    shape = a.shape[:3]
    total = jnp.zeros(shape, jnp.float32)
    features = zip(_features(weights, a), _features(weights, b), strict=True)
    for block, (fa, fb) in enumerate(features):
        squared = jnp.square(_unit(fa) - _unit(fb))
        weighted = squared @ jnp.asarray(weights[f"lin_{block}"]["kernel"])
        total = total + jax.image.resize(weighted, shape, "bilinear")
    return total


def _unit(f: jax.Array) -> jax.Array:
    """Unit length over channels. The length of a zero vector is held away from sqrt'(0)."""
    squares = jnp.sum(jnp.square(f), axis=-1, keepdims=True)
    length = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
    return f / (length + UNIT_EPSILON)


def _features(weights: Mapping[str, Any], image: jax.Array) -> list[jax.Array]:
    """The five activations, [b, H/2^l, W/2^l, width]."""
    x = jnp.broadcast_to(image, (*image.shape[:3], 3)).astype(jnp.float32)
    # The published scaling of images in [-1, 1], with one channel repeated for three.
    x = (x - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
    found = []
    for block, indices in enumerate(BLOCKS):
        if block:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for n in indices:
            layer = weights[f"conv_{n}"]
            x = convolution.convolve(x, jnp.asarray(layer["kernel"]), "auto")
            x = jax.nn.relu(x + layer["bias"])
        found.append(x)
    return found
