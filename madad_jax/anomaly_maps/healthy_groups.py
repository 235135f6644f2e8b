"""What healthy slices look like where a slice lies, without its number: an atlas of groups.

Healthy slices, as z-scores of their brains, are grouped by what they show (k-means on coarse cells
of z-score and brain mask). Each group keeps the mean and the spread of its slices, pixel by pixel.
A slice is compared with the groups that it looks like:

    w = softmax( -d^2 / T )      d^2 mean squared distance of the cells to each group's
    mean, spread = sum_k w_k (mean_k, spread_k)          deviation = (z - mean) / spread

So levels of the head and sizes of ventricles sort themselves, in any prepared folder.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32

from madad_jax.core import errors
from madad_jax.core.types import Params

_CELLS = 32  # a side: 6 to 8 mm of usual slices
_MASK_WEIGHT = 2.0  # of the brain's share of a cell, beside z-scores of deviation 1
_TEMPERATURE = 0.03
_RANGE = (-4.0, 5.0)  # z-scores
_LIMIT = 6.0  # deviations
_LEAST_VARIANCE = 0.05  # of z-scores: keeps pixels where all brains agree from dominating
_MIN_BRAINS = 5
_ROUNDS = 15


@dataclasses.dataclass(frozen=True)
class Options:
    """`groups` that the training slices are divided into; 0: there is no atlas."""

    groups: int = 0

    def __post_init__(self):
        if self.groups < 0:
            raise errors.UserError(f"atlas.groups: found {self.groups}, accepted: at least 0")


def shapes(options: Options, side: int) -> Params:
    """Shapes of an atlas for images of `side` pixels. Raises UserError for an unfit side."""
    if side % _CELLS:
        raise errors.UserError(
            f"atlas.groups: found {options.groups} with data.image_size={side}, accepted: multiples"
            f" of {_CELLS} pixels, or 0 groups"
        )
    pixels = jax.ShapeDtypeStruct((options.groups, side, side), jnp.float32)
    cells = jax.ShapeDtypeStruct((options.groups, 2 * _CELLS**2), jnp.float32)
    return {"cells": cells, "mean": pixels, "spread": pixels}


class Fit:
    """The atlas of healthy slices and their mirror images, in two passes over the slices.

    All slices are shown with `add`, then `group` is called, then all are shown again in the same
    order.
    """

    def __init__(self, options: Options, seed: int = 0):
        """`seed` chooses the first centres."""
        self._options, self._seed = options, seed
        self._features: list[np.ndarray] = []
        self._centres: np.ndarray | None = None
        self._label = np.zeros(0, np.int64)
        self._used = 0
        self._sums: np.ndarray | None = None

    def add(self, z: Float32[np.ndarray, "n H W"], brain_masks: Bool[np.ndarray, "n H W"]) -> None:
        """Takes slices: z-scores in the brain, 0 outside."""
        z = np.clip(z, *_RANGE)
        for z_, brain in ((z, brain_masks), (z[:, :, ::-1], brain_masks[:, :, ::-1])):
            if self._centres is None:
                self._features.append(_find_features(z_, brain.astype(np.float32)))
            else:
                self._add_moments(z_, brain)

    def group(self) -> None:
        """Ends the first pass. Raises UserError for fewer slices than groups."""
        cells, groups = np.concatenate(self._features or [np.zeros((0, 1))]), self._options.groups
        if len(cells) < 2 * groups:
            raise errors.UserError(
                f"atlas.groups: found {groups} with {len(cells) // 2} training slices, accepted: "
                "at most as many as slices"
            )
        from scipy.cluster import vq  # Half a second: a prediction groups nothing.

        first = _choose_apart(cells, groups, np.random.default_rng(self._seed))
        self._features = []
        centres, self._label = vq.kmeans2(cells, cells[first], iter=_ROUNDS, minit="matrix")
        self._centres = centres.astype(np.float32)

    def _add_moments(self, z: np.ndarray, brain: np.ndarray) -> None:
        if self._sums is None:
            self._sums = np.zeros((3, self._options.groups, *z.shape[1:]))
        label = self._label[self._used : self._used + len(z)]
        self._used += len(z)
        for n, group in enumerate(label):
            self._sums[:, group] += brain[n], brain[n] * z[n], brain[n] * np.square(z[n])

    def result(self) -> dict[str, np.ndarray]:
        """{cells, mean, spread} float32, as `shapes` has them; where few slices of a group have
        brain, the mean is 0 and the spread the z-score's unit."""
        number, first, second = self._sums
        count = np.maximum(number, 1)
        mean = first / count
        variance = np.maximum(second / count - np.square(mean), 0.0)
        enough = number >= _MIN_BRAINS
        spread = np.sqrt(np.where(enough, variance, 1.0) + _LEAST_VARIANCE)
        mean = np.where(enough, mean, 0.0)
        return {
            "cells": self._centres,
            "mean": mean.astype(np.float32),
            "spread": spread.astype(np.float32),
        }


def _choose_apart(cells: np.ndarray, groups: int, rng: np.random.Generator) -> list[int]:
    """Rows to start k-means from, each drawn by its squared distance to the nearest one before.

    k-means++ (Arthur and Vassilvitskii 2007): two first centres of one kind would never part again.
    """
    first, nearest = [int(rng.integers(len(cells)))], np.full(len(cells), np.inf)
    squares = np.square(cells).sum(1)
    while len(first) < groups:
        centre = cells[first[-1]]
        # By products: differences of all slices would take their memory a second time.
        distance = squares - 2.0 * (cells @ centre) + np.square(centre).sum()
        nearest = np.minimum(nearest, np.maximum(distance, 0.0).astype(np.float64))
        nearest[first] = 0.0
        # Slices that are all alike: any other one.
        left = nearest if nearest.any() else ~np.isin(np.arange(len(cells)), first)
        first.append(int(rng.choice(len(cells), p=left / left.sum())))
    return first


def compare(
    atlas: Params, z: Float[jax.Array, "b H W"], brain_masks: Bool[jax.Array, "b H W"]
) -> tuple[Float[jax.Array, "b H W"], Float[jax.Array, "b H W"]]:
    """(mean, deviation) of slices by the atlas, in z-scores and in spreads; 0 outside the brain."""
    brain = brain_masks.astype(jnp.float32)
    z = jnp.clip(z, *_RANGE)
    cells = _find_features(z, brain)
    centres = atlas["cells"]
    cross = jnp.matmul(cells, centres.T, precision=jax.lax.Precision.HIGHEST)
    # Without |cells|^2, which is the same for all groups.
    distance = (jnp.square(centres).sum(1)[None] - 2.0 * cross) / cells.shape[1]
    weight = jax.nn.softmax(-distance / _TEMPERATURE, axis=1)

    def mix(maps: jax.Array) -> jax.Array:
        return jnp.einsum("bk,khw->bhw", weight, maps, precision=jax.lax.Precision.HIGHEST)

    mean = mix(atlas["mean"])
    deviation = jnp.clip((z - mean) / mix(atlas["spread"]), -_LIMIT, _LIMIT)
    return mean * brain, deviation * brain


def _find_features(z, brain):
    """Means of cells of z-score and brain mask, side by side [b, 2 * cells^2]."""
    batch, height, width = z.shape

    def cells(x):
        shape = (batch, _CELLS, height // _CELLS, _CELLS, width // _CELLS)
        return x.reshape(shape).mean((2, 4)).reshape(batch, -1)

    numpy = jnp if isinstance(z, jax.Array) else np
    return numpy.concatenate([cells(z), _MASK_WEIGHT * cells(brain)], 1)
