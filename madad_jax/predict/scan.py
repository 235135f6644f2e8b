"""A scan to the slices that the detector scores, prepared as its training slices were."""

import dataclasses

import numpy as np
from jaxtyping import Float32

from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.data.cohort import appearance
from madad_jax.scans import intensity, to_slices, volumes


def prepare(
    volume: volumes.Volume,
    preparation: provenance.SourcePreparation,
    numbers: tuple[int, ...],
    *,
    brain_mask_file: str = "",
) -> to_slices.Slices:
    """Slices of a scan by the options of training; see `scans.to_slices`.

    Args:
      volume: the scan.
      preparation: of the training slices.
      numbers: which slices, rising by a constant step.
      brain_mask_file: a mask on the scan's grid; "" = found by `preparation.brain_mask`.

    Raises:
      UserError: an unknown option, no brain, no registration, or no slice with enough brain.
    """
    # A mask that somebody names for this scan goes before the method of the training set.
    if brain_mask_file:
        preparation = dataclasses.replace(preparation, brain_mask="given")
    preparation.check(more_intensities=(provenance.COHORT,))
    return to_slices.to_slices(
        volume,
        preparation,
        numbers,
        brain_mask_file=brain_mask_file,
        scale_of_slices=_scale_of_slices(preparation),
        extract_brain=_extract_brain,
    )


def prepare_beside(
    volume: volumes.Volume,
    first: volumes.Volume,
    stack: to_slices.Slices,
    preparation: provenance.SourcePreparation,
    warnings: list[str],
) -> Float32[np.ndarray, "k H W"]:
    """Pictures of another scan on the grid of a prepared one, over [0, 1].

    Args:
      volume: the scan.
      first: the one that `stack` was made of; its brain and registration hold for both.
      stack: its slices.
      preparation: of the training slices, in the scan's contrast.
      warnings: sentences are added to it.

    Raises:
      UserError: too many of the brain's voxels are NaN, or they are constant.
    """
    located = to_slices.Located(first, stack.brain_in_scan, stack.transform, ())
    images, _ = to_slices.sample_images(
        volume,
        located,
        preparation,
        stack.numbers,
        stack.brain,
        scale_of_slices=_scale_of_slices(preparation),
        warnings=warnings,
    )
    return images


def _extract_brain(data: np.ndarray) -> np.ndarray:
    """The built-in way in this process, which has JAX; where slices are prepared none may have."""
    # At the first scan without a mask: most of the networks' code is not needed before.
    from madad_jax.predict import extract_brain

    return extract_brain.find(data)


def _scale_of_slices(
    preparation: provenance.SourcePreparation,
) -> to_slices.ScaleOfSlices | None:
    """The embedded cohort scales by the slices that it draws and not by the whole brain."""
    # `scans` may not import the cohort: its scaling is handed over as a function.
    if preparation.intensity != provenance.COHORT:
        return None

    def scale_of_slices(images: np.ndarray, masks: np.ndarray) -> intensity.Scale:
        white = appearance.white_level(images, masks, preparation.modality)
        if not white > 0:
            raise errors.UserError("intensities inside the brain are not above 0: nothing to scale")
        return intensity.Scale(0.0, white)

    return scale_of_slices
