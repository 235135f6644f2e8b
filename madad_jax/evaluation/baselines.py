"""The baseline rows of every set: detectors that learn nothing, or a mean image alone."""

from collections.abc import Sequence

import numpy as np

from madad_jax.core.types import Batch
from madad_jax.data.sources import record as record_lib
from madad_jax.metrics import baseline_maps

# Directions of an intensity row by its name; a report shows the best of the three.
INTENSITIES = {
    "intensity bright": "bright",
    "intensity dark": "dark",
    "intensity absolute": "absolute",
}
# Whether the distance to the mean image is divided by the spread of the training slices.
MEAN_IMAGES = {"mean image": False, "mean image over spread": True}
ROWS = (*INTENSITIES, *MEAN_IMAGES)


class Baselines:
    """Maps of all baseline rows, smoothed as those of the detector are."""

    def __init__(self, *, sigma: float, band: int = 0):
        """`sigma` in pixels; `band` in slice numbers (0: one mean image for all)."""
        self._sigma = sigma
        self._mean = baseline_maps.MeanImage(band)

    def add_training(self, batch: Batch, records: Sequence[record_lib.Record]) -> None:
        """Adds healthy training slices to the mean image; `records` of the whole source."""
        self._mean.add(batch["image"][..., 0], batch["brain_mask"], _slice_numbers(batch, records))

    def maps(self, batch: Batch, records: Sequence[record_lib.Record]) -> dict[str, np.ndarray]:
        """Maps in [0, 1] by row, float32 [n, H, W].

        Raises:
          UserError: no training slices were added.
        """
        images, brain = batch["image"][..., 0], batch["brain_mask"]
        intensities = {
            row: baseline_maps.intensity(images, brain, direction=direction, sigma=self._sigma)
            for row, direction in INTENSITIES.items()
        }
        # With bands a slice is compared with the mean of its own levels of the head.
        numbers = _slice_numbers(batch, records)
        distances = {
            row: self._mean.maps(
                images, brain, sigma=self._sigma, spread=spread, slice_numbers=numbers
            )
            for row, spread in MEAN_IMAGES.items()
        }
        return intensities | distances


def _slice_numbers(batch: Batch, records: Sequence[record_lib.Record]) -> list[int]:
    return [records[i].slice for i in batch["index"]]
