"""A scan to its slices: the one way, for training slices and for scans to be scored.

brain mask -> NaN check -> registration -> masks on the slices -> air to 0 -> (N4) -> images on
the slices -> intensities. Everything stays in the scan's own space until the slices are sampled, so
that each picture is interpolated once.

`prepare` takes the steps one by one: it lays several modalities and a segmentation through one
brain mask and one registration. `predict` takes them all at once by `to_slices`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.scans import brain_mask as brain_mask_lib
from madad_jax.scans import geometry as geometry_lib
from madad_jax.scans import intensity as intensity_lib
from madad_jax.scans import label_values, resample, volumes
from madad_jax.scans import preparation as preparation_lib
from madad_jax.scans import registration as registration_lib
from madad_jax.scans import slices as slices_lib
from madad_jax.scans import target as target_lib

# Of the brain's voxels. Readers fill what is missing with 0, which looks like a dark lesion; one
# in a hundred is what a few damaged voxels make, and too few to move percentiles or maps.
_MOST_MISSING = 0.01
# Dice of the moved brain mask and the template's. Good registrations reach 0.9; below 0.6
# `registration.register` refuses the scan.
_GOOD_OVERLAP = 0.85
# Share of the agreement that another pose may reach: 0.7 at most where the map is right, 1.2 and
# more where it is wrong. Poses are rigid; sizes that `none` does not bring together cost the right
# one as well, up to a share of 0.94.
_MOST_RIVAL, _MOST_RIVAL_OF_NONE = 0.85, 1.1

# (images [k, H, W] in the scan's units, brain masks [k, H, W]) -> the scale of both.
ScaleOfSlices = Callable[[np.ndarray, np.ndarray], intensity_lib.Scale]


@dataclasses.dataclass(frozen=True)
class Located:
    """A scan whose brain is known, laid on the template.

    Attributes:
      volume: the scan.
      brain: the brain on the scan's canonical grid.
      transform: scan mm -> mm of the template.
      warnings: sentences about mask and registration; the volume's own are not among them.
      doubts: those that say that its slices may lie elsewhere: nothing should learn from them.
    """

    volume: volumes.Volume
    brain: Bool[np.ndarray, "X Y Z"]
    transform: registration_lib.Transform
    warnings: tuple[str, ...]
    doubts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Slices:
    """Slices of one scan, `numbers` rising by a constant step.

    Attributes:
      images: over [0, 1], 0 outside the brain.
      brain: brain masks.
      numbers: slice numbers of the geometry.
      scored: which slices hold enough brain to be scored.
      scale: scanner units -> [0, 1].
      transform: scan mm -> mm of the template.
      brain_in_scan: the brain on the scan's canonical grid.
      warnings: sentences for the summary.
    """

    images: Float32[np.ndarray, "k H W"]
    brain: Bool[np.ndarray, "k H W"]
    numbers: tuple[int, ...]
    scored: Bool[np.ndarray, " k"]
    scale: intensity_lib.Scale
    transform: registration_lib.Transform
    brain_in_scan: Bool[np.ndarray, "X Y Z"]
    warnings: tuple[str, ...]


def to_slices(
    volume: volumes.Volume,
    preparation: preparation_lib.Preparation,
    numbers: Sequence[int],
    *,
    brain_mask_file: str = "",
    scale_of_slices: ScaleOfSlices | None = None,
    extract_brain: brain_mask_lib.ExtractBrain | None = None,
) -> Slices:
    """All steps, for one scan of one modality.

    Args:
      volume: the scan.
      preparation: what is done to it.
      numbers: which slices, rising by a constant step.
      brain_mask_file: see `locate`.
      scale_of_slices: see `sample_images`.
      extract_brain: see `brain_mask.find`.

    Raises:
      UserError: the scan is unusable (see `locate`, `sample_images`), or no slice holds enough
        brain.
    """
    located = locate(
        volume, preparation, brain_mask_file=brain_mask_file, extract_brain=extract_brain
    )
    masks = sample_mask(located.brain, located, preparation, numbers)
    scored = has_enough_brain(masks, preparation)
    # Before N4, which takes minutes, and before a scale is sought in slices without brain.
    if not scored.any():
        g = preparation.geometry
        low, high = (g.level(n) for n in (numbers[0], numbers[-1]))
        space = "MNI" if g.space == geometry_lib.ICBM152 else located.transform.template
        raise errors.UserError(
            f"'{volume.source}': no slice from z = {low:g} to {high:g} mm ({space}) holds enough "
            f"brain (at least {preparation.least_brain_pixels} px)"
        )
    # All slices and not the scored ones alone: `scale_of_slices` looks at every brain pixel.
    warnings = [*volume.warnings, *located.warnings]
    images, scale = sample_images(
        volume,
        located,
        preparation,
        numbers,
        masks,
        scale_of_slices=scale_of_slices,
        warnings=warnings,
    )
    return Slices(
        images=images,
        brain=masks,
        numbers=tuple(numbers),
        scored=scored,
        scale=scale,
        transform=located.transform,
        brain_in_scan=located.brain,
        warnings=tuple(warnings),
    )


def locate(
    volume: volumes.Volume,
    preparation: preparation_lib.Preparation,
    *,
    brain_mask_file: str = "",
    extract_brain: brain_mask_lib.ExtractBrain | None = None,
) -> Located:
    """Finds the brain, checks it for voxels without a value, and registers it to the template.

    Args:
      volume: the scan.
      preparation: says how.
      brain_mask_file: a mask on the scan's grid, for the methods `given` and `auto`; "" = none.
      extract_brain: see `brain_mask.find`.

    Raises:
      UserError: no brain, too many of its voxels are NaN or infinite, so few values that it is a
        segmentation, or no registration.
    """
    p, target = preparation, target_lib.find(preparation.template)
    brain, warnings = brain_mask_lib.find(
        volume,
        p.brain_mask,
        given=brain_mask_file,
        shift=p.shift,
        extract_brain=extract_brain,
        target=target,
    )
    # Before the registration, which takes most of the time.
    _check_missing(volume, brain)
    if (few := label_values.count_few(volume.data[brain])) > 1:  # A constant has words of its own.
        raise errors.UserError(
            f"'{volume.source}' holds {few} different values inside the brain: a segmentation; "
            "accepted: a scan"
        )
    try:
        transform = registration_lib.register(
            volume, p.registration, brain=brain, shift=p.shift, target=target
        )
    except errors.UserError as error:
        large = volume if target is None else target.enlarge(volume)
        if cut := brain_mask_lib.cut_sides(brain, large.voxel_mm):
            raise errors.UserError(
                f"{error}; the scan shows a part of the brain, which ends at the "
                f"{' and '.join(cut)}"
            ) from error
        raise
    about = find_doubts(
        transform, target_lib.GOOD_AGREEMENT if target is None else target.good_agreement
    )
    # A header that is taken at its word (`none`) may be millimetres off, as its user knows; that
    # the head lies turned he does not.
    in_doubt = p.registration != "none" or _seems_turned(transform)
    return Located(volume, brain, transform, (*warnings, *about), about if in_doubt else ())


def find_doubts(
    transform: registration_lib.Transform, good_agreement: float = target_lib.GOOD_AGREEMENT
) -> tuple[str, ...]:
    """Why a map may be wrong, in sentences; `good_agreement` is that of the template, nats."""
    after = f"after registration '{transform.method}' the brain and the template's"
    doubts = []
    if transform.overlap < _GOOD_OVERLAP:
        doubts.append(
            f"{after} have a Dice of {transform.overlap:.2f}; look at where its slices lie"
        )
    # What is not measured (nan) is below nothing.
    if transform.agreement < good_agreement:
        doubts.append(
            f"{after} look little alike (mutual information {transform.agreement:.2f}, at least "
            f"{good_agreement:.2g} is usual); look at where its slices lie"
        )
    if _seems_turned(transform):
        doubts.append(
            f"{after} look about as alike with the head turned otherwise (mutual information "
            f"{transform.agreement:.2f} and {transform.rival:.2f}); look at where its slices lie"
        )
    return tuple(doubts)


def _seems_turned(transform: registration_lib.Transform) -> bool:
    most = _MOST_RIVAL_OF_NONE if transform.method == "none" else _MOST_RIVAL
    return transform.rival > most * transform.agreement


def sample_mask(
    mask: Bool[np.ndarray, "X Y Z"],
    located: Located,
    preparation: preparation_lib.Preparation,
    numbers: Sequence[int],
) -> Bool[np.ndarray, "k H W"]:
    """A mask on the located scan's grid (its brain), seen on the slices."""
    return slices_lib.sample_masks(
        mask, located.volume, located.transform, preparation.geometry, numbers
    )


def sample_lesions(
    lesion: Bool[np.ndarray, "X Y Z"],
    located: Located,
    preparation: preparation_lib.Preparation,
    numbers: Sequence[int],
) -> Bool[np.ndarray, "k H W"]:
    """A lesion on the located scan's grid, seen on the slices; none on a slice vanishes."""
    return slices_lib.sample_lesions(
        lesion, located.volume, located.transform, preparation.geometry, numbers
    )


def has_enough_brain(
    masks: Bool[np.ndarray, "k H W"], preparation: preparation_lib.Preparation
) -> Bool[np.ndarray, " k"]:
    """Which slices hold at least `preparation.least_brain_pixels`."""
    return masks.sum(axis=(1, 2)) >= preparation.least_brain_pixels


def sample_images(
    volume: volumes.Volume,
    located: Located,
    preparation: preparation_lib.Preparation,
    numbers: Sequence[int],
    masks: Bool[np.ndarray, "k H W"],
    *,
    scale_of_slices: ScaleOfSlices | None = None,
    warnings: list[str] | None = None,
) -> tuple[Float32[np.ndarray, "k H W"], intensity_lib.Scale]:
    """Pictures of a scan on the slices, over [0, 1], and what became 0 and 1.

    Args:
      volume: the located scan, or another of the same session: it is taken to lie where its
        header says.
      located: brain and registration.
      preparation: bias field, interpolation and intensities.
      numbers: which slices, rising by a constant step.
      masks: the brain on these slices; images are 0 outside.
      scale_of_slices: finds the scale from the sampled slices; None: from all of the brain's
        voxels, as `preparation.intensity` says.
      warnings: sentences about the intensities are added to it.

    Returns:
      The pictures, and the scale in the scan's own units.

    Raises:
      UserError: the scan does not meet the brain, too many of the brain's voxels are NaN or
        infinite, or its intensities are constant.
    """
    brain = _brain_on(volume, located)
    data, black, about = intensity_lib.lay_zero(volume.data, brain)
    if warnings is not None:
        warnings += about
    if preparation.n4:
        data = intensity_lib.correct_bias(volume, brain, data)
    raw = slices_lib.sample_images(
        data,
        volume,
        located.transform,
        preparation.geometry,
        numbers,
        order=preparation_lib.INTERPOLATION_ORDERS[preparation.interpolation],
    )
    try:
        if scale_of_slices is None:
            scale = intensity_lib.find_scale(
                data,
                brain,
                preparation.intensity,
                low=preparation.low,
                high=preparation.high,
            )
        else:
            scale = scale_of_slices(raw, masks)
    except errors.UserError as error:
        raise errors.UserError(f"'{volume.source}': {error}") from error
    # Clipping comes after sampling: cubic splines overshoot at the skull's edge.
    images = np.where(masks, scale(raw), np.float32(0.0))
    return images, intensity_lib.Scale(scale.low + black, scale.high + black)


def _brain_on(volume: volumes.Volume, located: Located) -> Bool[np.ndarray, "X Y Z"]:
    """The located brain on the grid of a scan of the same session, checked there."""
    if volume is located.volume:
        return located.brain  # `locate` has checked it.
    grids = [geometry_lib.VoxelGrid(v.data.shape, v.affine) for v in (located.volume, volume)]
    brain = resample.resample(located.brain, *grids, np.eye(4), order=0)
    if not brain.any():
        raise errors.UserError(
            f"'{volume.source}' does not overlap with the brain of '{located.volume.source}'; "
            "scans of one session share their coordinates"
        )
    _check_missing(volume, brain)
    return brain


def _check_missing(volume: volumes.Volume, brain: Bool[np.ndarray, "X Y Z"]) -> None:
    """Refuses a scan whose brain has holes: they would be scored as what they are filled with."""
    if volume.missing is None:
        return
    share = float(volume.missing[brain].mean())
    if share > _MOST_MISSING:
        raise errors.UserError(
            f"'{volume.source}': {share:.1%} of the brain's voxels are NaN or infinite, at most "
            f"{_MOST_MISSING:.0%} may be"
        )
