"""A scan's axial slices under a `Geometry`, and maps on slices back to the scan."""

import dataclasses

import numpy as np
from jaxtyping import Bool


@dataclasses.dataclass(frozen=True)
class PreparedSlice:
    """One slice of one modality, ready to be written.

    Attributes:
      id: the scan's id and the slice's number, `{scan}-slice_{number:03d}`; with the modality it
        is unique in the data set.
      subject: the person (may have several scans).
      scan: id of the scan: what stands before `-slice_` in file names.
      split: `train`, `val`, `test` or `test_healthy`.
      number: slice number, see `Geometry.level`.
      modality: `T1`, `T2`, `FLAIR`, ...
      image: uint8 or uint16 over [0, 1], 0 outside the brain.
      brain_mask: inside the brain.
      segmentation: the lesion; None: not known.
    """

    id: str
    subject: str
    scan: str
    split: str
    number: int
    modality: str
    image: np.ndarray
    brain_mask: Bool[np.ndarray, "H W"]
    segmentation: Bool[np.ndarray, "H W"] | None
