"""What came out for one scan, as images and as files."""

import dataclasses
import json
import math
from typing import Any

import nibabel as nib
import numpy as np
from etils import epath

from madad_jax.core import atomic_files
from madad_jax.data import discovery
from madad_jax.metrics import calibration as calibration_lib
from madad_jax.predict import dicom_objects, page, spaces
from madad_jax.scans import registration, volumes

NOT_A_DEVICE = (
    "Research software: not a medical device. Not for diagnosis or treatment; a map that shows "
    "nothing does not mean that nothing is there."
)
SUMMARY = discovery.RESULT


@dataclasses.dataclass(frozen=True)
class Result:
    """Arrays are on the scan's canonical grid [X, Y, Z]; images on the scan's own.

    Attributes:
      volume: the scan.
      anomaly: the processed map, [0, 1]; 0 where nothing was scored.
      labels: number of the candidate, 0 for none.
      reconstruction: the scan as the model would have it, in the scan's units; 0 unscored.
      transform: scan mm -> mm of the template.
      summary: JSON-able.
      healthy: healthy scans of the calibration; None: not calibrated.
    """

    volume: volumes.Volume
    anomaly: np.ndarray
    labels: np.ndarray
    reconstruction: np.ndarray
    transform: registration.Transform
    summary: dict[str, Any]
    healthy: calibration_lib.Healthy | None = None

    @property
    def score(self) -> float:
        """The scan's score."""
        return self.summary["scan_score"]["score"]

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Places above the threshold, largest first; see `candidates.list_candidates`."""
        return self.summary["candidates"]

    @property
    def top(self) -> float:
        """The map's value that viewers show brightest; it lies beyond the threshold."""
        threshold = self.summary["operating_point"]["threshold"]
        return max(float(self.anomaly.max()), 1.25 * threshold, 0.01)

    @property
    def anomaly_image(self) -> nib.Nifti1Image:
        """The map on the scan's own grid."""
        return volumes.to_image(self.anomaly, like=self.volume, limits=(0.0, self.top))

    @property
    def mask_image(self) -> nib.Nifti1Image:
        """1 where a candidate is, on the scan's own grid."""
        return volumes.to_image(self.labels > 0, like=self.volume)

    @property
    def reconstruction_image(self) -> nib.Nifti1Image:
        """The healthy version of the scan, on its own grid."""
        return volumes.to_image(self.reconstruction, like=self.volume)

    def save(
        self,
        folder: epath.PathLike,
        report: bool = True,
        *,
        output_format: str = "",
        space: str = "",
    ) -> None:
        """Writes the three volumes, what else is asked for, and last of all `summary.json`.

        Each file is whole or not there; while `summary.json` is missing, the set is not complete.

        Args:
          folder: to write into.
          report: whether `report.html` is written.
          output_format: see `dicom_objects.choose`; why a series has no object is a warning.
          space: see `spaces.choose`.

        Raises:
          UserError: the folder cannot be written, an unknown format or space, or DICOM objects
            were asked for and cannot be made.
        """
        objects, in_template = dicom_objects.choose(output_format), spaces.choose(space)
        folder = epath.Path(folder)
        # First: while there is a summary, readers trust the volumes beside it.
        start_over(folder)
        volumes.write_nifti(
            folder / "anomaly.nii.gz", self.anomaly, like=self.volume, limits=(0.0, self.top)
        )
        volumes.write_nifti(folder / "anomaly_mask.nii.gz", self.labels > 0, like=self.volume)
        volumes.write_nifti(folder / "reconstruction.nii.gz", self.reconstruction, like=self.volume)
        if in_template:
            spaces.write(self, folder)
        # Before page and summary, which show the warnings.
        notes = dicom_objects.write(self, folder, objects)
        known = self.summary["warnings"]
        known += [note for note in notes if note not in known]
        # After the volumes, which are worth having where nilearn's viewer is missing.
        if report:
            atomic_files.write_bytes(folder / "report.html", page.render(self).encode())
        write_summary(folder / SUMMARY, self.summary)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder of one scan's result, a `scan_folder.Place`; its fields are `Result.save`'s."""

    folder: epath.Path
    report: bool = True
    output_format: str = ""
    space: str = ""

    @property
    def summary(self) -> epath.Path:
        """The file that is written last."""
        return self.folder / SUMMARY

    def is_whole(self) -> bool:
        """Whether what is asked for beside the summary is there."""
        return not spaces.choose(self.space) or spaces.are_there(self.folder)

    def start_over(self) -> None:
        """See `start_over`."""
        start_over(self.folder)

    def save(self, result: Result) -> None:
        """See `Result.save`."""
        result.save(self.folder, self.report, output_format=self.output_format, space=self.space)


def write_summary(path: epath.Path, summary: dict[str, Any]) -> None:
    """Writes a summary as JSON. Raises UserError where it cannot be written."""
    text = json.dumps(_plain(summary), indent=1, allow_nan=False) + "\n"
    atomic_files.write_text(path, text)


def start_over(folder: epath.Path) -> None:
    """Takes the summary of an earlier run away, and what a killed one left half written.

    And what this run may not write anew: an object of another threshold would pass for this one's.
    """
    if folder.is_dir():
        for path in (folder / SUMMARY, *folder.glob("*.new")):
            path.unlink(missing_ok=True)
        spaces.remove(folder)
        dicom_objects.remove(folder)


def _plain(value: Any) -> Any:
    """JSON has no NaN: what is not known is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    # Percentiles and overlaps that nobody measured.
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
