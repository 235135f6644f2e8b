"""3-D convolutions that a CPU computes fast and in little memory: 2-D ones over a few planes.

XLA's CPU code has a fast program for 2-D convolutions alone. So the planes that an output plane
reads lie beside each other as channels, and a kernel [z, y, x, c, o] is one of z * c channels. Two
planes at a time: what is gathered stays in the cache, and a copy of the whole volume for each plane
of the kernel is never made. Measured on two cores (docs/performance.md).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_PLANES = 2  # gathered at once; 4 took a fifth longer
_WHOLE = 2**21  # numbers of a volume that is taken at once: it stays in the cache

Planes = Any  # an array, or a tuple of them
Change = Callable[[jax.Array], Planes]


def convolve(
    x: Float[jax.Array, "z y x c"],
    kernel: Float[jax.Array, "k k k c o"],
    stride: int = 1,
    together: int = 1,
    of_planes: Change = lambda planes: planes,
) -> Planes:
    """A 3-D convolution with k // 2 zeros on every side, k odd.

    Args:
      x: a volume.
      kernel: its weights.
      stride: of all three axes.
      together: output planes that share what they read, as if they were channels: worth it where
        there is one channel. Their number divides that of the output's planes.
      of_planes: [p, Y, X, o] -> [p, ...], applied to a few planes while they are in the cache, or
        an array a time, which come back stacked.

    Returns:
      What `of_planes` gave, of all planes in order.
    """
    k = kernel.shape[0]
    wide = _share_planes(kernel, stride, together)
    pads = [(k // 2, k // 2)] * 2
    count = (x.shape[0] - 1) // stride + 1

    def some(planes: jax.Array) -> Planes:
        y = _convolve_2d(planes, wide, stride, pads)
        y = y.reshape(*y.shape[:3], together, kernel.shape[-1])
        y = jnp.moveaxis(y, 3, 1).reshape(-1, *y.shape[1:3], kernel.shape[-1])
        return of_planes(y)

    padded = jnp.pad(x, ((k // 2, k // 2), (0, 0), (0, 0), (0, 0)))
    return _by_slabs(
        padded, some, k + (together - 1) * stride, stride * together, count // together
    )


def convolve_transposed(
    x: Float[jax.Array, "z y x c"],
    kernel: Float[jax.Array, "k k k c o"],
    of_planes: Change = lambda planes: planes,
) -> Planes:
    """Twice the sides: zeros between the voxels, then the convolution with `kernel`, which is
    mirrored already. k is 3, with the zeros of PyTorch's `padding=1, output_padding=1`. `of_planes`
    as in `convolve`.

    No zero is multiplied: each of the eight parities of an output reads its own taps, and all of
    them are the output channels of a 2x2x2 convolution (as `convolution.py` does in 2-D).
    """
    out = kernel.shape[-1]
    # An even output reads tap 1 of voxel i; an odd one tap 0 of voxel i and tap 2 of voxel i + 1.
    taps = jnp.zeros((2, 2, 3), kernel.dtype)  # voxel, parity, tap of the kernel
    taps = taps.at[0, 0, 1].set(1).at[0, 1, 0].set(1).at[1, 1, 2].set(1)
    by_parity = jnp.einsum("vpi,wqj,urk,ijkco->vwucpqro", taps, taps, taps, kernel)
    small = by_parity.reshape(2, 2, 2, kernel.shape[3], 8 * out)
    wide = jnp.moveaxis(small, 0, 2).reshape(2, 2, -1, 8 * out)

    def some(planes: jax.Array) -> Planes:
        y = _convolve_2d(planes, wide, 1, [(0, 1), (0, 1)])
        return of_planes(spread_parities(y, out))

    padded = jnp.pad(x, ((0, 1), (0, 0), (0, 0), (0, 0)))
    return _by_slabs(padded, some, 2, 1, x.shape[0])


def spread_parities(y: Shaped[jax.Array, "z y x c"], out: int) -> Shaped[jax.Array, "Z Y X o"]:
    """Channels (z, y, x parity, o), 8 * out of them, to voxels of a volume with twice the sides."""
    z, h, w = y.shape[:3]
    y = y.reshape(z, h, w, 2, 2, 2, out).transpose(0, 3, 1, 4, 2, 5, 6)
    return y.reshape(2 * z, 2 * h, 2 * w, out)


def map_planes(change: Change, x: Shaped[jax.Array, "z ..."]) -> Planes:
    """`change`, [p, ...] -> [q, ...], of a few planes at a time."""
    return _by_slabs(x, change, 1, 1, x.shape[0])


def _share_planes(kernel: jax.Array, stride: int, together: int) -> jax.Array:
    """[k, k, planes * c, together * o]: output t reads the planes from t * stride on."""
    k, channels, out = kernel.shape[0], *kernel.shape[3:]
    planes = k + (together - 1) * stride
    wide = jnp.zeros((k, k, planes, channels, together, out), kernel.dtype)
    for t in range(together):
        wide = wide.at[:, :, t * stride : t * stride + k, :, t].set(jnp.moveaxis(kernel, 0, 2))
    return wide.reshape(k, k, planes * channels, together * out)


def _by_slabs(x: jax.Array, change: Change, planes: int, step: int, count: int) -> Planes:
    """`change` of `count` windows of `planes` planes, a window every `step`, a few at a time."""
    some = count if x.size <= _WHOLE else _PLANES if count % _PLANES == 0 else 1

    def part(slab: jax.Array) -> Planes:
        views = [slab[d : d + step * (some - 1) + 1 : step] for d in range(planes)]
        return change(jnp.concatenate(views, -1) if planes > 1 else slab)

    if some == count:
        return part(x)
    length = step * (some - 1) + planes
    starts = jnp.arange(count // some) * (some * step)
    parts = jax.lax.map(
        lambda start: part(jax.lax.dynamic_slice_in_dim(x, start, length, 0)), starts
    )
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), parts)


def _convolve_2d(
    planes: jax.Array, kernel: jax.Array, stride: int, pads: list[tuple[int, int]]
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        planes, kernel, (stride, stride), pads, dimension_numbers=_DIMENSIONS
    )
