"""A U-Net that segments drawn anomalies: the simplest strong rival of every method here.

    train   slices with anomalies drawn in (`synthesis/drawn.py`), cross-entropy and soft Dice
    test    map = probability, the mean over the slice and its mirror image

After the supervised use of synthetic anomalies (Foreign Patch Interpolation, DRAEM, Disyre); what
is drawn, sizes and the network are our choice. It needs no autoencoder and no diffusion, and has
no reconstruction: it gives back the slice.
"""

import dataclasses

import jax

from madad_jax.anomaly_maps import difference
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import pixel_mask
from madad_jax.methods import shared as shared_lib


@dataclasses.dataclass(frozen=True)
class DrawnUnet:
    """The method; `residual` smooths the map and keeps it inside the brain."""

    mask: pixel_mask.PixelMask
    residual: difference.Residual
    name: str = "drawn_unet"

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        return self.mask.init(key, batch_spec)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy and soft Dice of the drawn anomalies."""
        del train  # validation draws as training does: healthy slices have no anomaly
        example = self.mask.draw(key, batch, frozen)
        logit = self.mask.logit(params, frozen, example.images, example.brain_masks)
        loss, metrics = self.mask.loss(logit, example.truth, example.brain_masks)
        return loss, {"loss": loss, **metrics}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and, as `reconstruction` [b,H,W,1], the slice itself."""
        del key
        images, brain = batch["image"], batch["brain_mask"]
        maps = self.mask.probability(params, frozen, images, brain)
        return {"map": self.residual.finish(maps, brain), "reconstruction": images}


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> DrawnUnet:
    """From `config.methods.drawn_unet`."""
    residual = difference.Residual(sigma=shared.sigma, inside_brain=shared.inside_brain)
    return DrawnUnet(shared_lib.pixel_mask(shared, settings), residual)
