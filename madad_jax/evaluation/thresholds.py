"""Thresholds chosen without looking at any lesion: from healthy validation slices only.

A detector in use has no truth to choose its threshold with. `healthy_threshold` is the score
that a given share of healthy brain pixels exceeds; `alarm_pixels` is how many such pixels a
slice may hold before it counts as an alarm, again from healthy slices alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from madad_jax import errors


def healthy_threshold(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    false_positive_rate: float = 0.01,
) -> float:
    """The score that at most `false_positive_rate` of healthy brain pixels lie above (`>`).

    Raises:
      UserError: no brain pixel, a rate outside (0, 1), or a map that is not finite.
    """
    if not 0.0 < false_positive_rate < 1.0:
        raise errors.UserError(
            f"false_positive_rate: found {false_positive_rate}, accepted: between 0 and 1"
        )
    scores = maps[brain_masks]
    if not scores.size:
        raise errors.UserError(
            f"healthy threshold: found {len(maps)} validation slices with no brain pixel, "
            "accepted: at least one healthy validation slice with a brain mask"
        )
    if not np.isfinite(scores).all():
        raise errors.UserError("healthy threshold: found NaN or infinity in a validation map")
    return float(_exceeded_by(scores, false_positive_rate))


def at_rates(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    rates: Sequence[float],
) -> dict[float, float]:
    """`healthy_threshold` at several false positive rates, {rate: threshold}, from one sort."""
    scores = np.sort(maps[brain_masks])
    if not scores.size:
        return {}
    allowed = [int(rate * scores.size + 1e-9) for rate in rates]
    return {r: float(scores[scores.size - 1 - a]) for r, a in zip(rates, allowed, strict=True)}


def pixels_above(
    maps: Float32[np.ndarray, "n H W"], brain_masks: Bool[np.ndarray, "n H W"], threshold: float
) -> Int[np.ndarray, "n"]:
    """Number of brain pixels of each slice above the threshold (`>`, compared in float32)."""
    return ((maps > np.float32(threshold)) & brain_masks).sum(axis=(1, 2))


def alarm_pixels(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    threshold: float,
    slice_rate: float = 0.05,
) -> int:
    """Fewest pixels above `threshold` that at most `slice_rate` of healthy slices reach.

    A pixel rate of 1 % alarms nearly every healthy slice when one pixel is enough; this is the
    size that a finding must have. At least 1.

    Raises:
      UserError: no slices, or a rate outside [0, 1).
    """
    if not 0.0 <= slice_rate < 1.0:
        raise errors.UserError(f"slice_rate: found {slice_rate}, accepted: 0 or more, below 1")
    if not len(maps):
        raise errors.UserError("alarm_pixels: found 0 validation slices, accepted: at least 1")
    above = pixels_above(maps, brain_masks, threshold)
    return int(_exceeded_by(above, slice_rate)) + 1


def alarm(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    threshold: float,
    min_pixels: int = 1,
) -> Bool[np.ndarray, "n"]:
    """Whether each slice holds at least `min_pixels` brain pixels above the threshold."""
    return pixels_above(maps, brain_masks, threshold) >= min_pixels


def _exceeded_by(values: np.ndarray, share: float) -> np.number:
    """The smallest of `values` that at most `share` of them lie above."""
    allowed = int(share * values.size + 1e-9)
    place = values.size - 1 - allowed
    return np.partition(values, place)[place]
