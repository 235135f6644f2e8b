"""3x3 convolutions on a CPU: Winograd's minimal filtering, and doubling by parts.

XLA's CPU code multiplies a 3x3 convolution out: 9 products an output, input and output channel.

* `winograd.py` takes 2.25, forward and for both gradients.
* Nearest doubling and a 3x3 convolution read each input two or three times for one output: the
  sums of those taps are a 2x2 convolution for each of the four parities of the output, 4
  products in place of 9. Exact algebra. Its gradients are those of the convolution of the
  doubled map.

The fast forms have derivatives in reverse mode alone (`jax.grad`, as often as one likes).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from madad_jax.core import errors
from madad_jax.models.layers import winograd

IMPLEMENTATIONS = ("auto", "plain", "winograd")
DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Where "auto" takes the fast forms: measured on two cores (benchmarks/README.md).
MIN_CHANNELS = 64
MIN_PIXELS = 512  # of the batch; below, transforming the kernel costs what the product saves
MIN_SOURCE_PIXELS = 256  # of the batch, before doubling


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
    # Winograd's sums cancel: in bfloat16 the result would lose most of its digits.
    if implementation == "plain" or x.dtype != jnp.float32:
        return _plain(x, kernel)
    if implementation == "winograd":
        return _winograd(x, kernel, True)
    # Both channel counts: a thin input or output leaves little product to save.
    pays = min(kernel.shape[2:]) >= MIN_CHANNELS and _pixels(x) >= MIN_PIXELS
    return _winograd(x, kernel, False) if pays else _plain(x, kernel)


def upsample_convolve(
    x: Shaped[jax.Array, "b h w c"], kernel: Shaped[jax.Array, "3 3 c d"], implementation: str
) -> Shaped[jax.Array, "b hh ww d"]:
    """Nearest doubling of both sides, then a 3x3 convolution with one zero on every side.

    `implementation` as in `convolve`; the fast form is `upsample_by_parity`.

    Raises:
        UserError: the implementation is unknown.
    """
    check_implementation("convolution", implementation)
    if implementation == "plain" or x.dtype != jnp.float32:
        return _upsample_plain(x, kernel)
    if implementation == "winograd":
        return _by_parity(x, kernel, True)
    pays = min(kernel.shape[2:]) >= MIN_CHANNELS and _pixels(x) >= MIN_SOURCE_PIXELS
    return _by_parity(x, kernel, False) if pays else _upsample_plain(x, kernel)


def _pixels(x):
    images = x.shape[0] if isinstance(x.shape[0], int) else 1  # in an export the batch is free
    return images * x.shape[1] * x.shape[2]


def _choose_by_platform(fast, plain, always, *inputs):
    """`fast` on a CPU and `plain` elsewhere, decided when the program is lowered: an export for
    several platforms holds both."""
    if always:
        return fast(*inputs)
    # Not `jax.default_backend()`: a program may be lowered here for another device.
    return jax.lax.platform_dependent(*inputs, cpu=fast, default=plain)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd(x, kernel, always):
    return _choose_by_platform(winograd.convolve, _plain, always, x, kernel)


def _winograd_forward(x, kernel, always):
    return _winograd(x, kernel, always), (x, kernel)


def _winograd_backward(always, saved, g):
    return _choose_by_platform(_fast_gradients, _plain_gradients, always, *saved, g)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _fast_gradients(x, kernel, g):
    # A convolution's input gradient is the convolution with the kernel turned by 180 degrees.
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return winograd.convolve(g, turned), winograd.kernel_gradient(x, g)


def _plain_gradients(x, kernel, g):
    return jax.vjp(_plain, x, kernel)[1](g)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_parity(x, kernel, always):
    return _choose_by_platform(upsample_by_parity, _upsample_plain, always, x, kernel)


def _by_parity_forward(x, kernel, always):
    return _by_parity(x, kernel, always), (x, kernel)


def _by_parity_backward(always, saved, g):
    implementation = "winograd" if always else "auto"

    def doubled(x, kernel):
        return convolve(upsample_nearest(x), kernel, implementation)

    return jax.vjp(doubled, *saved)[1](g)


_by_parity.defvjp(_by_parity_forward, _by_parity_backward)


def _plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=DIMENSIONS
    )


def upsample_nearest(x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww c"]:
    """Nearest-neighbour doubling of both image axes."""
    b, h, w, c = x.shape
    # Broadcast and reshape: no element is looked up by an index.
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
            taps = _merge_taps(_merge_taps(kernel, 0, odd_row), 1, odd_column)
            padding = ((1 - odd_row, odd_row), (1 - odd_column, odd_column))
            parts.append(
                jax.lax.conv_general_dilated(x, taps, (1, 1), padding, dimension_numbers=DIMENSIONS)
            )
        rows.append(jnp.stack(parts, axis=3))
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, kernel.shape[-1])


def _merge_taps(kernel, axis, odd):
    """Three taps along `axis` as the two that an output of this parity has."""
    first, second, third = jnp.split(kernel, 3, axis)
    parts = (first + second, third) if odd else (first, second + third)
    return jnp.concatenate(parts, axis)
