"""Thresholds chosen without looking at any lesion: from healthy validation slices only.

A detector in use has no truth to choose its threshold with. `healthy_threshold` is the score
that a given share of healthy brain pixels exceeds; `alarm_pixels` is how many such pixels a
slice may hold before it counts as an alarm, again from healthy slices alone.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from madad_jax.core import errors
from madad_jax.metrics import order_statistics

# 16 MiB of scores: far more than a slice, so that reading is sequential, and far less than memory.
_CHUNK_PIXELS = 1 << 22


def healthy_threshold(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    false_positive_rate: float = 0.01,
) -> float:
    """The score that at most `false_positive_rate` of healthy brain pixels lie above (`>`).

    Raises:
      UserError: no brain pixel, a rate outside (0, 1), or a map that is not finite.
    """
    return at_rates(maps, brain_masks, [false_positive_rate])[false_positive_rate]


def at_rates(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    rates: Sequence[float],
    *,
    chunk_pixels: int = _CHUNK_PIXELS,
) -> dict[float, float]:
    """`healthy_threshold` at several false positive rates, {rate: threshold}, at once.

    Both arrays may lie on disk (`disk_arrays.DiskArray`): they are read
    `chunk_pixels` at a time.

    Raises as `healthy_threshold`.
    """
    for rate in rates:
        if not 0.0 < rate < 1.0:
            raise errors.UserError(f"false_positive_rate: found {rate}, accepted: between 0 and 1")

    def chunks() -> Iterator[np.ndarray]:
        for part in _chunks(maps, chunk_pixels):
            scores = maps[part][brain_masks[part]]
            if not np.isfinite(scores).all():
                raise errors.UserError(
                    "healthy threshold: found NaN or infinity in a validation map"
                )
            yield scores

    # Exact and in two passes: maps of a validation set need not fit in memory.
    found = order_statistics.upper_quantiles(chunks, rates)
    if not found:
        raise errors.UserError(
            f"healthy threshold: found {len(maps)} validation slices with no brain pixel, "
            "accepted: at least one healthy validation slice with a brain mask"
        )
    return {rate: float(value) for rate, value in zip(rates, found, strict=True)}


def _chunks(maps: np.ndarray, pixels: int) -> Iterator[slice]:
    """Ranges of maps with about so many pixels each, at least one map."""
    step = max(1, pixels // max(1, math.prod(maps.shape[1:])))
    return (slice(i, i + step) for i in range(0, len(maps), step))


def pixels_above(
    maps: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    threshold: float,
    *,
    chunk_pixels: int = _CHUNK_PIXELS,
) -> Int[np.ndarray, "n"]:
    """Number of brain pixels of each slice above the threshold (`>`, compared in float32)."""
    # In the type of the maps, or a score equal to the threshold could lie above it.
    limit = np.float32(threshold)
    counts = [
        ((maps[part] > limit) & brain_masks[part]).sum(axis=(1, 2))
        for part in _chunks(maps, chunk_pixels)
    ]
    return np.concatenate(counts) if counts else np.zeros(0, int)


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
    allowed = int(slice_rate * above.size + 1e-9)
    return int(np.sort(above)[above.size - 1 - allowed]) + 1
