"""The scan that comes with the package: a healthy head with a lesion painted in.

    madad_jax.load()(madad_jax.predict.example.path())

Where it is from, and its licence: `example_scan/README.md`. The painted lesion is a known truth, so
what a detector finds there can be held against it.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

FOLDER = pathlib.Path(__file__).parent / "example_scan"


def path() -> pathlib.Path:
    """The scan: T1, a whole head, 2 mm."""
    return FOLDER / "painted_t1.nii.gz"


def lesion_path() -> pathlib.Path:
    """Where the lesion was painted: 1 there, on the scan's grid."""
    return FOLDER / "painted_t1_lesion.nii.gz"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was found, beside what was painted.

    Attributes:
      painted_ml: volume of the painted lesion.
      covered: share of the lesion that lies in candidates, 0 to 1.
      over_ml: volume of each candidate that overlaps the lesion, largest first.
      elsewhere_ml: of each other candidate.
    """

    painted_ml: float
    covered: float
    over_ml: tuple[float, ...]
    elsewhere_ml: tuple[float, ...]

    def __str__(self) -> str:
        """One sentence."""
        elsewhere = _count(self.elsewhere_ml) + " elsewhere"
        if not self.over_ml:
            return (
                f"No candidate overlaps the painted lesion of {self.painted_ml:.1f} ml: {elsewhere}"
            )
        verb = "overlaps" if len(self.over_ml) == 1 else "overlap"
        return (
            f"{_count(self.over_ml)} {verb} the painted lesion of {self.painted_ml:.1f} ml and "
            f"{verb.replace('overlap', 'cover')} {100 * self.covered:.0f} % of it; {elsewhere}"
        )


def _count(volumes_ml: Sequence[float]) -> str:
    """`2 candidates (3.1 ml)`."""
    plural = "" if len(volumes_ml) == 1 else "s"
    volume = f" ({sum(volumes_ml):.1f} ml)" if volumes_ml else ""
    return f"{len(volumes_ml) or 'no'} candidate{plural}{volume}"


def compare(
    labels: Int[np.ndarray, "X Y Z"],
    candidates: Sequence[dict[str, Any]],
    painted: Bool[np.ndarray, "X Y Z"],
    voxel_ml: float,
) -> Comparison:
    """Holds the candidates of a scan against a painted lesion.

    Args:
      labels: number of the candidate, 0 for none; as in `result.Result`.
      candidates: `number` and `volume_ml` of each, largest first.
      painted: the lesion, which has voxels.
      voxel_ml: volume of a voxel.
    """
    inside = labels[painted]
    # A candidate too thin for the scan's voxels has no label: it overlaps nothing.
    touching = set(np.unique(inside[inside > 0]).tolist())
    over = [c["volume_ml"] for c in candidates if c["number"] in touching]
    elsewhere = [c["volume_ml"] for c in candidates if c["number"] not in touching]
    covered = float((inside > 0).mean())
    painted_ml = float(painted.sum()) * voxel_ml
    return Comparison(painted_ml, covered, tuple(over), tuple(elsewhere))
