"""What is done to a scan before its slices are used: every option that changes a pixel.

Training slices (`madad_jax.prepare`) and scans to be scored (`madad_jax.predict`) share these
options, and `to_slices` carries them out for both.
"""

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

from madad_jax.core import errors
from madad_jax.scans import brain_mask as brain_mask_lib
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import intensity as intensity_lib
from madad_jax.scans import registration as registration_lib

# Spline orders of `resample.resample`. Masks and labels always take the nearest voxel.
INTERPOLATION_ORDERS = {"linear": 1, "cubic": 3}


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a scan becomes slices.

    Attributes:
      geometry: of the slices.
      registration: as `registration.register` names it.
      shift: see `registration.register`, mm.
      brain_mask: as `brain_mask.find` names it.
      intensity: as `intensity.find_scale` names it, or a scaling that a caller of `to_slices`
        brings along.
      low, high: its percentiles.
      n4: correct the bias field first.
      interpolation: of images, one of `INTERPOLATION_ORDERS`.
      least_brain: slices with less brain than this share of the picture are left out.
    """

    geometry: geometry_lib.Geometry = dataclasses.field(default_factory=geometry_lib.Geometry)
    registration: str = "affine"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brain_mask: str = "auto"
    intensity: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    n4: bool = False
    interpolation: str = "linear"
    least_brain: float = 0.02

    @property
    def least_brain_pixels(self) -> int:
        """Fewest pixels of brain that make a slice worth having; at least one."""
        # Rounded up from the product, which may exceed a whole number by a rounding error (0.17 of
        # 50 x 50 px gives 426, not 425). Folders on disk were cut by this very expression.
        return max(1, math.ceil(self.least_brain * self.geometry.image_size**2))

    def check(self, *, more_intensities: Sequence[str] = ()) -> None:
        """Finds mistakes before the first scan is read.

        Args:
          more_intensities: scalings that the caller brings along.

        Raises:
          UserError: a value out of range, or two that exclude each other.
        """
        accepted = {
            "registration": registration_lib.METHODS,
            "brain_mask": brain_mask_lib.METHODS,
            "intensity": (*intensity_lib.METHODS, *more_intensities),
            "interpolation": tuple(INTERPOLATION_ORDERS),
        }
        for name, values in accepted.items():
            check_choice(name, getattr(self, name), values)
        if not 0.0 <= self.low < self.high <= 100.0:
            raise errors.UserError(
                f"percentiles: found {self.low:g} and {self.high:g}, accepted: "
                "0 <= low < high <= 100"
            )
        if not 0.0 <= self.least_brain < 1.0:
            raise errors.UserError(
                f"least_brain: found {self.least_brain:g}, accepted: a share from 0 to below 1"
            )
        # The template's mask is laid through the header alone, so an affine map found from it
        # would register the template to itself.
        if self.brain_mask == "template" and self.registration != "none":
            raise errors.UserError(
                "brain_mask=template takes the scan to lie in MNI space; accepted: "
                "registration=none"
            )


def check_choice(name: str, found: Any, accepted: Collection[Any]) -> None:
    """Checks an option that has a few values.

    Raises:
      UserError: `found` is none of the `accepted` values of option `name`.
    """
    if found not in accepted:
        values = ", ".join(str(value) for value in accepted)
        raise errors.UserError(f"{name}: found '{found}', accepted: {values}")
