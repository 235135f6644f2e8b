"""One scan from its files to its slices: pure, picklable, memory bounded by the scan.

What is done to a pixel is `scans.to_slices`, as for scans to be scored. Here stand files, other
modalities, lesions, and which slices are kept. Every writer (PNG, records, TFDS) consumes what
comes out.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool

from madad_jax.core import atomic_files, errors, messages
from madad_jax.data import reading
from madad_jax.scans import given_template, to_slices, volumes
from madad_jax.scans import preparation as preparation_lib
from madad_jax.scans import registration as registration_lib
from madad_jax.scans import slices as slices_lib

_MOST_OUTSIDE = 0.05  # Of the lesion's volume.
KEPT_OUT = "kept out of"  # Begins the warning of a scan whose place is in doubt.
_LEAST_LOST_ML = 0.1  # Nearest-neighbour sampling moves a small lesion's volume by about as much.


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
      weeks: gestational age; None: not known, or of no fetus.
    """

    scan: str
    subject: str
    split: str
    images: dict[str, str]
    brain_mask: str = ""
    segmentation: str = ""
    healthy: bool = False
    weeks: float | None = None

    @property
    def paths(self) -> list[str]:
        """Every file (or series folder) of the scan."""
        return [p for p in (*self.images.values(), self.brain_mask, self.segmentation) if p]


@dataclasses.dataclass(frozen=True)
class Options:
    """How scans are prepared; everything that changes a pixel, or which slices are kept.

    Attributes:
      preparation: how a scan becomes slices, as it will be done to scans to be scored.
      protocol: one of `slices.PROTOCOLS`.
      slice_step: every so many levels (`volume` alone).
      bits: 8 or 16.
      labels: values of the segmentation that are lesion; () = every value above 0.
      unjudged: values that are neither lesion nor healthy.
      dcm2niix: whether dcm2niix converts DICOM that is not read here.
    """

    preparation: preparation_lib.Preparation = dataclasses.field(
        default_factory=preparation_lib.Preparation
    )
    protocol: str = "volume"
    slice_step: int = 1
    bits: int = 8
    labels: tuple[int, ...] = ()
    unjudged: tuple[int, ...] = ()
    dcm2niix: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON: one flat table."""
        p = self.preparation
        # Keys and their order are those of the folders that people have: `dataset.json` is
        # compared byte by byte, and `output.key` digests these values.
        return {
            "protocol": self.protocol,
            "geometry": p.geometry.to_dict(),
            "slice_step": self.slice_step,
            "least_brain": p.least_brain,
            "registration": p.registration,
            "shift": list(p.shift),
            "brain_mask": p.brain_mask,
            "intensity": p.intensity,
            "low": p.low,
            "high": p.high,
            "n4": p.n4,
            "interpolation": p.interpolation,
            "bits": self.bits,
            "labels": list(self.labels),
            "unjudged": list(self.unjudged),
            **({"dcm2niix": True} if self.dcm2niix else {}),
            **({"template": given_template.to_list(p.template)} if p.template else {}),
        }

    @property
    def slice_numbers(self) -> list[int]:
        """Slice numbers that the protocol looks at, rising.

        Raises:
          UserError: unknown protocol or step.
        """
        return slices_lib.numbers(self.protocol, self.preparation.geometry, self.slice_step)

    def check(self) -> None:
        """Finds mistakes before the first scan is read.

        Raises:
          UserError: a value out of range.
        """
        preparation_lib.check_choice("protocol", self.protocol, slices_lib.PROTOCOLS)
        preparation_lib.check_choice("bits", self.bits, (8, 16))
        self.preparation.check()
        slices_lib.numbers(self.protocol, self.preparation.geometry, self.slice_step)


@dataclasses.dataclass(frozen=True)
class PreparedSubject:
    """What one scan became.

    Attributes:
      scan, subject: as of the `Item`.
      slices: rising number, then modality in the order asked for.
      transform: scan mm -> mm of the template.
      sha256: {path: digest} of every file that was read.
      warnings: sentences for the summary.
      facts: numbers for the manifest: `voxel_mm`, `brain_ml`, `lesion_ml` (in the scan; None: not
        known), `lesion_ml_in_slices`, `overlap`, `agreement`, `volume_ratio`, `intensity`
        {modality: [low, high] in the scan's units}; of a template of the user's own `template`, and
        `gestational_weeks` where they are known.
    """

    scan: str
    subject: str
    slices: tuple[slices_lib.PreparedSlice, ...]
    transform: registration_lib.Transform
    sha256: dict[str, str]
    warnings: tuple[str, ...]
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Truth:
    """What a segmentation says, on the scan's canonical grid; None: not known.

    Attributes:
      lesion: where the lesion is.
      unjudged: what is neither lesion nor healthy.
    """

    lesion: Bool[np.ndarray, "X Y Z"] | None = None
    unjudged: Bool[np.ndarray, "X Y Z"] | None = None


def prepare_subject(item: Item, options: Options) -> PreparedSubject:
    """Reads, masks, registers, normalises and slices one scan.

    The first modality gives brain mask and registration. Others may have another grid: they are
    taken to lie where their headers say, as scans of one session do.

    Raises:
      UserError: a file is unusable; the message names it and says why.
    """
    warnings: list[str] = []
    digests: dict[str, str] = {}
    # Of templates of several weeks, the one for this scan.
    options = dataclasses.replace(options, preparation=options.preparation.at_age(item.weeks))
    preparation, numbers = options.preparation, options.slice_numbers
    reference = next(iter(item.images))
    volume = _read(item, reference, options, warnings, digests)
    # Masks too: a scan is due again when any of its files changes.
    for other in (item.brain_mask, item.segmentation):
        if other:
            digests[other] = atomic_files.sha256(other)
    # Before `locate`: a bad segmentation is found without waiting for a registration.
    marked = _read_truth(item, options, volume, warnings)
    located = to_slices.locate(volume, preparation, brain_mask_file=item.brain_mask)
    warnings += [*located.warnings, *_check_inside(marked.lesion, located.brain)]

    def sample(lesion):
        if lesion is None:
            return None
        return to_slices.sample_lesions(lesion, located, preparation, numbers)

    masks = to_slices.sample_mask(located.brain, located, preparation, numbers)
    truth = sample(marked.lesion)
    # Known health is as good as a segmentation without a lesion.
    if truth is None and item.healthy:
        truth = np.zeros_like(masks)
    chosen = _choose(item, options, masks, truth, sample(marked.unjudged))
    # A test scan stays, marked by its warnings: a result that is missing is no better.
    kept = {k: to for k, to in chosen.items() if not located.doubts or to.startswith("test")}
    if len(kept) < len(chosen):
        warnings.append(f"{KEPT_OUT} {item.split}: where its slices lie is in doubt")
        chosen = kept
    elif not chosen:
        warnings.append(_why_none(item, masks, truth))
    images, scales = {}, {}
    for modality in item.images:
        seen = volume
        # Two modalities may be series of one folder.
        if modality != reference:
            seen = _read(item, modality, options, warnings, digests)
        if chosen:
            images[modality], scales[modality] = _draw(
                seen, located, options, chosen, masks, warnings
            )
    facts = _measure(located, marked.lesion, options, truth, warnings) | {"intensity": scales}
    facts |= {"template": preparation.template[0].file} if preparation.template else {}
    facts |= {} if item.weeks is None else {"gestational_weeks": item.weeks}
    return PreparedSubject(
        scan=item.scan,
        subject=item.subject,
        slices=tuple(_slices(item, numbers, chosen, images, masks, truth)),
        transform=located.transform,
        sha256=digests,
        warnings=tuple(warnings),
        facts=facts,
    )


def _read(
    item: Item, modality: str, options: Options, warnings: list[str], digests: dict[str, str]
) -> volumes.Volume:
    path = item.images[modality]
    volume = reading.read(path, reading.Wish(contrast=modality, dcm2niix=options.dcm2niix))
    digests[path] = volume.sha256
    warnings += volume.warnings
    return volume


def _read_truth(
    item: Item, options: Options, volume: volumes.Volume, warnings: list[str]
) -> _Truth:
    """Lesion and doubtful places of the item's segmentation."""
    if not item.segmentation:
        return _Truth()
    labels = volumes.read_labels(item.segmentation, volume)
    _check_named(labels, options, item.segmentation, warnings)
    return _Truth(
        lesion=np.isin(labels, options.labels) if options.labels else labels > 0,
        unjudged=np.isin(labels, options.unjudged) if options.unjudged else None,
    )


def _check_named(labels: np.ndarray, options: Options, path: str, warnings: list[str]) -> None:
    """Refuses a mask of one value that is not the table's: its lesions would count as healthy."""
    named = (*options.labels, *options.unjudged)
    found = np.unique(labels[labels > 0])
    if not options.labels or not found.size or np.isin(found, named).any():
        return
    values = ", ".join(f"{value:g}" for value in found[:5]) + ", ..." * (found.size > 5)
    text = f"'{path}' holds {values} and none of the table's labels ({messages.shorten(named)})"
    # Of several values some may well stand for healthy tissue; 255 alone is how masks are stored.
    if found.size == 1 and (len(named) == 1 or found[0] == 255):
        raise errors.UserError(f"{text}; accepted: labels: [{values}], or a mask of the label")
    warnings.append(f"{text}: nothing in it counts as lesion")


def _check_inside(lesion: np.ndarray | None, brain: np.ndarray) -> list[str]:
    """A warning where the brain mask loses a part of the lesion."""
    if lesion is None:
        return []
    outside = float((lesion & ~brain).sum()) / max(float(lesion.sum()), 1.0)
    if outside > _MOST_OUTSIDE:
        return [f"{outside:.0%} of the lesion lies outside the brain mask"]
    return []


def _choose(item: Item, options: Options, masks, truth, doubtful) -> dict[int, str]:
    """See `slices.choose`."""
    return slices_lib.choose(
        item.split,
        options.protocol,
        masks.sum(axis=(1, 2)).tolist(),
        None if truth is None else truth.sum(axis=(1, 2)).tolist(),
        unjudged=None if doubtful is None else doubtful.any(axis=(1, 2)).tolist(),
        healthy=item.healthy,
        least_brain=options.preparation.least_brain_pixels,
    )


def _why_none(item: Item, masks: np.ndarray, truth: np.ndarray | None) -> str:
    if not masks.any():
        return "no slice of the protocol meets the brain"
    if truth is None:
        return f"nobody says whether it is healthy: no slice of it may go to {item.split}"
    return f"every slice of the protocol bears a lesion or too little brain for {item.split}"


def _draw(
    volume: volumes.Volume,
    located: to_slices.Located,
    options: Options,
    chosen: dict[int, str],
    masks: np.ndarray,
    warnings: list[str],
) -> tuple[dict[int, np.ndarray], list[float]]:
    """{position: grey picture} of the chosen slices, and the intensities of black and white."""
    # A protocol may look at 190 levels of which a few are kept: only what lies between is sampled.
    part = slice(min(chosen), max(chosen) + 1)
    images, scale = to_slices.sample_images(
        volume,
        located,
        options.preparation,
        options.slice_numbers[part],
        masks[part],
        warnings=warnings,
    )
    grey = {k: slices_lib.quantise(images[k - part.start], masks[k], options.bits) for k in chosen}
    return grey, [round(scale.low, 6), round(scale.high, 6)]


def _slices(item, numbers, chosen, images, masks, truth):
    for k, split in chosen.items():
        for modality in images:
            yield slices_lib.PreparedSlice(
                id=f"{item.scan}-slice_{numbers[k]:03d}",
                subject=item.subject,
                scan=item.scan,
                split=split,
                number=numbers[k],
                modality=modality,
                image=images[modality][k],
                brain_mask=masks[k],
                segmentation=None if truth is None else truth[k],
            )


def _measure(
    located: to_slices.Located,
    lesion: np.ndarray | None,
    options: Options,
    truth: np.ndarray | None,
    warnings: list[str],
) -> dict[str, Any]:
    """Numbers about the scan; a lesion that the slices lost becomes a warning."""
    volume, transform = located.volume, located.transform
    geometry, numbers = options.preparation.geometry, options.slice_numbers
    lesion_ml = kept_ml = None
    if lesion is not None:
        lesion_ml = float(lesion.sum()) * volume.voxel_ml
        step = (numbers[1] - numbers[0]) * geometry.level_step if len(numbers) > 1 else 1.0
        pixel_ml = geometry.pixel**2 * step / 1000.0
        # Pixels measure ml of the template; the registration may have scaled the head.
        kept_ml = float(truth.sum()) * pixel_ml / transform.volume_ratio
        lost = lesion_ml - kept_ml
        whole = options.protocol == "volume" and options.slice_step == 1
        if whole and lost > max(_MOST_OUTSIDE * lesion_ml, _LEAST_LOST_ML):
            warnings.append(f"{lost:.1f} of {lesion_ml:.1f} ml of lesion lie outside the slices")
    return {
        "shape": list(volume.native.shape),
        "voxel_mm": [round(float(mm), 4) for mm in volume.voxel_mm],
        "brain_ml": round(float(located.brain.sum()) * volume.voxel_ml, 1),
        "lesion_ml": None if lesion_ml is None else round(lesion_ml, 3),
        "lesion_ml_in_slices": None if kept_ml is None else round(kept_ml, 3),
        "overlap": round(transform.overlap, 4),
        "agreement": round(transform.agreement, 4),
        "volume_ratio": round(transform.volume_ratio, 4),
    }
