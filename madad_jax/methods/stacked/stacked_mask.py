"""The mask network on several contrasts and neighbouring slices, and `drawn_unet` with it.

    train   every contrast gets another appearance, one mirroring, and the same drawn shapes with
            fillings of its own (`drawn_stacked.py`); contrasts are dropped (`channels.py`)
    joint   z-scores of each channel (0 where it is missing), the brain, a plane for each channel,
            and for each own contrast what its atlas says, and the other half of the head; the
            truth is what the shown contrasts show
    else    the same of one contrast and its neighbours, by a network of its own; the truth is what
            this contrast shows, and the answers of all contrasts that are there become one

A network for each contrast learned more in the same steps (docs/contrasts.md): one that sees all
has every subset to learn.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import contralateral as contralateral_lib
from madad_jax.anomaly_maps import healthy_groups as atlas_lib
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import drawn_unet, pixel_mask
from madad_jax.methods import shared as shared_lib
from madad_jax.methods.stacked import channels as channels_lib
from madad_jax.synthesis import acquisition, drawn_stacked


@dataclasses.dataclass(frozen=True)
class StackedMask(pixel_mask.PixelMask):
    """As `PixelMask`, on batches of `channels`."""

    # Keyword-only: the parent's fields have defaults.
    channels: channels_lib.Channels = dataclasses.field(kw_only=True)

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        references, c = int(self.atlas) + int(self.contralateral), self.channels
        shape = batch_spec["image"].shape[:3]
        if not self._one_by_one:
            depth = 1 + 2 * c.count + 2 * c.contrasts * references
            return self.network.init(key, (*shape, depth))
        depth = 1 + 2 * c.repeats + 2 * references
        keys = jax.random.split(key, c.contrasts)
        return {_name(n): self.network.init(keys[n], (*shape, depth)) for n in range(c.contrasts)}

    @property
    def _one_by_one(self) -> bool:
        return self.channels.fusion != "joint"

    def draw_each(self, key: jax.Array, batch: Batch) -> pixel_mask.Example:
        """Slices of another appearance with anomalies; `truth` [b,H,W,m] of each own contrast."""
        k_vary, k_draw = jax.random.split(key)
        k_flip, *keys = jax.random.split(k_vary, 1 + self.channels.count)
        images, brain = batch["image"], batch["brain_mask"]
        # One mirroring for all channels, before each is varied by itself.
        flip = jax.random.bernoulli(k_flip, self.appearance.flip, (len(images), 1, 1))
        images = jnp.where(flip[..., None], images[:, :, ::-1], images)
        brain = jnp.where(flip, brain[:, :, ::-1], brain)
        plain = dataclasses.replace(self.appearance, flip=0.0)

        def vary(k: jax.Array, image: jax.Array) -> jax.Array:
            return acquisition.vary(k, image[..., None], brain, plain)[0][..., 0]

        healthy = jax.vmap(vary, in_axes=(0, 3), out_axes=3)(jnp.stack(keys), images)
        out, truth = drawn_stacked.draw(
            k_draw,
            healthy,
            brain,
            self.drawn,
            contrasts=self.channels.contrasts,
            # A contrast by itself learns nothing from what it does not show.
            hidden=0.0 if self._one_by_one else self.channels.hidden,
        )
        return pixel_mask.Example(out, brain, truth, healthy)

    def loss_shown(
        self,
        params: Params,
        frozen: Params,
        example: pixel_mask.Example,
        exists: Bool[jax.Array, "b C"],
        shown: Bool[jax.Array, "b C"],
    ) -> tuple[Float[jax.Array, ""], Metrics]:
        """The loss of what `draw_each` has drawn; `shown` is what is left of what `exists`."""
        images, brain, truth = example.images, example.brain_masks, example.truth
        own = slice(0, self.channels.contrasts)
        if not self._one_by_one:
            logit = self.logit_shown(params, frozen, images, brain, shown)
            truth = (truth & shown[:, None, None, own]).any(-1)
            return self.loss(logit, truth, brain)
        # All that exist: leaving some out teaches nothing where each stands alone.
        logit = self.logit_each(params, frozen, images, brain, exists)
        inside = brain[..., None] & exists[:, None, None, own]
        flat = [channels_lib.fold(x)[..., 0] for x in (logit, truth, inside)]
        return self.loss(*flat)

    def logit_each(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W C"],
        brain_masks: Bool[jax.Array, "b H W"],
        shown: Bool[jax.Array, "b C"],
    ) -> Float[jax.Array, "b H W m"]:
        """Logit of "does not belong" of each own contrast by itself, with its neighbours."""
        m = self.channels.contrasts
        z = stacked_z_scores(images, brain_masks)
        clipped = jnp.clip(z, *pixel_mask.RANGE)
        seen = jnp.broadcast_to(shown[:, None, None, :], z.shape)
        # The channels of a contrast: its own slice's, and those of the neighbours.
        inputs = [
            x.reshape(*x.shape[:3], -1, m)
            for x in (jnp.where(seen, clipped, 0.0), seen.astype(jnp.float32))
        ]
        if self.atlas:
            inputs += [x[..., None, :] for x in self.compare(frozen, z, brain_masks)]
        if self.contralateral:
            inputs += [x[..., None, :] for x in _compare_sides(clipped[..., :m], brain_masks)]
        brain = jnp.broadcast_to(brain_masks[..., None, None], (*z.shape[:3], 1, m))
        inputs = jnp.concatenate([*inputs, brain.astype(jnp.float32)], -2)
        each = [self.network.apply(params[_name(n)], inputs[..., n]) for n in range(m)]
        return jnp.stack(each, -1)

    def logit_shown(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W C"],
        brain_masks: Bool[jax.Array, "b H W"],
        shown: Bool[jax.Array, "b C"],
    ) -> Float[jax.Array, "b H W"]:
        """Logit of "does not belong"; of channels that are not shown nothing is read."""
        z = stacked_z_scores(images, brain_masks)
        planes = jnp.broadcast_to(shown[:, None, None, :], z.shape).astype(jnp.float32)
        clipped = jnp.clip(z, *pixel_mask.RANGE)
        inputs = [clipped, planes]
        if self.atlas:
            inputs += self.compare(frozen, z, brain_masks)
        if self.contralateral:
            inputs += _compare_sides(clipped[..., : self.channels.contrasts], brain_masks)
        inputs = [jnp.where(shown[:, None, None, : x.shape[-1]], x, 0.0) for x in inputs]
        brain = brain_masks[..., None].astype(jnp.float32)
        return self.network.apply(params, jnp.concatenate([*inputs, brain], -1))

    def compare(
        self, frozen: Params, z: Float[jax.Array, "b H W C"], brain_masks: Bool[jax.Array, "b H W"]
    ) -> tuple[Float[jax.Array, "b H W m"], Float[jax.Array, "b H W m"]]:
        """(mean, deviation) of the slice's own contrasts, each by its atlas."""
        own = z[..., : self.channels.contrasts]
        both = jax.vmap(lambda atlas, one: atlas_lib.compare(atlas, one, brain_masks), (0, 3), 3)
        return both(frozen["atlas"], own)

    def probability_shown(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W C"],
        brain_masks: Bool[jax.Array, "b H W"],
        shown: Bool[jax.Array, "b C"],
    ) -> Float[jax.Array, "b H W"]:
        """As `probability`, of what is shown."""
        logit = self.logit_each if self._one_by_one else self.logit_shown
        straight = jax.nn.sigmoid(logit(params, frozen, images, brain_masks, shown))
        turned = logit(params, frozen, images[:, :, ::-1], brain_masks[:, :, ::-1], shown)
        both = 0.5 * (straight + jax.nn.sigmoid(turned)[:, :, ::-1])
        if self._one_by_one:
            joins = {"largest": channels_lib.largest_shown, "mean": channels_lib.mean_shown}
            both = joins[self.channels.fusion](both, shown[:, : self.channels.contrasts])
        return both * brain_masks


def _name(number: int) -> str:
    return f"contrast_{number}"


def _compare_sides(own: Float[jax.Array, "b H W m"], brain_masks: jax.Array) -> list[jax.Array]:
    compare = jax.vmap(lambda one: contralateral_lib.compare(one, brain_masks), 3, 3)
    return [*compare(own)]


def stacked_z_scores(
    images: Float[jax.Array, "b H W C"], brain_masks: Bool[jax.Array, "b H W"]
) -> Float[jax.Array, "b H W C"]:
    """`pixel_mask.z_scores` of every channel, over the slice's own brain."""
    return jax.vmap(
        lambda one: pixel_mask.z_scores(one[..., None], brain_masks), in_axes=3, out_axes=3
    )(images)


def stacked_mask(mask: pixel_mask.PixelMask, channels: channels_lib.Channels) -> StackedMask:
    """The same settings for several channels."""
    settings = {f.name: getattr(mask, f.name) for f in dataclasses.fields(mask)}
    return StackedMask(**settings, channels=channels)


@dataclasses.dataclass(frozen=True)
class StackedDrawnUnet(drawn_unet.DrawnUnet):
    """`drawn_unet` on several channels; `reconstruction` gives back the slice's own contrasts."""

    mask: StackedMask

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Cross-entropy and soft Dice of the drawn anomalies that can be seen."""
        del train  # validation draws as training does
        k_drop, k_draw = jax.random.split(key)
        exists = batch["available"]
        shown = self.mask.channels.drop(k_drop, exists)
        example = self.mask.draw_each(k_draw, batch)
        loss, metrics = self.mask.loss_shown(params, frozen, example, exists, shown)
        return loss, {"loss": loss, **metrics}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,m]."""
        del key
        images, brain = batch["image"], batch["brain_mask"]
        maps = self.mask.probability_shown(params, frozen, images, brain, batch["available"])
        own = images[..., : self.mask.channels.contrasts]
        return {"map": self.residual.finish(maps, brain), "reconstruction": own}


def build_drawn_unet(
    shared: shared_lib.Shared, settings: shared_lib.Settings, channels: channels_lib.Channels
) -> StackedDrawnUnet:
    """From `config.methods.drawn_unet`."""
    plain = drawn_unet.build(shared, settings)
    return StackedDrawnUnet(stacked_mask(plain.mask, channels), plain.residual)
