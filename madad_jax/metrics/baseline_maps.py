"""Detectors that learn nothing, or nothing but an average: the baselines of every report.

Each slice is first brought to z-scores inside its brain, so that brightness means brighter than
this brain's own mean.

* `intensity`: the smoothed z-score itself (bright), its negative (dark), or its size (absolute).
* `MeanImage`: |z - mean of the training slices' z|, pixel by pixel, smoothed; with `spread`
  divided by the training slices' own spread at the pixel (folds and ventricles vary, so a
  difference there says less). On real T1 slices with dark lesions the first reaches a pooled
  maximum Dice of 0.61 and the second 0.71: a network has to beat that to have learned anything.

Scores go to [0, 1] by a fixed, strictly increasing map, so that ranking figures do not move and
201 thresholds resolve them; outside the brain they are 0. Both favour these rows.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from madad_jax.core import errors
from madad_jax.metrics import postprocess

DIRECTIONS = ("bright", "dark", "absolute")
# Of the z-score's variance: keeps a pixel where all training brains agree from dominating.
_LEAST_VARIANCE = 0.05
# The variance of ten values is itself off by a half (standard deviation).
_MIN_BRAINS = 10


def z_score(
    images: Float32[np.ndarray, "n H W"], brain_masks: Bool[np.ndarray, "n H W"]
) -> Float32[np.ndarray, "n H W"]:
    """Each slice to mean 0 and deviation 1 over its brain pixels; 0 outside the brain."""
    axes = (1, 2)
    # At least 1: a slice without brain gives zeros in place of a division by 0.
    count = np.maximum(brain_masks.sum(axis=axes, keepdims=True), 1)
    mean = np.where(brain_masks, images, 0).sum(axis=axes, keepdims=True, dtype=np.float64) / count
    centred = np.where(brain_masks, images - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=axes, keepdims=True) / count)
    # A constant slice has no contrast to divide by.
    return (centred / np.maximum(deviation, 1e-6)).astype(np.float32)


def intensity(
    images: Float32[np.ndarray, "n H W"],
    brain_masks: Bool[np.ndarray, "n H W"],
    *,
    direction: str,
    sigma: float,
) -> Float32[np.ndarray, "n H W"]:
    """Maps in [0, 1] of brightness, darkness or either; smoothing width `sigma` in pixels.

    Raises:
      UserError: a direction that is not one of `DIRECTIONS`.
    """
    if direction not in DIRECTIONS:
        raise errors.UserError(f"direction: found '{direction}', accepted: {', '.join(DIRECTIONS)}")
    z = z_score(images, brain_masks)
    if direction == "absolute":
        scores = _positive_to_unit(postprocess.smooth(np.abs(z), sigma))
    else:
        z = postprocess.smooth(z, sigma)
        scores = _signed_to_unit(z if direction == "bright" else -z)
    return postprocess.inside_brain(scores, brain_masks)


@dataclasses.dataclass
class _Sums:
    """Running sums over training slices, float64 [H, W]: of z, z^2 and of brain pixels; slices."""

    z: np.ndarray
    z2: np.ndarray
    brain: np.ndarray
    slices: int = 0


class MeanImage:
    """Streaming mean and spread of training slices, and the distance of others from them.

    With `band` > 0 slices are averaged apart by slice number, `band` numbers to a mean, as sets
    with many levels of the head need; a level without training slices takes the nearest.
    """

    def __init__(self, band: int = 0):
        """`band` in slice numbers; 0 = one mean for all."""
        self._band = band
        self._sums: dict[int, _Sums] = {}

    def add(
        self,
        images: Float32[np.ndarray, "n H W"],
        brain_masks: Bool[np.ndarray, "n H W"],
        slice_numbers: Sequence[int] | None = None,
    ) -> None:
        """Adds training slices. `slice_numbers` is needed with a band."""
        # float64: the variance is a small difference of sums over all training slices.
        z = z_score(images, brain_masks).astype(np.float64)
        for key, where in self._by_band(len(images), slice_numbers).items():
            shape = images.shape[1:]
            sums = self._sums.setdefault(
                key, _Sums(np.zeros(shape), np.zeros(shape), np.zeros(shape))
            )
            if sums.z.shape != shape:
                raise errors.UserError(
                    f"mean image: found a slice of {shape[0]} x {shape[1]}, "
                    f"accepted: {sums.z.shape[0]} x {sums.z.shape[1]} as before"
                )
            sums.z += z[where].sum(axis=0)
            sums.z2 += (z[where] ** 2).sum(axis=0)
            sums.brain += brain_masks[where].sum(axis=0)
            sums.slices += len(where)

    def maps(
        self,
        images: Float32[np.ndarray, "n H W"],
        brain_masks: Bool[np.ndarray, "n H W"],
        *,
        sigma: float,
        spread: bool = False,
        slice_numbers: Sequence[int] | None = None,
    ) -> Float32[np.ndarray, "n H W"]:
        """Maps in [0, 1] of the distance to the mean, over the spread if asked.

        Raises:
          UserError: no training slices were added.
        """
        if not self._sums:
            raise errors.UserError("mean image: found 0 training slices, accepted: at least 1")
        z = z_score(images, brain_masks)
        distance = np.zeros_like(z)
        for key, where in self._by_band(len(images), slice_numbers).items():
            # The nearest band, for levels of the head without training slices.
            sums = self._sums[min(self._sums, key=lambda k: abs(k - key))]
            mean = sums.z / sums.slices
            far = np.abs(z[where] - mean)
            distance[where] = far / _spread(sums) if spread else far
        distance = postprocess.inside_brain(distance, brain_masks)
        # Over the brain's share of the window: else the rim, where half the window is empty,
        # could never score.
        share = postprocess.smooth(brain_masks.astype(np.float32), sigma)
        smoothed = postprocess.smooth(distance, sigma) / np.maximum(share, np.float32(0.05))
        return postprocess.inside_brain(_positive_to_unit(smoothed), brain_masks)

    def _by_band(self, n: int, numbers: Sequence[int] | None) -> dict[int, np.ndarray]:
        if self._band <= 0:
            return {0: np.arange(n)}
        if numbers is None:
            raise ValueError("slice_numbers are needed when band > 0")
        keys = np.asarray(numbers) // self._band
        return {int(k): np.flatnonzero(keys == k) for k in np.unique(keys)}


def _spread(sums: _Sums) -> np.ndarray:
    count = np.maximum(sums.brain, 1)
    mean = sums.z / count
    variance = np.maximum(sums.z2 / count - mean**2, 0.0)
    # Too few brains reach the pixel for a spread of their own: the z-score's unit.
    return np.sqrt(np.where(sums.brain >= _MIN_BRAINS, variance, 1.0) + _LEAST_VARIANCE)


def best_intensity(rows: Sequence[dict[str, Any]], *, by: str = "ap") -> dict[str, Any]:
    """The best of the three intensity rows by a figure of the *reported* set.

    That choice looks at the truth, in the row's favour; its name says so. Rows carry their
    direction in `row["direction"]` (else their method's name is shown); the first is taken when
    nothing could be computed. `row["id"]` stays "intensity" whichever direction won.
    """
    # -1 is below every AP: a row without figures wins only where none has any.
    best = max(rows, key=lambda r: -1.0 if r.get(by) is None else r[by])
    direction = best.get("direction", best["method"])
    name = f"intensity ({direction}; best of 3 by test {by.upper()}, oracle)"
    return {**best, "id": "intensity", "method": name}


def _signed_to_unit(z: np.ndarray) -> np.ndarray:
    """(1 + z / (2 + |z|)) / 2: strictly increasing, 0.5 at 0, 201 steps resolve |z| up to 4."""
    return (0.5 + 0.5 * z / (2.0 + np.abs(z))).astype(np.float32)


def _positive_to_unit(distance: np.ndarray) -> np.ndarray:
    """d / (1 + d): strictly increasing from 0."""
    return (distance / (1.0 + distance)).astype(np.float32)
