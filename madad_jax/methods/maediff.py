"""MAEDiff: patched diffusion whose U-Net is told what a masked autoencoder makes of the rest.

    M      one upper-level patch, a box of a fixed, overlapping grid
    x_t    = M ( sqrt(abar_t) x + sqrt(1 - abar_t) eps ) + (1 - M) x
    c      = MAE(x, sub-level patches that touch M hidden)       a guess of the whole image
    train  | x - f([x_t, c], t) | over M  +  w ( x - c )^2 over the hidden sub-level patches
    test   every box is noised to t = start and predicted in one step; boxes that overlap are
           averaged; map = |x - x_hat|

Source: Xu et al., arXiv 2401.10561; the diffusion is that of pDDPM (Behrendt et al. 2023): T =
1000, predicts x_0, L1 in the box, a 48 x 48 box on 96 x 96, start 500, Adam 1e-4, batch 32. There
is no public code and its text was not at hand, only its abstract and summaries: upper-level
patches overlap and are averaged, a masked autoencoder on sub-level patches conditions the U-Net
on the unnoised region. Our choices: the condition is the autoencoder's image, as a second input
channel; it sees nothing of a sub-level patch that the box touches; w = 1; sub-level patches of
a sixth of the box; boxes half a box apart.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import partial
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import image_networks, interfaces

_PLAIN = difference.Residual()


@dataclasses.dataclass(frozen=True)
class MaeDiff:
    """The method; `frozen` is empty. `box` and `stride` in pixels, `start` a noise level.

    `network` predicts the clean image from two channels.
    """

    network: interfaces.Denoiser
    encoder: image_networks.MaskedEncoder
    process: partial.Process
    box: int
    stride: int
    start: int = 500
    mae_weight: float = 1.0
    residual: difference.Residual = _PLAIN
    name: str = "maediff"

    def __post_init__(self):
        if not 0 < self.stride <= self.box:
            raise errors.UserError(
                f"methods.maediff.stride: found {self.stride}, accepted: 1 to box={self.box}, so "
                "that every pixel is covered"
            )
        if not 0 <= self.start < self.process.schedule.num_steps:
            raise errors.UserError(
                f"methods.maediff.inference.start: found {self.start}, accepted: 0 to "
                f"{self.process.schedule.num_steps - 1}"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters {"unet", "mae"}."""
        k_unet, k_mae = jax.random.split(key)
        b, height, width, c = batch_spec["image"].shape
        if self.box > min(height, width):
            raise errors.UserError(
                f"methods.maediff.box: found {self.box}, accepted: at most the image side "
                f"{min(height, width)}"
            )
        return {
            "unet": self.network.init(k_unet, (b, height, width, 2 * c)),
            "mae": self.encoder.init(k_mae, batch_spec["image"].shape),
        }

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Both terms of the formula."""
        del frozen
        k_box, k_t, k_noise, k_dropout = jax.random.split(key, 4)
        x = batch["image"]
        corners = jnp.asarray(grid(x.shape[1:3], self.box, self.stride))
        # A box of the grid of the test, so that training sees what is asked there.
        chosen = corners[jax.random.randint(k_box, (len(x),), 0, len(corners))]
        boxes = box_masks(chosen, x.shape[1:3], self.box)[..., None]
        t = self.process.draw_time(k_t, len(x))
        noise = self.process.noise.draw(k_noise, x.shape)
        dropout = k_dropout if train else None
        output, guess, hidden = self._predict(params, x, boxes, t, noise, dropout)
        l1 = (jnp.abs(x - output.x0) * boxes).sum() / boxes.sum()
        mae = (jnp.square(x - guess) * hidden).sum() / hidden.sum()
        loss = l1 + self.mae_weight * mae
        return loss, {"loss": loss, "l1": l1, "mae_loss": mae, **base.report_penalty(output)}

    def _predict(
        self,
        params: Params,
        x: jax.Array,
        boxes: jax.Array,
        t: jax.Array,
        noise: jax.Array,
        key: jax.Array | None,
    ) -> tuple[interfaces.Output, jax.Array, jax.Array]:
        """(the U-Net's output, the autoencoder's guess, the pixels that it did not see)."""
        # Pixels outside the box stay clean, whatever t says.
        x_t = jnp.where(boxes > 0, self.process.add_noise(x, t, noise), x)
        visible = visible_patches(boxes[..., 0], self.encoder.patch)
        guess = self.encoder.apply(params["mae"], x, visible)
        hidden = 1.0 - visible.repeat(self.encoder.patch, 1).repeat(self.encoder.patch, 2)
        pair = jnp.concatenate([x_t, guess], axis=-1)
        output = self.network.apply(params["unet"], pair, t, key=key)
        return output, guess, hidden[..., None]

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1], the average of all boxes."""
        del frozen
        x = batch["image"]
        t = jnp.full((len(x),), self.start, jnp.int32)
        corners = jnp.asarray(grid(x.shape[1:3], self.box, self.stride))

        def add_box(total, entry):
            corner, number = entry
            mask = box_masks(corner[None], x.shape[1:3], self.box)[..., None]
            boxes = jnp.broadcast_to(mask, x.shape)
            noise = self.process.noise.draw(jax.random.fold_in(key, number), x.shape)
            output, _, _ = self._predict(params, x, boxes, t, noise, None)
            return (total[0] + output.x0 * boxes, total[1] + mask), None

        # The count is of one slice: boxes are the same for the whole batch.
        zero = jnp.zeros_like(x), jnp.zeros_like(x[:1])
        # The number is folded into the key, so that boxes have noise of their own.
        numbered = corners, jnp.arange(len(corners))
        (summed, count), _ = jax.lax.scan(add_box, zero, numbered)
        x_hat = summed / count
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}


def grid(shape: tuple[int, int], box: int, stride: int) -> np.ndarray:
    """Upper left corners [n, 2] of boxes that cover the image, the last ones at its edge."""
    axes = []
    for side in shape:
        starts = list(range(0, side - box + 1, stride))
        axes.append(starts if starts[-1] == side - box else [*starts, side - box])
    return np.array([(r, c) for r in axes[0] for c in axes[1]], np.int32)


def box_masks(
    corners: Int[jax.Array, "n 2"], shape: tuple[int, int], box: int
) -> Float[jax.Array, "n H W"]:
    """1 inside the box of each corner."""
    inside = []
    for axis, side in enumerate(shape):
        position = jnp.arange(side)[None] - corners[:, axis : axis + 1]
        inside.append((position >= 0) & (position < box))
    return (inside[0][:, :, None] & inside[1][:, None, :]).astype(jnp.float32)


def visible_patches(boxes: Float[jax.Array, "b H W"], patch: int) -> Float[jax.Array, "b h w"]:
    """1 where no pixel of the `patch` x `patch` square lies in the box."""
    b, height, width = boxes.shape
    squares = boxes.reshape(b, height // patch, patch, width // patch, patch)
    return 1.0 - squares.max((2, 4))


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> MaeDiff:
    """From `config.methods.maediff`."""
    return MaeDiff(
        network=shared.pixel_unet(),
        encoder=image_networks.masked_autoencoder(**settings.network.table()),
        process=shared.process("x0"),
        box=settings.box,
        stride=settings.stride,
        mae_weight=settings.mae_weight,
        start=settings.inference.start,
        residual=shared_lib.filtered_residual(shared, settings.inference),
    )
