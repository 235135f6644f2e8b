"""A mask of what does not belong, at the image's resolution: a U-Net that learned drawn anomalies.

    train   healthy slice -> another appearance -> anomalies drawn in (x', m);
            BCE(f(x'), m) over the brain + w (1 - soft Dice(f(x'), m))
    test    (sigmoid f(x) + mirrored sigmoid f(mirrored x)) / 2

The network sees the slice as z-scores of its brain and the brain mask; by options also the expected
slice and the deviation from it (an atlas of healthy slices, `anomaly_maps/healthy_groups.py`), and
the other half of the head with the difference from it (`anomaly_maps/contralateral.py`).
`drawn_unet` is this network alone; in `madad` it is the mask head at image resolution.

It does not see what MAD-AD would rewrite: with that it learned the traces of drawing, and found
fewer lesions of other makers (docs/methods.md).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import contralateral as contralateral_lib
from madad_jax.anomaly_maps import healthy_groups as atlas_lib
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.models import image_networks
from madad_jax.synthesis import acquisition, learned, mix
from madad_jax.synthesis import drawn as drawn_lib

RANGE = (-4.0, 5.0)  # of z-scores that the network sees
_SMOOTH = 20.0  # pixels added to both sides of the Dice ratio: small lesions stay learnable

_DRAWN = drawn_lib.Options()
_APPEARANCE = acquisition.Options()
_PASTED = learned.Options()


class Example(NamedTuple):
    """A batch to learn from: slices with anomalies [b,H,W,1], their brain masks and the pixels of
    the anomalies [b,H,W]; `healthy` [b,H,W,1] are the same slices without."""

    images: jax.Array
    brain_masks: jax.Array
    truth: jax.Array
    healthy: jax.Array


@dataclasses.dataclass(frozen=True)
class PixelMask:
    """The network, what is drawn for it and its loss.

    Attributes:
      network: channels of an image to the logit of a mask.
      drawn: the anomalies.
      appearance: how healthy slices are varied before.
      lesions: how those of a bank are pasted, where there is one.
      dice_weight: of soft Dice beside the cross-entropy.
      atlas: whether it sees the atlas, `frozen["atlas"]`.
      contralateral: whether it sees the other half of the head.
    """

    network: image_networks.MaskNetwork
    drawn: drawn_lib.Options = _DRAWN
    appearance: acquisition.Options = _APPEARANCE
    lesions: learned.Options = _PASTED
    dice_weight: float = 0.5
    atlas: bool = False
    contralateral: bool = False

    def __post_init__(self):
        if self.dice_weight < 0:
            raise errors.UserError(f"dice_weight: found {self.dice_weight}, accepted: at least 0")

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net. Raises UserError for a batch of cached latents."""
        if "image" not in batch_spec:
            raise errors.UserError(
                "data.latents: found 'cached' with a mask head at image resolution, which needs "
                "the images; set data.latents=live"
            )
        shape = batch_spec["image"].shape
        channels = 2 + 2 * self.atlas + 2 * self.contralateral
        return self.network.init(key, (*shape[:3], channels))

    def draw(self, key: jax.Array, batch: Batch, frozen: Params = None) -> Example:
        """Slices of another appearance with anomalies; with a bank of lesions in `frozen`
        (`synthesis/learned.py`) a share of those that get any has lesions of the bank."""
        k_vary, k_draw = jax.random.split(key)
        healthy, brain = acquisition.vary(
            k_vary, batch["image"], batch["brain_mask"], self.appearance
        )
        images, truth = drawn_lib.draw(k_draw, healthy, brain, self.drawn)
        bank = learned.find(frozen)
        if bank is not None and self.lesions.share > 0:
            # Keys of their own: the other draws are those of a training without a bank.
            k_paste, k_share = jax.random.split(jax.random.fold_in(key, 2))
            pasted = learned.paste(k_paste, healthy, brain, bank, self.lesions)
            chosen = mix.choose_share(k_share, self.lesions.share, len(images))
            # What was to stay healthy does.
            chosen = chosen & truth.any((1, 2))
            images, truth = mix.take_chosen(chosen, pasted, (images, truth))
        return Example(images, brain, truth, healthy)

    def logit(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W 1"],
        brain_masks: Bool[jax.Array, "b H W"],
    ) -> Float[jax.Array, "b H W"]:
        """Logit of "does not belong"."""
        z = z_scores(images, brain_masks)
        clipped = jnp.clip(z, *RANGE)
        channels = [clipped, brain_masks.astype(jnp.float32)]
        if self.atlas:
            channels += atlas_lib.compare(frozen["atlas"], z, brain_masks)
        if self.contralateral:
            channels += contralateral_lib.compare(clipped, brain_masks)
        return self.network.apply(params, jnp.stack(channels, -1))

    def loss(
        self,
        logit: Float[jax.Array, "b H W"],
        truth: Bool[jax.Array, "b H W"],
        brain_masks: Bool[jax.Array, "b H W"],
    ) -> tuple[Float[jax.Array, ""], Metrics]:
        """Cross-entropy and soft Dice over the brain, and what tells whether it learns."""
        inside = brain_masks.astype(jnp.float32)
        wanted = truth * inside
        # A batch of slices without brain has no pixel to average over.
        count = jnp.maximum(inside.sum(), 1.0)
        entropy = jnp.logaddexp(0.0, logit) - logit * wanted
        entropy = (entropy * inside).sum() / count
        p = jax.nn.sigmoid(logit) * inside
        overlap = 2.0 * (p * wanted).sum((1, 2)) + _SMOOTH
        dice = overlap / (p.sum((1, 2)) + wanted.sum((1, 2)) + _SMOOTH)
        missed = (1.0 - dice).mean()
        flagged = (logit > 0) * inside
        found = (flagged * wanted).sum() / jnp.maximum(wanted.sum(), 1.0)
        false = (flagged * (1.0 - wanted)).sum() / jnp.maximum((inside * (1.0 - wanted)).sum(), 1.0)
        metrics = {
            "pixel_entropy": entropy,
            "pixel_dice": 1.0 - missed,
            "pixel_sensitivity": found,
            "pixel_specificity": 1.0 - false,
        }
        return entropy + self.dice_weight * missed, metrics

    def probability(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W 1"],
        brain_masks: Bool[jax.Array, "b H W"],
    ) -> Float[jax.Array, "b H W"]:
        """Probability of "does not belong", the mean over the slice and its mirror image; 0 outside
        the brain."""

        straight = jax.nn.sigmoid(self.logit(params, frozen, images, brain_masks))
        turned = self.logit(params, frozen, images[:, :, ::-1], brain_masks[:, :, ::-1])
        mirrored = jax.nn.sigmoid(turned)[:, :, ::-1]
        return 0.5 * (straight + mirrored) * brain_masks


def z_scores(
    images: Float[jax.Array, "b H W 1"], brain_masks: Bool[jax.Array, "b H W"]
) -> Float[jax.Array, "b H W"]:
    """Each slice to mean 0 and deviation 1 over its brain; 0 outside and in a constant slice."""
    x, axes = images[..., 0], (1, 2)
    count = jnp.maximum(brain_masks.sum(axes, keepdims=True), 1)
    mean = jnp.where(brain_masks, x, 0.0).sum(axes, keepdims=True) / count
    centred = jnp.where(brain_masks, x - mean, 0.0)
    deviation = jnp.sqrt(jnp.square(centred).sum(axes, keepdims=True) / count)
    return centred / jnp.maximum(deviation, 1e-5)
