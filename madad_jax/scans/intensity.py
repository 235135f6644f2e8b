"""Scanner units -> [0, 1], by what is inside the brain.

Scalings that take 0 for black need scans whose 0 is air. `lay_zero` sees to that: z-scores, scans
minus 1024 and the like become what they were before up to a factor.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.scans import itk, skull, volumes

METHODS = ("percentile", "zscore")
_MOST_BELOW = 0.1  # Share of the brain at or under black: fluid is darker than all else, not black.
_NOISE = 0.02  # Of the brain's range: air no further from 0 than this is noise.
_LOUD_NOISE = 0.25
_DARKEST = 0.5  # Percentile of a brain that stands for black: 0 to 0.08 of white in raw scans.
_SPREAD = 3.0  # Standard deviations on either side of the mean that `zscore` keeps.


@dataclasses.dataclass(frozen=True)
class Scale:
    """The linear map from `low` -> 0 and `high` -> 1, clipped."""

    low: float
    high: float

    def __call__(self, data: np.ndarray) -> np.ndarray:
        """Values in [0, 1], float32."""
        # A product in float32 and no division: slices on disk were rounded this way, and a scan to
        # be scored must be rounded alike.
        unit = (data - np.float32(self.low)) * np.float32(1.0 / (self.high - self.low))
        return np.clip(unit, 0.0, 1.0, dtype=np.float32)


def lay_zero(
    data: Float32[np.ndarray, "X Y Z"], brain: Bool[np.ndarray, "X Y Z"]
) -> tuple[Float32[np.ndarray, "X Y Z"], float, list[str]]:
    """The data with air at 0.

    Args:
      data: intensities.
      brain: where the brain is.

    Returns:
      The data minus black (the same array where that is 0), black, and what a person should know.
    """
    inside = data[brain]
    top = float(np.percentile(inside, 98.0))
    constant = skull.find_constant(data)
    # Without a constant around it, what is darkest in a whole head is air.
    air = float(np.percentile(data, 1.0)) if constant is None else constant
    below = float((inside <= air).mean())
    if constant is not None and below > _MOST_BELOW:
        black = float(np.percentile(inside, _DARKEST))
        text = (
            f"{below:.0%} of the brain lie at or under the background's {constant:g}: 0 is not air "
            f"here; the brain's darkest {_DARKEST:g} % ({black:g}) count as black"
        )
        # Else the rim of the brain would be mixed with a background of middle grey.
        around = (data == np.float32(constant)) & ~brain
        return np.where(around, np.float32(0.0), data - np.float32(black)), black, [text]
    # Next to 0 air is what scanners write; noise without a constant may lie somewhat above it.
    most = _LOUD_NOISE if constant is None and air > 0 else _NOISE
    if abs(air) <= most * (top - air):
        return data, 0.0, []
    named = "the background is" if constant is not None else "air lies at"
    return data - np.float32(air), air, [f"{named} {air:g}, which counts as black"]


def find_scale(
    data: Float32[np.ndarray, "*shape"],
    mask: Bool[np.ndarray, "*shape"],
    method: str = "percentile",
    *,
    low: float = 1.0,
    high: float = 99.0,
) -> Scale:
    """What becomes 0 and 1.

    Args:
      data: intensities.
      mask: the brain.
      method: `percentile` (of the brain's voxels) or `zscore` (mean -+ 3 standard deviations).
      low: percentile that becomes 0; 0 stands for the value 0 itself, as in THOR's scaling by
        the 98th percentile (`low=0, high=98`).
      high: percentile that becomes 1.

    Raises:
      UserError: unknown method, percentiles out of order, or a constant brain.
    """
    inside = data[mask]
    if method == "percentile":
        if not 0.0 <= low < high <= 100.0:
            raise errors.UserError(
                f"percentiles: found {low:g} and {high:g}, accepted: 0 <= low < high <= 100"
            )
        ends = np.percentile(inside, (low, high))
        bottom, top = (0.0 if low == 0.0 else ends[0]), ends[1]
    elif method == "zscore":
        # Sums of a million voxels in float32 lose the digits that the spread is made of.
        mean, spread = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
        bottom, top = mean - _SPREAD * spread, mean + _SPREAD * spread
    else:
        raise errors.UserError(f"intensity: found '{method}', accepted: {', '.join(METHODS)}")
    if not top > bottom:
        raise errors.UserError(
            f"intensities inside the brain go from {bottom:g} to {top:g}: nothing to scale"
        )
    return Scale(float(bottom), float(top))


def correct_bias(
    volume: volumes.Volume,
    mask: Bool[np.ndarray, "X Y Z"],
    data: Float32[np.ndarray, "X Y Z"] | None = None,
) -> Float32[np.ndarray, "X Y Z"]:
    """N4 (Tustison et al. 2010) by SimpleITK: the data divided by a smooth field.

    The field is found on voxels of about 4 mm inside the mask and applied to all.

    Args:
      volume: where the scan lies.
      mask: the brain.
      data: intensities with air at 0; None: the volume's.
    """
    sitk = itk.load()
    data = volume.data if data is None else data
    # N4 works on logarithms: what is not above 0 has none.
    positive = mask & (data > 0)
    if not positive.any():
        raise errors.UserError(f"'{volume.source}': no intensity above 0 in the brain for N4")
    bright = np.where(positive, data, 0).astype(np.float32)
    image = itk.image(sitk, bright, volume.voxel_mm)
    brain = itk.image(sitk, positive.astype(np.uint8), volume.voxel_mm)
    # The field varies over centimetres, and N4's time grows with the number of voxels.
    shrink = [max(1, int(4.0 // mm)) for mm in volume.voxel_mm]
    correct = sitk.N4BiasFieldCorrectionImageFilter()
    correct.SetMaximumNumberOfIterations([50, 50, 50, 50])
    correct.SetConvergenceThreshold(1e-3)
    correct.Execute(sitk.Shrink(image, shrink), sitk.Shrink(brain, shrink))
    field = np.exp(sitk.GetArrayFromImage(correct.GetLogBiasFieldAsImage(image)))
    return (data / field.transpose(2, 1, 0)).astype(np.float32)
