"""One scan from its files to its slices: pure, picklable, memory bounded by the scan.

read -> brain mask -> (N4) -> registration -> intensities -> slices, all of it in the scan's own
space until the slices are sampled. Every writer (PNG, records, TFDS) consumes what comes out.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool

from madad_jax.core import atomic_files, errors
from madad_jax.scans import brain_mask as brain_mask_lib
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import intensity as intensity_lib
from madad_jax.scans import registration as registration_lib
from madad_jax.scans import resample, volumes
from madad_jax.scans import slices as slices_lib

_MOST_MISSING = 0.01  # Of the brain's voxels.
_GOOD_OVERLAP = 0.85
_MOST_OUTSIDE = 0.05  # Of the lesion's volume.


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

    @property
    def paths(self) -> list[str]:
        """Every file (or series folder) of the scan."""
        return [p for p in (*self.images.values(), self.brain_mask, self.segmentation) if p]


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are prepared; everything that changes a pixel.

    Attributes:
      protocol: one of `slices.PROTOCOLS`.
      geometry: of the slices.
      slice_step: every so many levels (`volume` alone).
      least_brain: slices with less brain than this share of the picture are left out.
      registration: see `registration.register`.
      shift: see `registration.register`, mm.
      brain_mask: see `brain_mask.find`.
      intensity, low, high: see `intensity.find_scale`.
      n4: correct the bias field first.
      interpolation: of images, `linear` or `cubic`.
      bits: 8 or 16.
      labels: values of the segmentation that are lesion; () = every value above 0.
      unjudged: values that are neither lesion nor healthy.
    """

    protocol: str = "volume"
    geometry: geometry_lib.Geometry = dataclasses.field(default_factory=geometry_lib.Geometry)
    slice_step: int = 1
    least_brain: float = 0.02
    registration: str = "affine"
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brain_mask: str = "auto"
    intensity: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    n4: bool = False
    interpolation: str = "linear"
    bits: int = 8
    labels: tuple[int, ...] = ()
    unjudged: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = dataclasses.asdict(self) | {"geometry": self.geometry.to_dict()}
        lists = ("shift", "labels", "unjudged")
        return values | {name: list(getattr(self, name)) for name in lists}


_ORDERS = {"linear": 1, "cubic": 3}


def check(options: Options) -> None:
    """Finds mistakes before the first scan is read.

    Raises:
      UserError: a value out of range.
    """
    accepted = {
        "protocol": slices_lib.PROTOCOLS,
        "registration": registration_lib.METHODS,
        "brain_mask": brain_mask_lib.METHODS,
        "intensity": intensity_lib.METHODS,
        "interpolation": tuple(_ORDERS),
        "bits": (8, 16),
    }
    for name, values in accepted.items():
        if getattr(options, name) not in values:
            raise errors.UserError(
                f"{name}: found '{getattr(options, name)}', accepted: "
                f"{', '.join(str(value) for value in values)}"
            )
    if not 0.0 <= options.low < options.high <= 100.0:
        raise errors.UserError(
            f"percentiles: found {options.low:g} and {options.high:g}, accepted: "
            "0 <= low < high <= 100"
        )
    if not 0.0 <= options.least_brain < 1.0:
        raise errors.UserError(
            f"least_brain: found {options.least_brain:g}, accepted: a share from 0 to below 1"
        )
    if options.brain_mask == "template" and options.registration != "none":
        raise errors.UserError(
            "brain_mask=template takes the scan to lie in MNI space; accepted: registration=none"
        )
    slices_lib.numbers(options.protocol, options.geometry, options.slice_step)


@dataclasses.dataclass(frozen=True)
class PreparedSubject:
    """What one scan became.

    Attributes:
      scan, subject: as of the `Item`.
      slices: rising number, then modality in the order asked for.
      transform: scan mm -> ICBM152 mm.
      sha256: {path: digest} of every file that was read.
      warnings: sentences for the summary.
      facts: numbers for the manifest: `voxel_mm`, `brain_ml`, `lesion_ml` (in the scan; None: not
        known), `lesion_ml_in_slices`, `overlap`, `volume_ratio`, `intensity` {modality: [low,
        high] in the scan's units}.
    """

    scan: str
    subject: str
    slices: tuple[slices_lib.PreparedSlice, ...]
    transform: registration_lib.Transform
    sha256: dict[str, str]
    warnings: tuple[str, ...]
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Scan:
    """The reference scan and what was found on it."""

    volume: volumes.Volume
    brain: Bool[np.ndarray, "X Y Z"]
    lesion: Bool[np.ndarray, "X Y Z"] | None
    unjudged: Bool[np.ndarray, "X Y Z"] | None
    transform: registration_lib.Transform


def prepare_subject(item: Item, options: Options) -> PreparedSubject:
    """Reads, masks, registers, normalises and slices one scan.

    The first modality gives brain mask and registration. Others may have another grid: they are
    taken to lie where their headers say, as scans of one session do.

    Raises:
      UserError: a file is unusable; the message names it and says why.
    """
    warnings: list[str] = []
    digests: dict[str, str] = {}
    first, *others = item.images.items()
    scan = _read_scan(item, options, first[1], warnings, digests)
    wanted = slices_lib.numbers(options.protocol, options.geometry, options.slice_step)
    masks = _on_slices(scan.brain, scan, options, wanted)
    truth = _on_slices(scan.lesion, scan, options, wanted)
    if truth is None and item.healthy:
        truth = np.zeros_like(masks)
    doubtful = _on_slices(scan.unjudged, scan, options, wanted)
    chosen = _choose(item, options, masks, truth, doubtful)
    if not chosen:
        warnings.append(_why_none(item, masks, truth))
    images, scales = {}, {}
    for modality, path in (first, *others):
        volume = scan.volume
        if path != first[1]:
            volume = _read(path, warnings, digests)
        if chosen:
            images[modality], scales[modality] = _images(
                volume, scan, options, wanted, chosen, masks
            )
    facts = _facts(scan, options, wanted, truth, warnings) | {"intensity": scales}
    return PreparedSubject(
        scan=item.scan,
        subject=item.subject,
        slices=tuple(_slices(item, wanted, chosen, images, masks, truth)),
        transform=scan.transform,
        sha256=digests,
        warnings=tuple(warnings),
        facts=facts,
    )


def _read(path: str, warnings: list[str], digests: dict[str, str]) -> volumes.Volume:
    volume = volumes.read(path)
    digests[path] = volume.sha256
    warnings += volume.warnings
    return volume


def _read_scan(item: Item, options: Options, path: str, warnings, digests) -> _Scan:
    volume = _read(path, warnings, digests)
    for other in (item.brain_mask, item.segmentation):
        if other:
            digests[other] = atomic_files.sha256(other)
    brain, odd = brain_mask_lib.find(
        volume, options.brain_mask, given=item.brain_mask, shift=options.shift
    )
    warnings += odd
    if volume.missing is not None:
        share = float(volume.missing[brain].mean())
        if share > _MOST_MISSING:
            raise errors.UserError(
                f"'{path}': {share:.1%} of the brain's voxels are NaN or infinite, at most "
                f"{_MOST_MISSING:.0%} may be"
            )
    lesion = unjudged = None
    if item.segmentation:
        labels = volumes.read_labels(item.segmentation, volume)
        lesion = _is(labels, options.labels, item) if options.labels else labels > 0
        unjudged = _is(labels, options.unjudged, item) if options.unjudged else None
        outside = float((lesion & ~brain).sum()) / max(float(lesion.sum()), 1.0)
        if outside > _MOST_OUTSIDE:
            warnings.append(f"{outside:.0%} of the lesion lies outside the brain mask")
    transform = registration_lib.register(
        volume, options.registration, brain=brain, shift=options.shift
    )
    if transform.overlap < _GOOD_OVERLAP:
        warnings.append(
            f"after registration '{options.registration}' the brain and the template's have a "
            f"Dice of {transform.overlap:.2f}; look at the contact sheet"
        )
    return _Scan(volume, brain, lesion, unjudged, transform)


def _is(labels: np.ndarray, values: tuple[int, ...], item: Item) -> np.ndarray:
    """Where a segmentation has one of the values."""
    found = np.unique(labels)
    if (odd := found[found != np.round(found)]).size:
        raise errors.UserError(
            f"'{item.segmentation}' has the value {odd[0]:g}; accepted: whole labels, of which "
            f"{', '.join(map(str, values))} matter"
        )
    return np.isin(labels, values)


def _on_slices(mask: np.ndarray | None, scan: _Scan, options: Options, wanted: list[int]):
    """A mask of the scan on the slices; None stays None."""
    if mask is None:
        return None
    return slices_lib.sample_masks(mask, scan.volume, scan.transform, options.geometry, wanted)


def _choose(item: Item, options: Options, masks, truth, doubtful) -> dict[int, str]:
    """See `slices.choose`."""
    return slices_lib.choose(
        item.split,
        options.protocol,
        masks.sum(axis=(1, 2)).tolist(),
        None if truth is None else truth.sum(axis=(1, 2)).tolist(),
        unjudged=None if doubtful is None else doubtful.any(axis=(1, 2)).tolist(),
        healthy=item.healthy,
        least_brain=math.ceil(options.least_brain * options.geometry.image_size**2),
    )


def _why_none(item: Item, masks: np.ndarray, truth: np.ndarray | None) -> str:
    if not masks.any():
        return "no slice of the protocol meets the brain"
    if truth is None:
        return f"nobody says whether it is healthy: no slice of it may go to {item.split}"
    return f"every slice of the protocol bears a lesion or too little brain for {item.split}"


def _images(
    volume: volumes.Volume,
    scan: _Scan,
    options: Options,
    wanted: list[int],
    chosen: dict[int, str],
    masks: np.ndarray,
) -> tuple[dict[int, np.ndarray], list[float]]:
    """{position: grey picture} of the chosen slices, and the intensities of black and white."""
    brain = scan.brain
    if volume is not scan.volume:
        grids = [geometry_lib.VoxelGrid(v.data.shape, v.affine) for v in (scan.volume, volume)]
        brain = resample.resample(brain, *grids, np.eye(4), order=0)
        if not brain.any():
            raise errors.UserError(
                f"'{volume.source}' does not overlap with the brain of '{scan.volume.source}'; "
                "scans of one session share their coordinates"
            )
    data = intensity_lib.correct_bias(volume, brain) if options.n4 else volume.data
    try:
        scale = intensity_lib.find_scale(
            data, brain, options.intensity, low=options.low, high=options.high
        )
    except errors.UserError as error:
        raise errors.UserError(f"'{volume.source}': {error}") from error
    first, last = min(chosen), max(chosen)
    stack = slices_lib.sample_images(
        data,
        volume,
        scan.transform,
        options.geometry,
        wanted[first : last + 1],
        order=_ORDERS[options.interpolation],
    )
    grey = {k: slices_lib.quantise(scale(stack[k - first]), masks[k], options.bits) for k in chosen}
    return grey, [round(scale.low, 6), round(scale.high, 6)]


def _slices(item, wanted, chosen, images, masks, truth):
    for k, split in chosen.items():
        for modality in images:
            yield slices_lib.PreparedSlice(
                id=f"{item.scan}-slice_{wanted[k]:03d}",
                subject=item.subject,
                scan=item.scan,
                split=split,
                number=wanted[k],
                modality=modality,
                image=images[modality][k],
                brain_mask=masks[k],
                segmentation=None if truth is None else truth[k],
            )


def _facts(scan: _Scan, options: Options, wanted, truth, warnings: list[str]) -> dict[str, Any]:
    """Numbers about the scan; a lesion that the slices lost becomes a warning."""
    lesion_ml = kept_ml = None
    if scan.lesion is not None:
        lesion_ml = float(scan.lesion.sum()) * scan.volume.voxel_ml
        step = (wanted[1] - wanted[0]) * options.geometry.level_step if len(wanted) > 1 else 1.0
        pixel_ml = options.geometry.pixel**2 * step / 1000.0
        kept_ml = float(truth.sum()) * pixel_ml / scan.transform.volume_ratio
        lost = lesion_ml - kept_ml
        whole = options.protocol == "volume" and options.slice_step == 1
        if whole and lost > max(_MOST_OUTSIDE * lesion_ml, 0.1):
            warnings.append(f"{lost:.1f} of {lesion_ml:.1f} ml of lesion lie outside the slices")
    return {
        "shape": list(scan.volume.native.shape),
        "voxel_mm": [round(float(mm), 4) for mm in scan.volume.voxel_mm],
        "brain_ml": round(float(scan.brain.sum()) * scan.volume.voxel_ml, 1),
        "lesion_ml": None if lesion_ml is None else round(lesion_ml, 3),
        "lesion_ml_in_slices": None if kept_ml is None else round(kept_ml, 3),
        "overlap": round(scan.transform.overlap, 4),
        "volume_ratio": round(scan.transform.volume_ratio, 4),
    }
