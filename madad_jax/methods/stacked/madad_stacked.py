"""MAD-AD on several contrasts, some missing, and neighbouring slices (ours; `channels.py`).

    z_c     scaled latent of channel c, all by one autoencoder of one channel, a scale a contrast
    input   z_1 ... z_C side by side, and a plane of ones or zeros for each: shown or not; a channel
            that is not shown is a learned number in every cell
    train   blocks are noised in all channels alike for a share of the samples, else in each by
            itself; L = sum_c o_c || z_c - f_c ||^2 / sum_c o_c over all channels whose truth
            exists, those that were dropped too: so it learns to translate
    test    only the mask head's cells are rewritten, in all channels; each signal is the mean over
            the slice's own contrasts that are there

One mask head says which cells are noised in an own contrast that is shown. Neighbours inform, and
are never judged. The spec of this project wanted maps standardised by healthy validation slices
before their mean: differences are clipped to one range here, and their plain mean is taken.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference as difference_lib
from madad_jax.anomaly_maps import joined, morphology
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import losses, masking, process, samplers
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import base, madad
from madad_jax.methods import shared as shared_lib
from madad_jax.methods.stacked import channels as channels_lib
from madad_jax.methods.stacked import stacked_mask
from madad_jax.models import interfaces
from madad_jax.synthesis import mix, shapes


@dataclasses.dataclass(frozen=True)
class StackedMadAd(madad.MadAd):
    """The method. `frozen["scaling_factor"]` [m] has a number for each contrast; a batch has
    `available` [b,C]."""

    # Keyword-only: the parent's fields have defaults.
    channels: channels_lib.Channels = dataclasses.field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.synthesis.share > 0 and self.pixel_head is None:
            raise errors.UserError(
                f"synthesis.share: found {self.synthesis.share} with several contrasts or "
                "neighbours and no mask head at image resolution, accepted: 0, or widths in "
                "methods.madad.pixel_head.network.widths"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the denoiser, what stands for missing latents, the pixel head's."""
        m, c, depth = self.masking, self.channels, self.autoencoder.latent_channels
        h, w = self.latent_sides(batch_spec)
        masking.check_sides((h, w), m.sides, m.probabilities, m.per)
        k_denoiser, k_pixels = jax.random.split(key)
        shape = (1, h, w, c.count * depth + c.count)
        params = {"denoiser": self.denoiser.init(k_denoiser, shape)}
        if c.missing == "learned":
            # A vector and no matrix: an optimiser of matrices would turn it.
            params["missing"] = jnp.zeros(c.count * depth)
        if self.pixel_head is not None:
            params["pixel_head"] = self.pixel_head.mask.init(k_pixels, batch_spec)
        return params

    def encode(
        self, frozen: Params, images: Float[jax.Array, "b H W C"]
    ) -> tuple[Float[jax.Array, "b h w C d"], Float[jax.Array, "b h w C d"]]:
        """Scaled posterior means and deviations of every channel, not trained through."""
        found = self.autoencoder.encode(frozen["autoencoder"], channels_lib.fold(images))
        mean, logvar = (channels_lib.unfold(x, len(images)) for x in jax.lax.stop_gradient(found))
        scale = jnp.tile(frozen["scaling_factor"], self.channels.repeats)[:, None]
        return mean * scale, jnp.exp(0.5 * logvar) * scale

    def answer(
        self,
        params: Params,
        x: Float[jax.Array, "b h w C d"],
        t: jax.Array,
        shown: Bool[jax.Array, "b C"],
        key: jax.Array | None = None,
    ) -> tuple[Float[jax.Array, "b h w C d"], interfaces.Output]:
        """(clean latents, the network's whole output); channels not shown are not read."""
        latents = jnp.where(shown[:, None, None, :, None], x, self._missing(params, x))
        planes = jnp.broadcast_to(shown[:, None, None, :], x.shape[:4]).astype(x.dtype)
        flat = latents.reshape(*x.shape[:3], -1)
        output = self.denoiser.apply(
            params["denoiser"], jnp.concatenate([flat, planes], -1), t, key=key
        )
        # The network answers as many channels as it reads: those of the planes mean nothing.
        return output.x0[..., : flat.shape[-1]].reshape(x.shape), output

    def _missing(self, params: Params, x: jax.Array) -> jax.Array:
        return params["missing"].reshape(x.shape[3:]) if "missing" in params else jnp.zeros(())

    def _draw_visible(
        self, key: jax.Array, shape: tuple[int, ...], brain_masks: jax.Array
    ) -> Float[jax.Array, "b h w C"]:
        """Block masks of every channel [b,h,w,C]: one for all, or each its own."""
        m, count = self.masking, self.channels.count
        k_choose, *keys = jax.random.split(key, count + 1)
        outside = self._find_outside(brain_masks, shape[1:3])

        def draw(k: jax.Array) -> jax.Array:
            visible = masking.draw_visible(
                k,
                shape[:3],
                max_ratio=m.max_ratio,
                sides=m.sides,
                probabilities=m.probabilities,
                per=m.per,
            )
            return masking.keep_outside(visible, outside)

        each = jax.vmap(draw, out_axes=3)(jnp.stack(keys))
        same = jax.random.bernoulli(k_choose, self.channels.same_blocks, (shape[0], 1, 1, 1))
        return jnp.where(same, each[..., :1], each)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The loss above on posterior samples, with that of the pixel head."""
        k_drop, k_sample, k_mask, k_t, k_noise, k_dropout, k_drawn = jax.random.split(key, 7)
        exists = batch["available"]
        shown = self.channels.drop(k_drop, exists)
        example = None
        if self.pixel_head is not None:
            example = self.pixel_head.mask.draw_each(jax.random.fold_in(k_drawn, 1), batch)
            # Both heads learn from the same slices.
            batch = batch | {"image": example.healthy, "brain_mask": example.brain_masks}
        mean, deviation = self.encode(frozen, batch["image"])
        x0 = mean + deviation * jax.random.normal(k_sample, mean.shape)
        visible = self._draw_visible(k_mask, x0.shape, batch["brain_mask"])
        t = jax.random.randint(k_t, (len(x0),), 0, self.schedule.num_steps)
        flat = (*x0.shape[:3], x0.shape[3] * x0.shape[4])
        noise = noise_lib.draw(k_noise, flat, self.noise).reshape(x0.shape)
        x_t = jax.vmap(lambda x, n, v: process.q_sample(self.schedule, x, t, n, v), (3, 3, 3), 3)(
            x0, noise, visible
        )
        if example is not None and self.synthesis.share > 0:
            chosen = mix.choose_share(k_drawn, self.synthesis.share, len(x0))
            anomalous = self._with_anomaly(frozen, batch["image"], example.images, visible)
            x_t, visible = mix.take_chosen(chosen, anomalous, (x_t, visible))
        x0_hat, output = self.answer(params, x_t, t, shown, k_dropout if train else None)
        judged = self._judged(visible, shown)
        x0_loss = self._latent_loss(x0, x0_hat, visible, shown, exists)
        mask_loss = losses.mask_loss(judged, output.visible_logit, self.loss_options.mask).mean()
        total = x0_loss + self.loss_options.mask_weight * mask_loss
        # What does not exist is as good as met.
        there = exists[:, None, None, :, None]
        pair = [jnp.where(there, x, 0.0).reshape(flat) for x in (x0, x0_hat)]
        metrics = self._metrics(total, x0_loss, mask_loss, *pair, judged, output.visible_logit)
        if example is not None:
            mask, weights = self.pixel_head.mask, params["pixel_head"]
            more, found = mask.loss_shown(weights, frozen, example, exists, shown)
            total = total + self.pixel_head.weight * more
            metrics |= found | {"loss": total}
        return total, metrics | base.report_penalty(output)

    def _with_anomaly(self, frozen, healthy, images, visible) -> tuple[jax.Array, jax.Array]:
        changed = shapes.changed_cells(
            channels_lib.fold(healthy),
            channels_lib.fold(images),
            visible.shape[1:3],
            self.synthesis.min_change,
        )
        changed = channels_lib.unfold(changed[..., None], len(images))[..., 0]
        return self.encode(frozen, images)[0], 1.0 - changed

    def _judged(self, visible: jax.Array, shown: jax.Array) -> Float[jax.Array, "b h w"]:
        """0 where an own contrast that is shown is noised: what the mask head has to say."""
        m = self.channels.contrasts
        return jnp.where(shown[:, None, None, :m], visible[..., :m], 1.0).min(-1)

    def _latent_loss(self, x0, x0_hat, visible, shown, exists) -> jax.Array:
        # All cells of a dropped channel are to be found.
        visible = jnp.where(shown[:, None, None, :], visible, 0.0)
        error = jax.vmap(
            lambda a, b, v: losses.latent_loss(a, b, v, self.loss_options.region), (3, 3, 3), 1
        )(x0, x0_hat, visible)
        count = jnp.maximum(exists.sum(-1), 1)
        return (jnp.where(exists, error, 0.0).sum(-1) / count).mean()

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """As `MadAd.anomaly_map`; `reconstruction` [b,H,W,m] of the slice's own contrasts, those
        that are missing translated from the others."""
        shown, m = batch["available"], self.channels.contrasts
        own = shown[:, :m]
        latent, _ = self.encode(frozen, batch["image"])
        result, pixels = self._correct(params, frozen, batch, latent, key)
        corrected = result["latent"].reshape(latent.shape)[..., :m, :]
        image, reference = self._decode_own(frozen, batch, latent[..., :m, :], corrected)
        score = self.score
        image_maps = difference_lib.clipped_difference(
            image, reference, difference=score.difference, gamma=score.gamma
        )
        image_maps = channels_lib.unfold(image_maps[..., None], len(latent))[..., 0]
        image_map = self._finish(channels_lib.mean_shown(image_maps, own), batch)
        moved = jnp.abs(corrected - latent[..., :m, :]).mean(-1)
        touched = result["rewritten"] > 0
        latent_map = jnp.where(touched, channels_lib.mean_shown(moved, own), 0.0)
        latent_map = jnp.minimum(latent_map, score.latent_gamma) / score.latent_gamma
        abnormal = self._to_image(result["abnormal"], batch)
        maps = {
            "map": image_map,
            "mask_map": self._finish(abnormal, batch),
            "latent_map": self._finish(self._to_image(latent_map, batch), batch),
            "reconstruction": channels_lib.unfold(image, len(latent))[..., 0],
            "rewritten": result["rewritten"],
        }
        if pixels is not None:
            maps["map"] = self._join(frozen, batch, pixels, abnormal)
            maps["mask_map"] = self._finish(pixels, batch)
            maps["difference_map"] = image_map
        return maps

    def _correct(
        self, params: Params, frozen: Params, batch: Batch, latent: jax.Array, key: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array | None]:
        """(what the sampler gives, the pixel head's probability)."""
        s, shown = self.sampler, batch["available"]
        outside = pixels = cells = None
        if s.inside_brain:
            outside = self._find_outside(batch["brain_mask"], latent.shape[1:3])
        if self.pixel_head is not None:
            pixels = self.pixel_head.mask.probability_shown(
                params["pixel_head"], frozen, batch["image"], batch["brain_mask"], shown
            )
            # A cell with one abnormal pixel is abnormal.
            cells = morphology.largest_of_cells(pixels, self.autoencoder.factor)

        def denoise(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            x0, output = self.answer(params, x.reshape(latent.shape), t, shown)
            return x0.reshape(x.shape), output.visible_logit

        # A missing channel starts from what stands for it, so that none of its pixels is read.
        there = shown[:, None, None, :, None]
        start = jnp.where(there, latent, self._missing(params, latent))
        start = start.reshape(*latent.shape[:3], -1)
        result = samplers.selective_ddim(
            denoise,
            start,
            schedule_lib.respace(self.schedule, s.steps, s.spacing),
            self._sampler_noise(key, start.shape),
            eta=s.eta,
            threshold=s.threshold,
            rewrite=s.rewrite,
            outside=outside,
            at_least=cells,
        )
        # A missing channel was rewritten in places alone: the clean answer is whole.
        clean, _ = self.answer(
            params,
            result["latent"].reshape(latent.shape),
            jnp.zeros(len(latent), jnp.int32),
            shown,
        )
        corrected = jnp.where(there, result["latent"].reshape(latent.shape), clean)
        return result | {"latent": corrected}, pixels

    def _decode_own(self, frozen, batch, latent, corrected) -> tuple[jax.Array, jax.Array]:
        """(decoded correction, what it is compared with) of the own contrasts [b*m,H,W,1]."""
        m = self.channels.contrasts

        def as_samples(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x, 3, 1).reshape(-1, *x.shape[1:3], x.shape[4])

        scale = jnp.tile(frozen["scaling_factor"], len(latent))[:, None, None, None]
        images = {"image": channels_lib.fold(batch["image"][..., :m])}
        return self.decode_pair(
            frozen | {"scaling_factor": scale},
            images,
            as_samples(latent),
            as_samples(corrected),
            self.score.reference,
        )

    def _join(self, frozen, batch, pixels, abnormal) -> jax.Array:
        brain, mask, deviation = batch["brain_mask"], self.pixel_head.mask, None
        if mask.atlas:
            z = stacked_mask.stacked_z_scores(batch["image"], brain)
            _, deviation = mask.compare(frozen, z, brain)
            own = batch["available"][:, : self.channels.contrasts]
            deviation = channels_lib.mean_shown(jnp.abs(deviation), own)
        smooth = difference_lib.gaussian_smooth(pixels, self.score.sigma)
        return joined.join(smooth, deviation, abnormal, brain, self.pixel_head.join)


def build(
    shared: shared_lib.Shared, settings: shared_lib.Settings, channels: channels_lib.Channels
) -> StackedMadAd:
    """From `config.methods.madad`."""
    plain = madad.build(shared, settings)
    parts = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    head = plain.pixel_head
    if head is not None:
        mask = stacked_mask.stacked_mask(head.mask, channels)
        parts["pixel_head"] = dataclasses.replace(head, mask=mask)
    return StackedMadAd(**parts, channels=channels)
