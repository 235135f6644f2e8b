"""3x3 convolutions of inference on a CPU: Winograd's minimal filtering, and doubling by parts.

XLA's CPU code multiplies a 3x3 convolution out: 9 products an output, input and output channel.

* Winograd F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308): tiles of 6x6 inputs and the kernel are
  transformed, multiplied as 36 matrix products, and transformed back to 4x4 outputs: 36 / 16 =
  2.25 products. Y = A^T [(G k G^T) * (B^T d B)] A. The points are 0, +-sqrt(1/2), +-sqrt(2) and
  infinity and not the usual 0, +-1, +-2: the largest error in float32 is a fifth of theirs.
* Nearest doubling and a 3x3 convolution read each input two or three times for one output: the
  sums of those taps are a 2x2 convolution for each of the four parities of the output, 4
  products in place of 9. Exact algebra.

Both are for inference. Under differentiation the plain convolution runs, forward and backward:
there XLA is already faster than oneDNN.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from madad_jax import errors

IMPLEMENTATIONS = ("auto", "plain", "winograd")
DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Where "auto" takes the fast forms: measured on two cores (benchmarks/README.md).
MIN_CHANNELS = 128
MIN_PIXELS = 512  # of the batch; below, transforming the kernel costs what the product saves
MIN_SOURCE_PIXELS = 256  # of the batch, before doubling

_TILE = 4
_WINDOW = _TILE + 2
_CHUNK = 2**16  # tiles x channels that are transformed at once, so that they stay in cache
_WORK = 2**24  # multiply-adds of one product, below which two cores do not share it
_OUTPUTS = 128  # channels at once where kernels (input x output channels) are more than that

_POINTS = np.array([0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0)])


def _kernel_transform() -> Float[np.ndarray, "6 3"]:
    """G: a row for each point, (1, p, p^2) over the product of its distances to the others."""
    others = _POINTS[:, None] - _POINTS[None]
    np.fill_diagonal(others, 1.0)
    rows = _POINTS[:, None] ** np.arange(3) / others.prod(axis=1)[:, None]
    return np.concatenate([rows, [[0.0, 0.0, 1.0]]])


_G = _kernel_transform()
_G2 = np.einsum("ai,bj->abij", _G, _G).reshape(36, 9).astype(np.float32)


def check_implementation(key: str, implementation: str) -> None:
    """Raises `UserError` when `implementation` is unknown."""
    if implementation not in IMPLEMENTATIONS:
        accepted = ", ".join(IMPLEMENTATIONS)
        raise errors.UserError(f"{key}: found {implementation!r}, accepted are {accepted}")


def convolve(
    x: Shaped[jax.Array, "b h w c"], kernel: Shaped[jax.Array, "3 3 c d"], implementation: str
) -> Shaped[jax.Array, "b h w d"]:
    """3x3 convolution, stride 1, one zero on every side.

    `implementation`: "plain"; "winograd", whatever the device; "auto": Winograd on a CPU where
    the shape makes it pay. bfloat16 is always plain.

    Raises:
        UserError: the implementation is unknown.
    """
    check_implementation("convolution", implementation)
    pays = min(kernel.shape[2:]) >= MIN_CHANNELS and _pixels(x) >= MIN_PIXELS
    return _choose(_plain, winograd, pays, implementation, x, kernel)


def upsample_convolve(
    x: Shaped[jax.Array, "b h w c"], kernel: Shaped[jax.Array, "3 3 c d"], implementation: str
) -> Shaped[jax.Array, "b hh ww d"]:
    """Nearest doubling of both sides, then a 3x3 convolution with one zero on every side.

    `implementation` as in `convolve`; the fast form is `upsample_by_parity`.

    Raises:
        UserError: the implementation is unknown.
    """
    check_implementation("convolution", implementation)
    pays = min(kernel.shape[2:]) >= MIN_CHANNELS and _pixels(x) >= MIN_SOURCE_PIXELS
    return _choose(_upsample_plain, upsample_by_parity, pays, implementation, x, kernel)


def _pixels(x):
    return _images(x) * x.shape[1] * x.shape[2]


def _images(x):
    """The batch; 1 in an export, whose batch is free."""
    return x.shape[0] if isinstance(x.shape[0], int) else 1


def _choose(plain, fast, pays, implementation, x, kernel):
    if implementation == "plain" or x.dtype != jnp.float32:
        return plain(x, kernel)
    if implementation == "winograd":
        return _without_gradient(plain, fast)(x, kernel)
    if not pays:
        return plain(x, kernel)
    # Decided when the program is lowered: an export for several platforms holds both.
    return jax.lax.platform_dependent(x, kernel, cpu=_without_gradient(plain, fast), default=plain)


@functools.cache
def _without_gradient(plain, fast):
    """`fast`, and `plain` as soon as a derivative is taken."""
    function = jax.custom_jvp(fast)
    function.defjvp(lambda primals, tangents: jax.jvp(plain, primals, tangents))
    return function


def _plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS
    )


def upsample_nearest(x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww c"]:
    """Nearest-neighbour doubling of both image axes."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
    return x.reshape(b, 2 * h, 2 * w, c)


def _upsample_plain(x, kernel):
    return _plain(upsample_nearest(x), kernel)


def upsample_by_parity(
    x: Shaped[jax.Array, "b h w c"], kernel: Shaped[jax.Array, "3 3 c d"]
) -> Shaped[jax.Array, "b hh ww d"]:
    """As doubling and convolving: a 2x2 convolution for each parity of row and column.

    An even output row 2i reads doubled rows 2i-1, 2i, 2i+1, which are rows i-1, i, i; an odd
    one rows i, i, i+1.
    """
    b, h, w, _ = x.shape
    rows = []
    for odd_row in (0, 1):
        parts = []
        for odd_column in (0, 1):
            taps = _merged(_merged(kernel, 0, odd_row), 1, odd_column)
            padding = ((1 - odd_row, odd_row), (1 - odd_column, odd_column))
            parts.append(
                jax.lax.conv_general_dilated(x, taps, (1, 1), padding, dimension_numbers=DIMENSIONS)
            )
        rows.append(jnp.stack(parts, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[-1])


def _merged(kernel, axis, odd):
    """Three taps along `axis` as the two that an output of this parity has."""
    first, second, third = jnp.split(kernel, 3, axis)
    parts = (first + second, third) if odd else (first, second + third)
    return jnp.concatenate(parts, axis)


def winograd(
    x: Float[jax.Array, "b h w c"], kernel: Float[jax.Array, "3 3 c d"]
) -> Float[jax.Array, "b h w d"]:
    """The 3x3 convolution with one zero on every side by F(4x4, 3x3), any size of image."""
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    down, across = -(-h // _TILE), -(-w // _TILE)
    padding = ((1, down * _TILE - h + 1), (1, across * _TILE - w + 1))
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    widest = max(c, d)
    tiles = max(_CHUNK // widest, _WORK // widest**2)
    rows = _divisor(down, tiles // (_images(x) * across))
    if rows == down:
        y = _by_outputs(x, kernel, down, across)
    else:
        kernels = _transformed(kernel)

        def part(i):
            strip = jax.lax.dynamic_slice_in_dim(x, i * rows * _TILE, rows * _TILE + 2, axis=1)
            return _products(_windows(strip, rows, across), kernels)

        y = jax.lax.map(part, jnp.arange(down // rows))
        y = jnp.moveaxis(y, 0, 1).reshape(b, down * _TILE, across * _TILE, d)
    return y[:, :h, :w]


def _by_outputs(x: jax.Array, kernel: jax.Array, down: int, across: int) -> jax.Array:
    """All tiles at once, and where kernels are many, some output channels after the other: their
    transforms, four times the size of the kernels, are more than a small image and stay in cache
    like this."""
    c, d = kernel.shape[2:]
    windows, width = _windows(x, down, across), _divisor(d, _OUTPUTS)
    if c * d <= _CHUNK or width == d:
        return _products(windows, _transformed(kernel))

    def part(i):
        some = jax.lax.dynamic_slice_in_dim(kernel, i * width, width, axis=3)
        return _products(windows, _transformed(some))

    y = jax.lax.map(part, jnp.arange(d // width))
    return jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], d)


def _transformed(kernel: jax.Array) -> jax.Array:
    """G k G^T as [36, c, d]."""
    return (_G2 @ kernel.reshape(9, -1)).reshape(36, *kernel.shape[2:])


def _divisor(count: int, most: int) -> int:
    """The largest divisor of `count` that is not above `most`; at least 1."""
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
