"""How a run's training slices were made from scans, so that a new scan is prepared alike.

Kept in `<run>/preparation.json`. For the embedded cohort it follows from its sizes; a prepared
folder carries it as `dataset.json`; slices of unknown origin have none, and then a run can score
slices but no scans.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from madad_jax.core import errors
from madad_jax.data.cohort import cohort as cohort_lib
from madad_jax.scans import geometry as geometry_lib

FILE = "preparation.json"
DATASET = "dataset.json"
# What the embedded cohort does to its intensities (`appearance.scale`), by this name.
COHORT = "cohort"


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What is done to a scan before its slices are scored.

    Attributes:
      geometry: of the slices.
      modality: what the run was trained on.
      registration: as `registration.register` names it.
      shift: see `registration.register`.
      brain_mask: as `brain_mask.find` names it.
      intensity: as `intensity.normalise` names it, or `cohort`.
      low, high: its percentiles.
      n4: correct the bias field first.
      interpolation: of images, `linear` or `cubic`.
      least_brain: slices with less brain than this share of the picture are left out.
      numbers: (first, last, step) of the training slices' numbers; None: not known.
    """

    geometry: geometry_lib.Geometry
    modality: str
    registration: str = "affine"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brain_mask: str = "auto"
    intensity: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    n4: bool = False
    interpolation: str = "linear"
    least_brain: float = 0.02
    numbers: tuple[int, int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `from_dict`."""
        values = dataclasses.asdict(self)
        return values | {"geometry": self.geometry.to_dict(), "shift": list(self.shift)}


def from_dict(values: dict[str, Any], where: str) -> Preparation:
    """The inverse of `Preparation.to_dict`; other keys are left alone.

    Raises:
      UserError: no geometry or modality, or a value of another kind; `where` names the file.
    """
    known = {field.name for field in dataclasses.fields(Preparation)}
    try:
        values = {**values.get("options", {}), **values}  # where `dataset.json` has them
        given = {key: value for key, value in values.items() if key in known}
        given["geometry"] = geometry_lib.from_dict(dict(given["geometry"]))
        if "shift" in given:
            x, y, z = given["shift"]
            given["shift"] = (float(x), float(y), float(z))
        if given.get("numbers") is not None:
            first, last, step = given["numbers"]
            given["numbers"] = (int(first), int(last), int(step))
        return Preparation(**given)
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UserError(
            f"{where}: no description of prepared slices ({type(error).__name__}: {error}); "
            "accepted: JSON with 'geometry' and 'modality'"
        ) from error


def of_source(
    *, name: str, root: str, modality: str, image_size: int, cohort: dict[str, Any] | None
) -> Preparation | None:
    """How the slices of a data source were made; None when nobody said.

    Raises:
      UserError: a damaged `dataset.json`.
    """
    if name == "cohort":
        options = cohort_lib.options_from_dict(cohort)
        return Preparation(
            geometry=geometry_lib.of_cohort(
                image_size=image_size,
                slices=options.slices,
                slice_spacing=options.slice_spacing,
                field_of_view=options.field_of_view,
                middle=cohort_lib.MIDDLE_LEVEL,
            ),
            modality=modality,
            intensity=COHORT,
            numbers=(0, options.slices - 1, 1),
        )
    path = epath.Path(root) / DATASET
    if not root or not path.exists():
        return None
    found = from_dict(_read(path) | {"modality": modality}, str(path))
    # A folder of 256 px serves a run of 128 px: the same square, fewer pixels.
    geometry = dataclasses.replace(found.geometry, image_size=image_size)
    return dataclasses.replace(found, geometry=geometry)


def read(path: epath.PathLike) -> Preparation:
    """Reads `preparation.json` or `dataset.json`.

    Raises:
      UserError: unreadable, or something else.
    """
    return from_dict(_read(epath.Path(path)), str(path))


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise errors.UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise errors.UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise errors.UserError(f"{path}: no table of values; accepted: JSON with 'geometry'")
    return values
