"""One scan from its files to its slices: pure, picklable, memory bounded by the scan."""

import dataclasses
from typing import Any

from madad_jax.data import geometry as geometry_lib
from madad_jax.data.prepare import registration, slices


@dataclasses.dataclass(frozen=True)
class Item:
    """The files of one scan, as a cohort's table finds them. Paths are text.

    Attributes:
      scan: id, unique in the data set.
      subject: the person.
      split: `train`, `val` or `test`.
      images: {modality: path}; the first is what brain mask and registration are made from.
      brain_mask: path; "" = none.
      segmentation: path; "" = none.
      healthy: known to have no lesion.
    """

    scan: str
    subject: str
    split: str
    images: dict[str, str]
    brain_mask: str = ""
    segmentation: str = ""
    healthy: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are prepared; everything that changes a pixel.

    Attributes:
      protocol: `s1`, `s2` or `volume`.
      geometry: of the slices.
      registration: see `registration.register`.
      shift: see `registration.register`.
      brain_mask: see `brain_mask.find`.
      intensity, low, high: see `intensity.normalise`.
      n4: correct the bias field first.
      bits: 8 or 16.
      labels: values of the segmentation that are lesion; () = every value above 0.
    """

    protocol: str = "volume"
    geometry: geometry_lib.Geometry = geometry_lib.Geometry()
    registration: str = "affine"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brain_mask: str = "auto"
    intensity: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    n4: bool = False
    bits: int = 8
    labels: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class PreparedSubject:
    """What one scan became.

    Attributes:
      scan, subject: as of the `Item`.
      slices: rising number, then modality in the order asked for.
      transform: scan mm -> ICBM152 mm.
      sha256: {path: digest} of every file that was read.
      warnings: sentences for the summary.
      facts: numbers for the manifest (`brain_ml`, `lesion_ml`, `voxel_mm`, ...).
    """

    scan: str
    subject: str
    slices: tuple[slices.PreparedSlice, ...]
    transform: registration.Transform
    sha256: dict[str, str]
    warnings: tuple[str, ...]
    facts: dict[str, Any]


def prepare_subject(item: Item, options: Options) -> PreparedSubject:
    """Reads, masks, registers, normalises and slices one scan.

    Raises:
      UserError: a file is unusable; the message names it and says why.
    """
    raise NotImplementedError
