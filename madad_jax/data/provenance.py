"""How a run's training slices were made from scans, so that a new scan is prepared alike.

Kept in `<run>/preparation.json`. For the embedded cohort it follows from its sizes; a prepared
folder carries it as `dataset.json`; slices of unknown origin have none, and then a run can score
slices but no scans.
"""

import dataclasses
from typing import Any

from etils import epath

from madad_jax.core import errors, json_file, messages
from madad_jax.data.cohort import appearance
from madad_jax.data.cohort import cohort as cohort_lib
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import given_template
from madad_jax.scans import preparation as preparation_lib

FILE = "preparation.json"
DATASET = "dataset.json"
# What the embedded cohort does to its intensities (`appearance.scale`), by this name.
COHORT = "cohort"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourcePreparation(preparation_lib.Preparation):
    """A `Preparation`, and which slices were made by it: what a run keeps of its training data.

    A subclass and not a holder: files and `to_slices` read both as one table.

    Attributes:
      modality: what the run was trained on.
      numbers: (first, last, step) of the training slices' numbers; None: not known.
    """

    modality: str
    numbers: tuple[int, int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `from_dict`."""
        # Geometry and modality lead, as in the files that runs keep: a run evaluated again by
        # another version must leave the same bytes.
        first = {"geometry": self.geometry.to_dict(), "modality": self.modality}
        values = dataclasses.asdict(self) | first | {"shift": list(self.shift)}
        # Of ICBM152 nothing is written, as before there were others.
        del values["template"]
        own = {"template": given_template.to_list(self.template)} if self.template else {}
        return first | values | own


def from_dict(values: dict[str, Any], where: str) -> SourcePreparation:
    """The inverse of `SourcePreparation.to_dict`; other keys are left alone.

    Raises:
      UserError: no geometry or modality, or a value of another kind; `where` names the file.
    """
    known = {field.name for field in dataclasses.fields(SourcePreparation)}
    try:
        values = {**values.get("options", {}), **values}  # where `dataset.json` has them
        # Others belong to other programs, or to later versions.
        given = {key: value for key, value in values.items() if key in known}
        preparation_lib.check_kinds(given)
        if not isinstance(given["modality"], str):
            raise errors.UserError(f"modality: found {messages.shorten(given['modality'])}")
        given["geometry"] = geometry_lib.from_dict(dict(given["geometry"]))
        if "shift" in given:
            x, y, z = given["shift"]
            given["shift"] = (float(x), float(y), float(z))
        if "template" in given:
            given["template"] = given_template.from_list(given["template"])
        if given.get("numbers") is not None:
            given["numbers"] = preparation_lib.check_numbers(given["numbers"])
        found = SourcePreparation(**given)
        found.check(more_intensities=(COHORT,))
        if found.intensity == COHORT:  # Its levels are known by modality.
            preparation_lib.check_choice("modality", found.modality, appearance.TISSUES)
    except errors.UserError as error:
        raise errors.UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise errors.UserError(
            f"{where}: no description of prepared slices ({type(error).__name__}: "
            f"{messages.shorten(error)}); accepted: JSON with 'geometry' and 'modality'"
        ) from error
    return found


def describe_source(
    *, name: str, root: str, modality: str, image_size: int, cohort: dict[str, Any] | None
) -> SourcePreparation | None:
    """How the slices of a data source were made; None where that is not known.

    Raises:
      UserError: a damaged `dataset.json`.
    """
    if name == "cohort":
        options = cohort_lib.options_from_dict(cohort)
        return SourcePreparation(
            geometry=geometry_lib.from_cohort_sizes(
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
    found = from_dict(json_file.read_object(path) | {"modality": modality}, str(path))
    # A folder of 256 px serves a run of 128 px: the same square, fewer pixels.
    geometry = dataclasses.replace(found.geometry, image_size=image_size)
    return dataclasses.replace(found, geometry=geometry)


def read(path: epath.PathLike) -> SourcePreparation:
    """Reads `preparation.json` or `dataset.json`.

    Raises:
      UserError: unreadable, or something else.
    """
    return from_dict(json_file.read_object(path), str(path))
