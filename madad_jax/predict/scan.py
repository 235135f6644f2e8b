"""A scan to the stack of slices that the detector scores, prepared as its training slices were."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.data import provenance
from madad_jax.data.cohort import appearance
from madad_jax.scans import brain_mask as brain_mask_lib
from madad_jax.scans import intensity, registration, slices, volumes

_ORDERS = {"linear": 1, "cubic": 3}


@dataclasses.dataclass(frozen=True)
class Stack:
    """Slices of one scan, `numbers` rising by a constant step.

    Attributes:
      images: over [0, 1], 0 outside the brain.
      brain: brain masks.
      numbers: slice numbers of the geometry.
      scored: which slices hold enough brain to be scored.
      scale: scanner units -> [0, 1].
      transform: scan mm -> ICBM152 mm.
      brain_in_scan: the brain on the scan's canonical grid.
      warnings: sentences for the summary.
    """

    images: Float32[np.ndarray, "k H W"]
    brain: Bool[np.ndarray, "k H W"]
    numbers: tuple[int, ...]
    scored: Bool[np.ndarray, " k"]
    scale: intensity.Scale
    transform: registration.Transform
    brain_in_scan: Bool[np.ndarray, "X Y Z"]
    warnings: tuple[str, ...]


def prepare(
    volume: volumes.Volume,
    preparation: provenance.Preparation,
    numbers: tuple[int, ...],
    *,
    brain_mask_file: str = "",
) -> Stack:
    """Brain mask, registration, intensities, slices; the order and options of training.

    Args:
      volume: the scan.
      preparation: of the training slices.
      numbers: which slices, rising by a constant step.
      brain_mask_file: a mask on the scan's grid; "" = found by `preparation.brain_mask`.

    Raises:
      UserError: no brain, no registration, or no slice with enough brain.
    """
    p = preparation
    method = "given" if brain_mask_file else p.brain_mask
    brain, warnings = brain_mask_lib.find(volume, method, given=brain_mask_file, shift=p.shift)
    transform = registration.register(volume, p.registration, brain=brain, shift=p.shift)
    if p.registration == "affine" and transform.overlap < 0.85:
        warnings = [*warnings, f"registration: brain overlap (Dice) only {transform.overlap:.2f}"]
    data = intensity.correct_bias(volume, brain) if p.n4 else volume.data
    masks = slices.sample_masks(brain, volume, transform, p.geometry, numbers)
    order = _ORDERS[p.interpolation]
    raw = slices.sample_images(data, volume, transform, p.geometry, numbers, order=order)
    scored = masks.mean(axis=(1, 2)) >= max(p.least_brain, 1e-9)
    if not scored.any():
        low, high = (p.geometry.level(n) for n in (numbers[0], numbers[-1]))
        raise errors.UserError(
            f"'{volume.source}': no slice from z = {low:g} to {high:g} mm (MNI), where the model "
            "was trained, holds brain"
        )
    try:
        scale = _scale(data, brain, raw, masks, p)
    except errors.UserError as error:
        raise errors.UserError(f"'{volume.source}': {error}") from error
    return Stack(
        images=np.where(masks, scale(raw), np.float32(0.0)),
        brain=masks,
        numbers=tuple(numbers),
        scored=scored,
        scale=scale,
        transform=transform,
        brain_in_scan=brain,
        warnings=(*volume.warnings, *warnings),
    )


def _scale(data, brain, raw, masks, p: provenance.Preparation) -> intensity.Scale:
    if p.intensity != provenance.COHORT:
        return intensity.find_scale(data, brain, p.intensity, low=p.low, high=p.high)
    # The embedded cohort scales by the slices that it draws and not by the whole brain.
    white = appearance.white_level(raw, masks, p.modality)
    if not white > 0:
        raise errors.UserError("intensities inside the brain are not above 0: nothing to scale")
    return intensity.Scale(0.0, white)
