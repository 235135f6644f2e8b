"""From an image and its correction to an anomaly map, on device.

    a = G_sigma * ( min(d, gamma) / gamma )                                  (paper eq. 7)

Paper: d = (x_hat - x)^2, the correction against the input, gamma = 0.2.
Official code: d = |x_hat - D(E(x))|, the correction against the autoencoded input,
gamma = 0.25, sigma = 5 pixels at 256 (scipy's gaussian_filter: reflected, cut at 4 sigma).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from madad_jax.core import errors

DIFFERENCES = ("l1", "l2")
REFERENCES = ("input", "autoencoded")


@dataclasses.dataclass(frozen=True)
class Residual:
    """From a reconstruction to a map: clipped difference, filters, brain mask.

    Attributes:
      difference: l1 | l2.
      gamma: where the difference is clipped, which becomes 1; 0: the widest there can be.
      sigma: of the smoothing, in pixels.
      inside_brain: zeroes the map outside the brain mask.
      median: side of a median filter in pixels, before the smoothing; 0: none.
      erosion: side in pixels of the squares that the brain mask is eroded by, before the
        filters; 0: not. What it cuts off counts as 0.
    """

    difference: str = "l1"
    gamma: float = 0.0
    sigma: float = 0.0
    inside_brain: bool = False
    median: int = 0
    erosion: int = 0

    def __call__(
        self,
        corrected: Float[jax.Array, "b H W 1"],
        reference: Float[jax.Array, "b H W 1"],
        brain_mask: Bool[jax.Array, "b H W"],
    ) -> Float[jax.Array, "b H W"]:
        """The map, in [0, 1]."""
        maps = clipped_difference(
            corrected, reference, difference=self.difference, gamma=self.gamma
        )
        return self.finish(maps, brain_mask)

    def finish(
        self, maps: Float[jax.Array, "b H W"], brain_mask: Bool[jax.Array, "b H W"]
    ) -> Float[jax.Array, "b H W"]:
        """Filters and brain mask alone, for maps that are no plain difference."""
        if self.erosion > 1:
            # Before the filters, so that an error at the skull does not bleed inwards.
            maps = maps * erode_mask(brain_mask, self.erosion)
        maps = gaussian_smooth(median_filter(maps, self.median), self.sigma)
        return maps * brain_mask if self.inside_brain else maps


def clipped_difference(
    corrected: Float[jax.Array, "b H W 1"],
    reference: Float[jax.Array, "b H W 1"],
    *,
    difference: str,
    gamma: float,
) -> Float[jax.Array, "b H W"]:
    """min(d, gamma) / gamma in [0, 1].

    gamma = 0 ("no clipping" in the paper's table 4) takes the largest difference that two
    images in [-1, 1] can have, so that maps stay comparable with thresholds in [0, 1].
    Raises UserError for an unknown difference.
    """
    delta = (corrected - reference)[..., 0]
    if difference == "l1":
        d, widest = jnp.abs(delta), 2.0
    elif difference == "l2":
        d, widest = jnp.square(delta), 4.0
    else:
        raise errors.UserError(
            f"score.difference: found {difference!r}, accepted: {', '.join(DIFFERENCES)}"
        )
    gamma = gamma if gamma > 0 else widest
    return jnp.minimum(d, gamma) / gamma


def gaussian_kernel(sigma: float, truncate: float = 4.0) -> np.ndarray:
    """scipy's sampled and normalised kernel, float64 [2 * int(truncate sigma + 0.5) + 1]."""
    # scipy rounds the radius half up; another rounding gives another kernel.
    radius = int(truncate * sigma + 0.5)
    x = np.arange(-radius, radius + 1)
    k = np.exp(-0.5 * (x / sigma) ** 2)
    return k / k.sum()


def gaussian_smooth(maps: Float[jax.Array, "b H W"], sigma: float) -> Float[jax.Array, "b H W"]:
    """Gaussian filter with scipy's defaults (edge-reflecting, cut at 4 sigma); sigma in pixels.

    sigma = 0 returns the maps as they are. Two one-dimensional convolutions: the kernel
    separates, which turns 41^2 multiplications a pixel into 82.
    """
    if sigma <= 0:
        return maps
    kernel = gaussian_kernel(sigma)
    radius = len(kernel) // 2
    # A wider kernel would reach beyond the mirrored image and read it twice.
    if radius > min(maps.shape[1:]):
        raise errors.UserError(
            f"score.sigma: {sigma} pixels reach beyond an image of {maps.shape[1:]}"
        )
    k = jnp.asarray(kernel, jnp.float32)
    # "symmetric" repeats the edge pixel: numpy's name for scipy's "reflect".
    x = jnp.pad(maps, ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")[..., None]
    dimensions = ("NHWC", "HWIO", "NHWC")
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        x = jax.lax.conv_general_dilated(
            x,
            k.reshape(shape),
            (1, 1),
            "VALID",
            dimension_numbers=dimensions,
            # TPUs and GPUs would multiply in bfloat16 or TF32, and move thresholds by it.
            precision=jax.lax.Precision.HIGHEST,
        )
    return x[..., 0]


def median_filter(maps: Float[jax.Array, "b H W"], size: int) -> Float[jax.Array, "b H W"]:
    """Median of the `size` x `size` pixels around each, borders reflected (scipy's "reflect").

    `size` must be odd; 1 and 0 return the maps as they are.
    """
    if size <= 1:
        return maps
    if size % 2 == 0:
        raise errors.UserError(f"score.median: found {size}, accepted: 0 and odd numbers")
    height, width = maps.shape[1:]
    reach = size // 2
    x = jnp.pad(maps, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    # A stack of all shifts and one sort: windows are small (5 x 5), and XLA has no median.
    shifted = [x[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return jnp.sort(jnp.stack(shifted), axis=0)[size * size // 2]


def erode_mask(
    brain_mask: Bool[jax.Array, "b H W"], size: int, min_fraction: float = 0.95
) -> Bool[jax.Array, "b H W"]:
    """Brain pixels whose `size` x `size` neighbourhood is brain in more than `min_fraction`.

    DenoisingAE's erosion (5, 0.95); outside the slice is no brain. 1 and 0 change nothing.
    """
    if size <= 1:
        return brain_mask
    sums = jax.lax.reduce_window(
        brain_mask.astype(jnp.float32), 0.0, jax.lax.add, (1, size, size), (1, 1, 1), "SAME"
    )
    # SAME pads by zeros, which counts what lies outside the slice as no brain.
    return brain_mask & (sums > min_fraction * size * size)
