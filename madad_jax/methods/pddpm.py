"""pDDPM: only a patch is noised, the rest of the slice guides (Behrendt et al., MIDL 2023).

    train   x~ = x_t inside a box of a fixed grid, x outside;  || x - f(x~, t) ||_1 in the box
    test    for every box of the grid: x noised in the box to level 500, f in one step;
            the boxes are stitched, means where they overlap;  map = |x_hat - x|

Published: boxes of 48 pixels in slices of 96, T = 1000, simplex noise, clean image predicted,
L1, U-Net of 128 channels with multipliers (1, 2, 2) and 3 blocks, Adam 1e-4, batch of 32.
What differs: published maps go through a median filter over the volume, an eroded brain mask and
the removal of components up to 7 voxels, which is the post-processing `pddpm` of whole scans
here (metrics/postprocess.py), not part of the method.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import partial
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import interfaces


@dataclasses.dataclass(frozen=True)
class PatchedDdpm:
    """Boxes of `box` pixels, every `stride` pixels; `start` is the level of the test."""

    network: interfaces.Denoiser
    process: partial.Process
    residual: difference.Residual
    box: int = 48
    stride: int = 48
    start: int = 500
    name: str = "pddpm"

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        # Called for its checks: a box that does not fit should fail before training.
        boxes(batch_spec["image"].shape[1:3], self.box, self.stride)
        return self.network.init(key, batch_spec["image"].shape)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The absolute error of the clean image inside each sample's box."""
        del frozen
        k_box, k_t, k_noise, k_dropout = jax.random.split(key, 4)
        x = batch["image"]
        grid = jnp.asarray(boxes(x.shape[1:3], self.box, self.stride))
        chosen = jax.random.randint(k_box, (len(x),), 0, len(grid))
        inside = grid[chosen][..., None]
        t = self.process.draw_time(k_t, len(x))
        noise = self.process.noise.draw(k_noise, x.shape)
        given = jnp.where(inside, self.process.add_noise(x, t, noise), x)
        dropout = k_dropout if train else None
        output = self.network.apply(params, given, t, key=dropout)
        error = jnp.abs(output.x0 - self.process.target(x, noise))
        loss = (error * inside).sum() / inside.sum()
        return loss, {"loss": loss, **base.report_penalty(output)}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1], stitched."""
        del frozen
        x = batch["image"]
        t = jnp.full((len(x),), self.start)

        def add_box(total, entry):
            inside, number = entry
            inside = inside[None, ..., None]
            noise = self.process.noise.draw(jax.random.fold_in(key, number), x.shape)
            given = jnp.where(inside, self.process.add_noise(x, t, noise), x)
            prediction = self.network.predict(params, given, t)
            return total + inside * self.process.estimate(given, t, prediction)[0], None

        grid = boxes(x.shape[1:3], self.box, self.stride)
        parts = jnp.asarray(grid), jnp.arange(len(grid))
        total, _ = jax.lax.scan(add_box, jnp.zeros_like(x), parts)
        # Every pixel is covered at least once (`boxes` checks the stride), so no division by 0.
        x_hat = total / jnp.asarray(grid.sum(0), jnp.float32)[None, ..., None]
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}


def boxes(shape: tuple[int, int], box: int, stride: int) -> Bool[np.ndarray, "n H W"]:
    """The grid, bool [n,H,W]: from corner to corner every `stride` pixels, the last row and
    column of boxes moved in to the edge.

    Raises UserError for a box wider than the image, or a stride that leaves gaps.
    """
    if not 1 <= box <= min(shape):
        raise errors.UserError(f"methods.pddpm.box: found {box}, accepted: 1 to {min(shape)}")
    if not 1 <= stride <= box:
        raise errors.UserError(f"methods.pddpm.stride: found {stride}, accepted: 1 to {box}")
    rows, columns = ([*range(0, side - box, stride), side - box] for side in shape)
    out = np.zeros((len(rows) * len(columns), *shape), bool)
    for n, (r, c) in enumerate((r, c) for r in rows for c in columns):
        out[n, r : r + box, c : c + box] = True
    return out


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> PatchedDdpm:
    """From `config.methods.pddpm`."""
    return PatchedDdpm(
        **shared_lib.pixel_parts(shared, settings),
        box=settings.box,
        stride=settings.stride,
        start=settings.inference.start,
    )
