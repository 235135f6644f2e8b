"""Noise-agnostic detection by inpainting at several noise levels (after the abstract of iNAAD).

    train   || eps - f(x_t, t) ||^2 at all levels t, as every diffusion on images
    test    for each level n: cells of a mask M are painted anew from x at level n while the rest
            is known (diffusion/inpainting.py), then the cells of 1 - M; both are stitched to x_n
            e_n = |x - x_n|;   z_n = (e_n - median e_n) / (1.48 median |e_n - median e_n| + c)
            map = the mean of z_n over the levels, brought to [0, 1] by a fixed rising function

No level is chosen: each counts by how far a pixel stands out among those of the same brain. Source:
the abstract of arXiv 2408.03654 (iNAAD, fetal ultrasound), which has inpainting, several levels and
Gaussian, simplex and pyramid noise. Its masks, levels, score and aggregation were not to be had,
and there is no public code: **all of these are our choice, so this is not iNAAD**.

Public code for out-of-distribution images (`marksgraham/ddpm-ood`) standardises each level too,
by mean and deviation of healthy validation images. Here median and spread are those of the slice's
own brain ("slice"): a method has no statistics of healthy slices when it makes a map. So a
slice that is wrong everywhere does not stand out as a whole. Cells start from x at level n: what
the noise does not hide is seen, as in all partial noising. A map costs 2 x levels x steps calls of
the network, 400 as set.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.core.types import Batch, Params
from madad_jax.diffusion import inpainting, partial
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib

MASKS = ("checkerboard", "random")
STANDARDS = ("slice", "none")
_DEVIATION = 1.4826  # median distance from the median to standard deviation, of normal numbers
_FLOOR = 0.01  # c, of the range of intensities: a perfect level must not divide by 0
_HALF_WAY = 2.0  # deviations that become 3 / 4 of the map


@dataclasses.dataclass(frozen=True)
class Inpainting:
    """How slices are painted anew.

    Attributes:
      levels: that slices are noised to, each on its own.
      steps: from each level down to 0, evenly spread.
      eta: 0 DDIM .. 1 DDPM.
      masks: checkerboard | random: which cells are painted together.
      cell: side of a cell in pixels.
      draws: masks a level, whose differences are averaged.
      resamplings: of each step (RePaint); 1: none.
      standard: slice | none: what a level's differences are measured by.
    """

    levels: tuple[int, ...] = (50, 107, 164, 221, 279, 336, 393, 450)
    steps: int = 25
    eta: float = 1.0
    masks: str = "checkerboard"
    cell: int = 16
    draws: int = 1
    resamplings: int = 1
    standard: str = "slice"

    def __post_init__(self):
        key = "methods.noise_agnostic.inference"
        if self.masks not in MASKS or self.standard not in STANDARDS:
            raise errors.UserError(
                f"{key}.masks, standard: found {self.masks!r}, {self.standard!r}; accepted: "
                f"{', '.join(MASKS)}; {', '.join(STANDARDS)}"
            )
        if min(self.cell, self.draws, self.resamplings) < 1:
            raise errors.UserError(
                f"{key}.cell, draws, resamplings: found {self.cell}, {self.draws}, "
                f"{self.resamplings}; accepted: at least 1"
            )
        if not self.levels or not 1 <= self.steps <= min(self.levels) + 1:
            raise errors.UserError(
                f"{key}.levels, steps: found {self.levels}, {self.steps}; accepted: at least one "
                "level, and 1 to as many steps as the lowest level has"
            )


_OURS = Inpainting()


@dataclasses.dataclass(frozen=True)
class NoiseAgnostic(families.ImageDiffusion):
    """`process.noise` may be of any kind; the weights are those of a DDPM."""

    inpainting: Inpainting = _OURS
    name: str = "noise_agnostic"

    def __post_init__(self):
        last = self.process.schedule.num_steps - 1
        if max(self.inpainting.levels) > last:
            raise errors.UserError(
                f"methods.noise_agnostic.inference.levels: found {self.inpainting.levels}, "
                f"accepted: 0 to {last}"
            )

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1], the mean over the levels."""
        del frozen
        x, brain, o, r = batch["image"], batch["brain_mask"], self.inpainting, self.residual

        def network(images, t):
            return self.network.predict(params, images, t)

        def look(entry):
            steps, number = entry
            x_hat = self.paint(network, x, jax.random.fold_in(key, number), steps)
            error = difference.clipped_difference(x_hat, x, difference=r.difference, gamma=r.gamma)
            return error, x_hat

        count = len(o.levels) * o.draws
        times = np.repeat([self.process.times(level, o.steps) for level in o.levels], o.draws, 0)
        # One look after the other: memory is that of one, and the program holds one.
        found, images = jax.lax.map(look, (partial.entries(times), jnp.arange(count)))
        levels = found.reshape(len(o.levels), o.draws, *x.shape[:3]).mean(1)
        if o.standard == "slice":
            levels = jax.vmap(lambda e: standardise(e, brain))(levels)
        maps = dataclasses.replace(r, inside_brain=False).finish(levels.mean(0), brain)
        if o.standard == "slice":
            maps = to_unit(maps)
        maps = maps * brain if r.inside_brain else maps
        return {"map": maps, "reconstruction": images.mean(0)}

    def paint(
        self,
        network: partial.Network,
        x: Float[jax.Array, "b H W 1"],
        key: jax.Array,
        steps: tuple[jax.Array, jax.Array, jax.Array],
    ) -> Float[jax.Array, "b H W 1"]:
        """Both halves of a mask painted anew, stitched; `steps` as of `inpainting.inpaint`."""
        o, p = self.inpainting, self.process
        k_mask, k_halves = jax.random.split(key)
        mask = cells(k_mask, x.shape[:3], o.masks, o.cell)[..., None]
        start = jnp.full((len(x),), steps[0][0])

        def half(entry):
            inside, number = entry
            k_noise, k_steps = jax.random.split(jax.random.fold_in(k_halves, number))
            x_t = p.add_noise(x, start, p.noise.draw(k_noise, x.shape))
            options = {"eta": o.eta, "resamplings": o.resamplings}
            return inpainting.inpaint(p, network, x_t, x, inside, k_steps, steps, **options)

        both = jnp.stack([mask, 1.0 - mask])
        first, second = jax.lax.map(half, (both, jnp.arange(2)))
        return mask * first + (1.0 - mask) * second


def cells(
    key: jax.Array, shape: tuple[int, int, int], kind: str, side: int
) -> Float[jax.Array, "b H W"]:
    """1 in half of the square cells: every other one, or each by a coin of its own."""
    batch, height, width = shape
    rows, columns = -(-height // side), -(-width // side)
    if kind == "checkerboard":
        chosen = (jnp.arange(rows)[:, None] + jnp.arange(columns)) % 2
        chosen = jnp.broadcast_to(chosen, (batch, rows, columns))
    else:
        chosen = jax.random.bernoulli(key, 0.5, (batch, rows, columns))
    wide = jnp.repeat(jnp.repeat(chosen, side, 1), side, 2)
    return wide[:, :height, :width].astype(jnp.float32)


def standardise(
    error: Float[jax.Array, "b H W"], brain_masks: Bool[jax.Array, "b H W"]
) -> Float[jax.Array, "b H W"]:
    """Deviations from the median of each brain; 0 outside the brain.

    Median and median distance: a lesion of less than half a brain hardly moves its own measure.
    """
    middle = _median(error, brain_masks)
    distance = _DEVIATION * _median(jnp.abs(error - middle), brain_masks)
    return (error - middle) / (distance + _FLOOR) * brain_masks


def to_unit(z: Float[jax.Array, "b H W"]) -> Float[jax.Array, "b H W"]:
    """(1 + z / (2 + |z|)) / 2: strictly increasing from (-inf, inf) to (0, 1)."""
    return 0.5 + 0.5 * z / (_HALF_WAY + jnp.abs(z))


def _median(x: jax.Array, brain_masks: jax.Array) -> Float[jax.Array, "b 1 1"]:
    """Of each brain; 0 of a slice without."""
    found = jnp.nanmedian(jnp.where(brain_masks, x, jnp.nan), axis=(1, 2), keepdims=True)
    return jnp.nan_to_num(found)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> NoiseAgnostic:
    """From `config.methods.noise_agnostic`."""
    options = settings.inference.table(without=("difference", "gamma"))
    return NoiseAgnostic(
        **shared_lib.pixel_parts(shared, settings), inpainting=Inpainting(**options)
    )
