"""What is done to a scan before its slices are used: every option that changes a pixel.

Training slices (`madad_jax.prepare`) and scans to be scored (`madad_jax.predict`) share these
options, and `to_slices` carries them out for both.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from madad_jax.core import errors, messages
from madad_jax.scans import brain_mask as brain_mask_lib
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import given_template
from madad_jax.scans import intensity as intensity_lib
from madad_jax.scans import registration as registration_lib

# Spline orders of `resample.resample`. Masks and labels always take the nearest voxel.
INTERPOLATION_ORDERS = {"linear": 1, "cubic": 3}
# A head has some 200 levels of 1 mm; these bounds only keep a damaged file from taking all memory.
MOST_SLICES = 4096
MOST_PIXELS = 4096  # a side


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
      template: of the user's own, one or one a week of gestation; (): ICBM152.
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
    template: tuple[given_template.Template, ...] = ()

    def at_age(self, weeks: float | None) -> "Preparation":
        """The same with the one template for a scan of this gestational age.

        Raises:
          UserError: an age is needed, or no template is near it.
        """
        if not self.template:
            return self
        return dataclasses.replace(self, template=(given_template.choose(self.template, weeks),))

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
            space = "the template's" if self.template else "MNI"
            raise errors.UserError(
                f"brain_mask=template takes the scan to lie in {space} space; accepted: "
                "registration=none"
            )
        wanted = geometry_lib.GIVEN if self.template else geometry_lib.ICBM152
        if self.geometry.space != wanted:
            raise errors.UserError(
                f"geometry.space: found {self.geometry.space} with {len(self.template)} templates "
                f"of one's own; accepted: {wanted}"
            )
        if self.geometry.image_size > MOST_PIXELS:
            raise errors.UserError(
                f"image_size: found {messages.shorten(self.geometry.image_size)}, accepted: at "
                f"most {MOST_PIXELS}"
            )


def check_kinds(values: Mapping[str, Any]) -> None:
    """Looks at the options of a `Preparation` as a file gives them, before one is made of them.

    Raises:
      UserError: a value of another kind than its option.
    """
    words = ("registration", "brain_mask", "intensity", "interpolation")
    kinds = dict.fromkeys(words, "a word") | dict.fromkeys(
        ("low", "high", "least_brain"), "a number"
    )
    if "template" in values:
        given_template.from_list(values["template"])
    kinds |= {"n4": "true or false", "shift": "three numbers (mm)", "geometry": "an object"}
    for name, kind in kinds.items():
        if name in values and not _is_kind(values[name], kind):
            raise errors.UserError(
                f"{name}: found {messages.shorten(values[name])}, accepted: {kind}"
            )


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "a number":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and -1e6 < value < 1e6  # NaN is not.
    if kind == "three numbers (mm)":
        known = isinstance(value, (list, tuple)) and len(value) == 3
        return known and all(_is_kind(part, "a number") for part in value)
    return isinstance(value, {"a word": str, "true or false": bool, "an object": dict}[kind])


def check_numbers(numbers: Any) -> tuple[int, int, int]:
    """(first, last, step) of slice numbers that a file names.

    Raises:
      UserError: no three whole numbers, a step below 1, none or more than `MOST_SLICES`.
    """
    known = isinstance(numbers, (list, tuple)) and len(numbers) == 3
    if known and all(type(value) is int and abs(value) < 10**6 for value in numbers):
        first, last, step = numbers
        if step >= 1 and 0 <= last - first < MOST_SLICES * step:
            return first, last, step
    raise errors.UserError(
        f"numbers: found {messages.shorten(numbers)}, accepted: [first, last, step] of 1 to "
        f"{MOST_SLICES} slices"
    )


def check_choice(name: str, found: Any, accepted: Collection[Any]) -> None:
    """Checks an option that has a few values.

    Raises:
      UserError: `found` is none of the `accepted` values of option `name`.
    """
    if found not in accepted:
        values = ", ".join(str(value) for value in accepted)
        raise errors.UserError(f"{name}: found '{messages.shorten(found)}', accepted: {values}")
