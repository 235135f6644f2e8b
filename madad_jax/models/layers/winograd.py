"""3x3 convolutions, and the gradients of their kernels, by Winograd's minimal filtering.

F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308): tiles of 6x6 inputs and the kernel are transformed,
multiplied as 36 matrix products, and transformed back to 4x4 outputs: 36 / 16 = 2.25 products an
output, input and output channel in place of 9. Y = A^T [(G k G^T) * (B^T d B)] A. The points are
0, +-sqrt(1/2), +-sqrt(2) and infinity and not the usual 0, +-1, +-2: the largest error in float32
is a fifth of theirs.

The derivative by the kernel is the same algebra turned round: G^T [(B^T d B) (A dY A^T)] G, again
2.25 products for 9. The derivative by the input is the convolution with the kernel turned by half a
circle and its channels exchanged.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

_TILE = 4
_WINDOW = _TILE + 2
_CHUNK = 2**16  # tiles x channels that are transformed at once, so that they stay in cache
_WORK = 2**24  # multiply-adds of one product, below which two cores do not share it
_OUTPUTS = 128  # channels at once where kernels (input x output channels) are more than that

_POINTS = np.array([0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)])


def _kernel_transform() -> Float[np.ndarray, "6 3"]:
    """G: a row for each point, (1, p, p^2) over the product of its distances to the others."""
    others = _POINTS[:, None] - _POINTS[None]
    # A point has no distance to itself in the product.
    np.fill_diagonal(others, 1.0)
    rows = _POINTS[:, None] ** np.arange(3) / others.prod(axis=1)[:, None]
    # The point at infinity reads the leading coefficient.
    return np.concatenate([rows, [[0.0, 0.0, 1.0]]])


_G = _kernel_transform()
# G (x) G: one product transforms rows and columns of the kernel at once.
_G2 = np.einsum("ai,bj->abij", _G, _G).reshape(36, 9).astype(np.float32)


def convolve(
    x: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "3 3 c d"]
) -> Float[jax.Array, "b h w d"]:
    """The 3x3 convolution with one zero on every side, any size of image."""
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    down, across = _tiles(x)
    x = _pad(x, 1)
    rows = _strip(b, down, across, max(c, d))
    if rows == down:
        y = _by_outputs(x, kernel, down, across)
    else:
        kernels = _transform_kernel(kernel)

        def part(i):
            return _products(_windows(_take_strip(x, i, rows, 2), rows, across), kernels)

        y = jax.lax.map(part, jnp.arange(down // rows))
        y = jnp.moveaxis(y, 0, 1).reshape(b, down * _TILE, across * _TILE, d)
    return y[:, :h, :w]


def kernel_gradient(
    x: Float[jax.Array, "b h w c"], g: Float[jax.Array, "b h w d"]
) -> Float[jax.Array, "3 3 c d"]:
    """Derivative of sum(convolve(x, kernel) * g) by the kernel."""
    b, c, d = x.shape[0], x.shape[-1], g.shape[-1]
    down, across = _tiles(x)
    x, g = _pad(x, 1), _pad(g, 0)
    rows = _strip(b, down, across, max(c, d))
    if rows == down:
        return _gradient_by_outputs(x, g, down, across)

    def add(total, i):
        windows = _windows(_take_strip(x, i, rows, 2), rows, across)
        return total + _correlate(windows, _spread(_take_strip(g, i, rows, 0), rows, across)), None

    total = jax.lax.scan(add, jnp.zeros((36, c, d), x.dtype), jnp.arange(down // rows))[0]
    return _gather_kernel(total)


def _tiles(x: jax.Array) -> tuple[int, int]:
    return -(-x.shape[1] // _TILE), -(-x.shape[2] // _TILE)


def _pad(x: jax.Array, border: int) -> jax.Array:
    """Zeros around, and after that up to whole tiles."""
    down, across = _tiles(x)
    h, w = x.shape[1:3]
    ends = (down * _TILE - h + border, across * _TILE - w + border)
    return jnp.pad(x, ((0, 0), (border, ends[0]), (border, ends[1]), (0, 0)))


def _strip(images: int, down: int, across: int, widest: int) -> int:
    """Rows of tiles that are transformed at once."""
    images = images if isinstance(images, int) else 1  # in an export the batch is free
    # The larger of the two: fewer rows keep the cache, but starve the second core.
    tiles = max(_CHUNK // widest, _WORK // widest**2)
    return _divisor(down, tiles // (images * across))


def _take_strip(x: jax.Array, i: jax.Array, rows: int, border: int) -> jax.Array:
    """Strip i of `rows` rows of tiles, with `border` rows more."""
    return jax.lax.dynamic_slice_in_dim(x, i * rows * _TILE, rows * _TILE + border, axis=1)


def _by_outputs(x: jax.Array, kernel: jax.Array, down: int, across: int) -> jax.Array:
    """All tiles at once, and where kernels are many, some output channels after the other: their
    transforms, four times the size of the kernels, are more than a small image and stay in cache
    like this."""
    c, d = kernel.shape[2:]
    windows, width = _windows(x, down, across), _divisor(d, _OUTPUTS)
    if c * d <= _CHUNK or width == d:
        return _products(windows, _transform_kernel(kernel))

    def part(i):
        some = jax.lax.dynamic_slice_in_dim(kernel, i * width, width, axis=3)
        return _products(windows, _transform_kernel(some))

    y = jax.lax.map(part, jnp.arange(d // width))
    return jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], d)


def _gradient_by_outputs(x: jax.Array, g: jax.Array, down: int, across: int) -> jax.Array:
    """As `_by_outputs`."""
    c, d = x.shape[-1], g.shape[-1]
    windows, width = _windows(x, down, across), _divisor(d, _OUTPUTS)

    def part(some: jax.Array) -> jax.Array:
        return _gather_kernel(_correlate(windows, _spread(some, down, across)))

    if c * d <= _CHUNK or width == d:
        return part(g)
    parts = g.reshape(*g.shape[:3], d // width, width)
    y = jax.lax.map(part, jnp.moveaxis(parts, 3, 0))
    return jnp.moveaxis(y, 0, 3).reshape(3, 3, c, d)


def _gather_kernel(total: jax.Array) -> jax.Array:
    """G^T t G of [36, c, d]: [3, 3, c, d]."""
    return (_G2.T @ total.reshape(36, -1)).reshape(3, 3, *total.shape[1:])


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """G k G^T as [36, c, d]."""
    return (_G2 @ kernel.reshape(9, -1)).reshape(36, *kernel.shape[2:])


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is not above `most`; at least 1."""
    # Divisors alone: strips of one size are one loop body.
    return next((n for n in range(min(count, most), 0, -1) if count % n == 0), 1)


def _windows(x: jax.Array, down: int, across: int) -> jax.Array:
    """B^T d B of padded [b, 4 down + 2, 4 across + 2, c]: [6, 6, b, down, across, c]."""
    last = _TILE * (down - 1) + 1, _TILE * (across - 1) + 1
    window = range(_WINDOW)
    v = jnp.stack(_input_transform([x[:, i : i + last[0] : _TILE] for i in window]))
    return jnp.stack(_input_transform([v[:, :, :, j : j + last[1] : _TILE] for j in window]), 1)


def _products(windows: jax.Array, kernels: jax.Array) -> jax.Array:
    """Windows times kernels [36, c, d], transformed back: [b, 4 down, 4 across, d]."""
    b, down, across, c = windows.shape[2:]
    d, window = kernels.shape[-1], range(_WINDOW)
    products = jnp.einsum("tnc,tcd->tnd", windows.reshape(36, b * down * across, c), kernels)
    y = products.reshape(6, 6, b, down, across, d)
    y = jnp.stack(_output_transform([y[i] for i in window]))
    y = jnp.stack(_output_transform([y[:, j] for j in window]), axis=4)
    # [row in tile, b, down, across, column in tile, d]
    return y.transpose(1, 2, 0, 3, 4, 5).reshape(b, down * _TILE, across * _TILE, d)


def _spread(g: jax.Array, down: int, across: int) -> jax.Array:
    """A g A^T of [b, 4 down, 4 across, d]: [6, 6, b, down, across, d]."""
    b, d = g.shape[0], g.shape[-1]
    tiles = g.reshape(b, down, _TILE, across, _TILE, d)
    v = jnp.stack(_output_spread([tiles[:, :, i] for i in range(_TILE)]))
    return jnp.stack(_output_spread([v[:, :, :, :, j] for j in range(_TILE)]), 1)


def _correlate(windows: jax.Array, spread: jax.Array) -> jax.Array:
    """Windows times spread gradients, summed over the tiles: [36, c, d]."""
    flat = [a.reshape(36, -1, a.shape[-1]) for a in (windows, spread)]
    return jnp.einsum("tnc,tnd->tcd", *flat)


def _input_transform(d: list[jax.Array]) -> list[jax.Array]:
    """B^T d: coefficients of prod over the other points of (x - p), a row for each point."""
    a, b = math.sqrt(0.5), math.sqrt(2.0)
    near, near_odd = d[4] - 2.0 * d[2], a * d[3] - b * d[1]
    far, far_odd = d[4] - 0.5 * d[2], b * d[3] - a * d[1]
    return [
        d[0] - 2.5 * d[2] + d[4],
        near + near_odd,
        near - near_odd,
        far + far_odd,
        far - far_odd,
        d[1] - 2.5 * d[3] + d[5],
    ]


def _output_transform(m: list[jax.Array]) -> list[jax.Array]:
    """A^T m: powers 0 to 3 of the points, the last with the point at infinity."""
    a, b = math.sqrt(0.5), math.sqrt(2.0)
    near, near_odd, far, far_odd = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        m[0] + near + far,
        a * near_odd + b * far_odd,
        0.5 * near + 2.0 * far,
        0.5 * a * near_odd + 2.0 * b * far_odd + m[5],
    ]


def _output_spread(y: list[jax.Array]) -> list[jax.Array]:
    """A y, the transposed of `_output_transform`: sum of y_i p^i over the points."""
    a, b = math.sqrt(0.5), math.sqrt(2.0)
    near, near_odd = y[0] + 0.5 * y[2], a * y[1] + 0.5 * a * y[3]
    far, far_odd = y[0] + 2.0 * y[2], b * y[1] + 2.0 * b * y[3]
    return [y[0], near + near_odd, near - near_odd, far + far_odd, far - far_odd, y[3]]
