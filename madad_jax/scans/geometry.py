"""Where the pixels of a slice lie in the head: millimetres of ICBM152 space.

Slices are axial squares of ICBM152 space (x to the subject's right, y to the front, z up; the
origin at the anterior commissure). Row 0 is the front. Columns run with x, so the subject's
left is on the left of the picture; `left="right"` mirrors that to the radiologists' view. The
embedded cohort and prepared folders use the same convention:

    x = centre_x + (column - (n - 1) / 2) * pixel        pixel = field_of_view / n
    y = centre_y - (row - (n - 1) / 2) * pixel
    z = first_level + slice * level_step

The defaults are the template's own grid: slice k is the k-th level of ICBM152 at 1 mm as nilearn
ships it (2009a, 197 x 233 x 189 voxels).

Slices of scans that were registered to a template of the user's own lie in that template's mm, by
the same equations. Centre and levels are then those of its brain (`target.lay_slices`).
"""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from madad_jax.core import errors

# Middle of the template's brain in plane, mm; the cohort's slices are centred there as well.
CENTRE = (0.0, -18.0)
LEFT = ("left", "right")
# Whose millimetres: those of the built-in template, or of one that the user gave.
ICBM152, GIVEN = SPACES = ("ICBM152", "template")


@dataclasses.dataclass(frozen=True)
class VoxelGrid:
    """A box of voxels: `shape` and the 4 x 4 matrix `affine` from indices to mm."""

    shape: tuple[int, int, int]
    affine: Float64[np.ndarray, "4 4"]


def _template_grid() -> VoxelGrid:
    affine = np.eye(4)
    affine[:3, 3] = (-98.0, -134.0, -72.0)
    return VoxelGrid((197, 233, 189), affine)


# ICBM152 nonlinear symmetric 2009a at 1 mm: [x, y, z] to the right, the front and up.
TEMPLATE_GRID = _template_grid()


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How the slices of a data set lie in the template's space.

    Attributes:
      image_size: side of a slice, px.
      field_of_view: side of a slice, mm.
      centre: (x, y) of the slice's middle, mm.
      left: side of the picture on which the subject's left lies, `left` or `right`.
      first_level: z of slice number 0, mm.
      level_step: mm between slices whose numbers differ by one.
      space: whose millimetres, one of `SPACES`.
      last_level: z of the last slice of a given template, mm; None: of ICBM152, which is known.
    """

    image_size: int = 256
    field_of_view: float = 256.0
    centre: tuple[float, float] = CENTRE
    left: str = "left"
    first_level: float = -72.0
    level_step: float = 1.0
    space: str = ICBM152
    last_level: float | None = None

    def __post_init__(self):
        sizes = (self.field_of_view, *self.centre, self.first_level, self.level_step)
        if not all(math.isfinite(value) for value in sizes):
            raise errors.UserError(f"geometry: found {sizes}, accepted: finite numbers (mm)")
        if self.image_size < 1 or self.field_of_view <= 0 or self.level_step <= 0:
            raise errors.UserError(
                f"geometry: found image_size {self.image_size}, field_of_view "
                f"{self.field_of_view}, level_step {self.level_step}; accepted: above 0"
            )
        if self.left not in LEFT:
            raise errors.UserError(
                f"geometry.left: found '{self.left}', accepted: {', '.join(LEFT)}"
            )
        if self.space not in SPACES:
            raise errors.UserError(
                f"geometry.space: found '{self.space}', accepted: {', '.join(SPACES)}"
            )
        last = self.last_level
        if (last is None) != (self.space == ICBM152):
            raise errors.UserError(
                f"geometry.last_level: found {last} with space {self.space}; accepted: a height "
                f"with '{GIVEN}' alone"
            )
        if last is not None and not (math.isfinite(last) and last >= self.first_level):
            raise errors.UserError(
                f"geometry.last_level: found {last}, accepted: at least {self.first_level:g} mm"
            )

    @property
    def pixel(self) -> float:
        """Side of a pixel, mm."""
        return self.field_of_view / self.image_size

    def level(self, number: int | float) -> float:
        """Height z of slice `number`, mm."""
        return self.first_level + number * self.level_step

    def number(self, level_mm: int | float) -> int:
        """Number of the slice nearest to the height `level_mm`."""
        return round((level_mm - self.first_level) / self.level_step)

    def affine(self, first: int = 0, step: int = 1, subpixels: int = 1) -> np.ndarray:
        """Matrix float64 [4, 4] from (k, row, column, 1) to (x, y, z, 1) in mm.

        Args:
          first: slice number of k = 0.
          step: slice numbers between k and k + 1.
          subpixels: pixels are cut into so many rows and columns, which are then counted.
        """
        side = self.image_size * subpixels
        pixel = self.field_of_view / side
        right = 1.0 if self.left == "left" else -1.0
        matrix = np.zeros((4, 4))
        matrix[0, 2] = right * pixel
        matrix[1, 1] = -pixel
        matrix[2, 0] = step * self.level_step
        # From the first to the last pixel's centre it is side - 1 pixels, not side.
        matrix[0, 3] = self.centre[0] - right * pixel * (side - 1) / 2
        matrix[1, 3] = self.centre[1] + pixel * (side - 1) / 2
        matrix[2, 3] = self.level(first)
        matrix[3, 3] = 1.0
        return matrix

    def grid(self, numbers: Sequence[int], subpixels: int = 1) -> VoxelGrid:
        """Voxels [k, row, column] of equally spaced slices, for resampling.

        Raises:
          ValueError: `numbers` is empty or does not rise by a constant step.
        """
        # A single slice has no step; it counts for one level.
        steps = set(np.diff(numbers).tolist()) or {1}
        if not len(numbers) or len(steps) > 1 or min(steps) < 1:
            raise ValueError(f"slice numbers must rise by a constant step: {numbers}")
        side = self.image_size * subpixels
        affine = self.affine(numbers[0], steps.pop(), subpixels)
        return VoxelGrid((len(numbers), side, side), affine)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `from_dict`."""
        values = dataclasses.asdict(self)
        # Of ICBM152 it is not written: files of before stay the same to the byte.
        if self.last_level is None:
            del values["last_level"]
        return values | {"centre": list(self.centre)}


def from_dict(values: dict[str, Any]) -> Geometry:
    """The inverse of `Geometry.to_dict`; keys that are missing take their defaults.

    Raises:
      UserError: unknown key, wrong type or value out of range.
    """
    fields = {field.name: field.type for field in dataclasses.fields(Geometry)}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise errors.UserError(
                f"geometry: unknown key '{key}'{hint} (accepted: {', '.join(fields)})"
            )
    given = dict(values)
    kinds = {"image_size": int, "left": str, "space": str}
    kinds |= dict.fromkeys(("field_of_view", "first_level", "level_step", "last_level"), float)
    try:
        for key in kinds.keys() & given.keys():
            given[key] = kinds[key](given[key])
        if "centre" in given:
            x, y = given["centre"]
            given["centre"] = (float(x), float(y))
    except (TypeError, ValueError) as error:
        raise errors.UserError(
            f"geometry: found {given}, accepted: image_size in px, the others in mm, centre [x, y]"
        ) from error
    return Geometry(**given)


def from_cohort_sizes(
    *, image_size: int, slices: int, slice_spacing: float, field_of_view: float, middle: float
) -> Geometry:
    """The geometry of the embedded cohort, from its sizes.

    Args:
      image_size: px.
      slices: per subject.
      slice_spacing: mm.
      field_of_view: mm.
      middle: height of the middle of the stack, mm (`cohort.MIDDLE_LEVEL`).
    """
    return Geometry(
        image_size=image_size,
        field_of_view=field_of_view,
        first_level=middle - (slices - 1) / 2 * slice_spacing,
        level_step=slice_spacing,
    )
