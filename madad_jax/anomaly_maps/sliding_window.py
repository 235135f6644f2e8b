"""A function of slices of one size, over larger slices: overlapping windows, averaged.

    out(p) = sum_w g(p - w) f(window w)(p - w) / sum_w g(p - w)

w runs over windows that are `step` pixels apart and g is a Gaussian around a window's middle. A
slice that the windows do not fit is padded with background on all sides first.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from madad_jax.core import errors

_LEAST_WEIGHT = 1e-3  # no corner of a window counts nothing
_BACKGROUND = -1.0


@dataclasses.dataclass(frozen=True)
class Window:
    """`side` in pixels; `step` between windows and deviation `sigma` of the weights, in shares of
    the side."""

    side: int = 128
    step: float = 0.25
    sigma: float = 0.125

    def __post_init__(self):
        if self.side < 1 or not 0.0 < self.step <= 1.0 or self.sigma <= 0:
            raise errors.UserError(
                f"window, step, sigma: found {self.side}, {self.step}, {self.sigma}; accepted: at "
                "least 1 pixel, above 0 to 1, above 0"
            )

    def is_needed(self, shape: tuple[int, int]) -> bool:
        """Whether slices of (H, W) are larger than the window."""
        return max(shape) > self.side

    def starts(self, length: int) -> tuple[list[int], int]:
        """(first pixels of the windows along an axis, its length with padding)."""
        step = max(1, int(self.step * self.side))
        count = 1 + max(0, -(-(length - self.side) // step))
        return [step * i for i in range(count)], step * (count - 1) + self.side

    def weights(self) -> np.ndarray:
        """g, float32 [side, side], largest value 1."""
        place = np.arange(self.side) - (self.side - 1) / 2
        line = np.exp(-0.5 * (place / (self.sigma * self.side)) ** 2)
        square = np.outer(line, line)
        return np.maximum(square / square.max(), _LEAST_WEIGHT).astype(np.float32)


def apply(
    function: Callable[[jax.Array, jax.Array], Any],
    images: Float[jax.Array, "b H W 1"],
    brain_masks: Bool[jax.Array, "b H W"],
    window: Window,
) -> Any:
    """`function` over all windows, averaged.

    Args:
      function: (images [b,side,side,1], brain masks [b,side,side]) -> arrays [b,side,side,...].
      images: with background -1.
      brain_masks: True in the brain.
      window: size, step and weights.

    Returns: what `function` gives, [b,H,W,...]; slices within the window are given to it whole.
    """
    shape = brain_masks.shape[1:]
    if not window.is_needed(shape):
        return function(images, brain_masks)
    (rows, height), (columns, width) = (window.starts(length) for length in shape)
    before = (height - shape[0]) // 2, (width - shape[1]) // 2
    margins = [(b, n - s - b) for b, n, s in zip(before, (height, width), shape, strict=True)]
    brain = jnp.pad(brain_masks, ((0, 0), *margins))
    x = jnp.pad(images, ((0, 0), *margins, (0, 0)), constant_values=_BACKGROUND)
    g, side = window.weights(), window.side
    total = np.zeros((height, width), np.float32)
    corners = [(r, c) for r in rows for c in columns]
    for r, c in corners:
        total[r : r + side, c : c + side] += g

    def sized(like: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.zeros((like.shape[0], height, width, *like.shape[3:]), jnp.float32)

    def add(sums: Any, corner: jax.Array) -> tuple[Any, None]:
        def one(a: jax.Array) -> jax.Array:
            start = (0, corner[0], corner[1], *[0] * (a.ndim - 3))
            return jax.lax.dynamic_slice(a, start, (len(a), side, side, *a.shape[3:]))

        def put(a: jax.Array, found: jax.Array) -> jax.Array:
            start = (0, corner[0], corner[1], *[0] * (a.ndim - 3))
            share = (g / one(jnp.asarray(total)[None])).reshape(side, side, *[1] * (a.ndim - 3))
            return jax.lax.dynamic_update_slice(a, one(a) + share * found, start)

        return jax.tree.map(put, sums, function(one(x), one(brain))), None

    zero = jax.tree.map(sized, jax.eval_shape(function, x[:, :side, :side], brain[:, :side, :side]))
    # A scan: the function is compiled once, however many windows there are.
    sums, _ = jax.lax.scan(add, zero, jnp.asarray(corners))
    end = before[0] + shape[0], before[1] + shape[1]
    return jax.tree.map(lambda a: a[:, before[0] : end[0], before[1] : end[1]], sums)
