"""MAD-AD: masked latent diffusion with a mask head (arXiv 2502.16943).

Training: a healthy latent is noised in random blocks; the denoiser predicts the clean
latent and which cells were left visible. Test: the unhealthy latent is taken to be the
noised one and only the cells that the mask head flags are rewritten (diffusion/samplers).
Where paper and official code differ, the difference is a field of an options class below.
"""

import dataclasses

import jax
import jax.numpy as jnp

from madad_jax.anomaly_maps import difference as difference_lib
from madad_jax.anomaly_maps import healthy_groups as atlas
from madad_jax.anomaly_maps import joined, morphology
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import losses, masking, process, samplers
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import base, families
from madad_jax.methods import pixel_mask as pixel_mask_lib
from madad_jax.methods import shared as shared_lib
from madad_jax.synthesis import mix, shapes


@dataclasses.dataclass(frozen=True)
class Masking:
    """How blocks are drawn (`diffusion/masking.py`). `brain_min_fraction=0` gates nothing."""

    max_ratio: float = 0.4
    sides: tuple[int, ...] = (1, 2, 4, 8)
    probabilities: tuple[float, ...] = (0.2, 0.3, 0.3, 0.2)
    per: str = "batch"
    brain_cells: int = 2
    brain_min_fraction: float = 0.9


@dataclasses.dataclass(frozen=True)
class Loss:
    """The training loss (`diffusion/losses.py`)."""

    mask: str = "bce"
    mask_weight: float = 1.0
    region: str = "all"


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Selective DDIM (`diffusion/samplers.py`). `inside_brain` (ours) never rewrites a cell
    that `Masking` never noises (a synthetic anomaly may still reach it in training)."""

    steps: int = 10
    spacing: str = "official"
    eta: float = 0.0
    threshold: float = 0.5
    rewrite: str = "threshold"
    inside_brain: bool = False


@dataclasses.dataclass(frozen=True)
class Score:
    """The anomaly map (`anomaly_maps/difference.py`); `sigma` in image pixels, `latent_gamma`
    (ours) the clip of the latent difference in units of the scaled latent."""

    difference: str = "l2"
    reference: str = "input"
    gamma: float = 0.2
    latent_gamma: float = 1.0
    sigma: float = 5.0
    inside_brain: bool = False


_JOIN = joined.Join()


@dataclasses.dataclass(frozen=True)
class PixelHead:
    """The mask head at image resolution (ours). It says which cells are rewritten, too.

    Attributes:
      mask: the network and what is drawn for it.
      weight: of its loss.
      join: how its probability becomes the map.
    """

    mask: pixel_mask_lib.PixelMask
    weight: float = 1.0
    join: joined.Join = _JOIN


_NO_SYNTHESIS = shapes.Options()


@dataclasses.dataclass(frozen=True)
class MadAd(families.OnLatents):
    """The method. `frozen` is {"autoencoder": params, "scaling_factor": scalar}, and with an atlas
    {"atlas": arrays} besides (`anomaly_maps/healthy_groups.py`)."""

    schedule: schedule_lib.Schedule
    masking: Masking = Masking()
    loss_options: Loss = Loss()
    sampler: Sampler = Sampler()
    score: Score = Score()
    noise: str = "gaussian"
    synthesis: shapes.Options = _NO_SYNTHESIS
    pixel_head: PixelHead | None = None
    name: str = "madad"

    def __post_init__(self):
        noise_lib.check_kind(self.noise)
        if self.score.reference not in difference_lib.REFERENCES:
            raise errors.UserError(
                f"score.reference: found {self.score.reference!r}, "
                f"accepted: {', '.join(difference_lib.REFERENCES)}"
            )
        if self.score.latent_gamma <= 0:
            raise errors.UserError(
                f"score.latent_gamma: found {self.score.latent_gamma}, must be positive"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the denoiser for the latents of the batch, or of its images."""
        m = self.masking
        masking.check_sides(self.latent_sides(batch_spec), m.sides, m.probabilities, m.per)
        if self.pixel_head is None:
            return super().init(key, batch_spec)
        k_denoiser, k_pixels = jax.random.split(key)
        return {
            "denoiser": super().init(k_denoiser, batch_spec),
            "pixel_head": self.pixel_head.mask.init(k_pixels, batch_spec),
        }

    def _denoise(self, params: Params, x: jax.Array, t: jax.Array, key: jax.Array | None = None):
        weights = params if self.pixel_head is None else params["denoiser"]
        return self.denoiser.apply(weights, x, t, key=key)

    def _find_outside(self, brain_mask: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return masking.outside_brain(
            brain_mask,
            shape,
            cells=self.masking.brain_cells,
            min_fraction=self.masking.brain_min_fraction,
        )

    def _draw_example(
        self, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[pixel_mask_lib.Example | None, Batch]:
        """What the head at image resolution learns from, and the denoiser's batch."""
        if self.pixel_head is None:
            return None, batch
        example = self.pixel_head.mask.draw(key, batch, frozen)
        # Both heads learn from the same slices.
        return example, batch | {"image": example.healthy, "brain_mask": example.brain_masks}

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Paper eq. 5 on a posterior sample (as the official code trains)."""
        # Six keys whatever is switched on: an option must not change the draws of the others.
        k_sample, k_mask, k_t, k_noise, k_dropout, k_synthesis = jax.random.split(key, 6)
        example, batch = self._draw_example(frozen, batch, jax.random.fold_in(k_synthesis, 1))
        x0 = self.draw_latent(frozen, batch, k_sample)
        m = self.masking
        visible = masking.draw_visible(
            k_mask,
            x0.shape[:3],
            max_ratio=m.max_ratio,
            sides=m.sides,
            probabilities=m.probabilities,
            per=m.per,
        )
        # After the draw, not before: block masks keep their published statistics in the brain.
        visible = masking.keep_outside(
            visible, self._find_outside(batch["brain_mask"], x0.shape[1:3])
        )
        t = jax.random.randint(k_t, (x0.shape[0],), 0, self.schedule.num_steps)
        noise = noise_lib.draw(k_noise, x0.shape, self.noise)
        x_t = process.q_sample(self.schedule, x0, t, noise, visible)

        def with_anomaly(images: jax.Array) -> tuple[jax.Array, jax.Array]:
            changed = shapes.changed_cells(
                batch["image"], images, visible.shape[1:], self.synthesis.min_change
            )
            return self.scaled_mean(frozen, images), 1.0 - changed

        if example is None:
            x_t, visible = mix.replace_share(
                k_synthesis, batch, self.synthesis, (x_t, visible), with_anomaly, frozen
            )
        else:
            chosen = mix.choose_share(k_synthesis, self.synthesis.share, len(x_t))
            anomalous = with_anomaly(example.images)
            x_t, visible = mix.take_chosen(chosen, anomalous, (x_t, visible))
        output = self._denoise(params, x_t, t, k_dropout if train else None)
        x0_hat, logit = output.x0, output.visible_logit
        options = self.loss_options
        x0_loss = losses.latent_loss(x0, x0_hat, visible, options.region).mean()
        mask_loss = losses.mask_loss(visible, logit, options.mask).mean()
        total = x0_loss + options.mask_weight * mask_loss
        metrics = self._metrics(total, x0_loss, mask_loss, x0, x0_hat, visible, logit)
        if example is not None:
            mask = self.pixel_head.mask
            pixel_logit = mask.logit(
                params["pixel_head"], frozen, example.images, example.brain_masks
            )
            more, found = mask.loss(pixel_logit, example.truth, example.brain_masks)
            total = total + self.pixel_head.weight * more
            metrics |= found | {"loss": total}
        return total, metrics | base.report_penalty(output)

    def _metrics(self, total, x0_loss, mask_loss, x0, x0_hat, visible, logit) -> Metrics:
        """What tells a person whether both heads learn: errors on noised cells alone, and
        how often a noised (visible) cell is called so."""
        noised = 1.0 - visible
        flagged = (logit[..., 0] < 0).astype(jnp.float32)
        count = jnp.maximum(noised.sum(), 1.0)
        error = jnp.square(x0 - x0_hat).mean(-1)
        return {
            "loss": total,
            "x0_loss": x0_loss,
            "mask_loss": mask_loss,
            # The plain loss is mostly visible cells, which any network copies through.
            "x0_error_noised": (error * noised).sum() / count,
            "mask_sensitivity": (flagged * noised).sum() / count,
            "mask_specificity": ((1 - flagged) * visible).sum() / jnp.maximum(visible.sum(), 1.0),
        }

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Image to anomaly map in one call (paper eqs. 6 and 7).

        Returns `map` (the image difference, what the paper reports), `mask_map` and
        `latent_map` (the two other signals of the paper's table 3), all [b,H,W] and
        smoothed; `reconstruction` [b,H,W,1]; `rewritten` [b,h,w] (share of steps). With a head at
        image resolution `map` is its probability joined with the other signals, `mask_map` the
        probability alone, and `difference_map` the image difference.
        """
        mean, _ = self.posterior(frozen, batch)
        latent = mean * frozen["scaling_factor"]
        s = self.sampler
        schedule = schedule_lib.respace(self.schedule, s.steps, s.spacing)
        outside = None
        if s.inside_brain:
            outside = self._find_outside(batch["brain_mask"], latent.shape[1:3])
        pixels = cells = None
        if self.pixel_head is not None:
            pixels = self.pixel_head.mask.probability(
                params["pixel_head"], frozen, batch["image"], batch["brain_mask"]
            )
            # A cell with one abnormal pixel is abnormal.
            cells = morphology.largest_of_cells(pixels, self.autoencoder.factor)
        result = samplers.selective_ddim(
            lambda x, t: self._denoise(params, x, t),
            latent,
            schedule,
            self._sampler_noise(key, latent.shape),
            eta=s.eta,
            threshold=s.threshold,
            rewrite=s.rewrite,
            outside=outside,
            at_least=cells,
        )
        corrected, reference = self.decode_pair(
            frozen, batch, latent, result["latent"], self.score.reference
        )
        image_map = difference_lib.clipped_difference(
            corrected, reference, difference=self.score.difference, gamma=self.score.gamma
        )
        latent_gamma = self.score.latent_gamma
        # Where nothing was rewritten there is no difference; a fused product may leave rounding.
        touched = result["rewritten"] > 0
        latent_map = jnp.where(touched, jnp.abs(result["latent"] - latent).mean(-1), 0.0)
        # A share of the clip in [0, 1], so that thresholds compare between the signals.
        latent_map = jnp.minimum(latent_map, latent_gamma) / latent_gamma
        abnormal = self._to_image(result["abnormal"], batch)
        image_map = self._finish(image_map, batch)
        maps = {
            "map": image_map,
            "mask_map": self._finish(abnormal, batch),
            "latent_map": self._finish(self._to_image(latent_map, batch), batch),
            "reconstruction": corrected,
            "rewritten": result["rewritten"],
        }
        if pixels is not None:
            maps["map"] = self._join(frozen, batch, pixels, abnormal)
            maps["mask_map"] = self._finish(pixels, batch)
            maps["difference_map"] = image_map
        return maps

    def _join(self, frozen, batch, pixels, abnormal) -> jax.Array:
        """The reported map with a head at image resolution."""
        brain, deviation = batch["brain_mask"], None
        if self.pixel_head.mask.atlas:
            z = pixel_mask_lib.z_scores(batch["image"], brain)
            _, deviation = atlas.compare(frozen["atlas"], z, brain)
        smooth = difference_lib.gaussian_smooth(pixels, self.score.sigma)
        return joined.join(smooth, deviation, abnormal, brain, self.pixel_head.join)

    def _sampler_noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Drawn for all steps at once and handed in: the sampler is then a function without a key,
        # which golden tests can feed the official draws.
        keys = jax.random.split(key, self.sampler.steps)
        return jnp.stack([noise_lib.draw(k, shape, self.noise) for k in keys])

    def _to_image(self, cells: jax.Array, batch: Batch) -> jax.Array:
        return jax.image.resize(cells, batch["image"].shape[:3], "bilinear")

    def _finish(self, maps: jax.Array, batch: Batch) -> jax.Array:
        maps = difference_lib.gaussian_smooth(maps, self.score.sigma)
        return maps * batch["brain_mask"] if self.score.inside_brain else maps


def _build_pixel_head(shared: shared_lib.Shared, settings: shared_lib.Settings) -> PixelHead | None:
    # Configs of earlier versions have no such section.
    own = getattr(settings, "pixel_head", None)
    if own is None or not own.network.widths:
        return None
    join = joined.Join(**settings.inference.join.table())
    return PixelHead(shared_lib.pixel_mask(shared, own), own.weight, join)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> MadAd:
    """From `config.methods.madad`."""
    inference = settings.inference
    return MadAd(
        denoiser=shared.denoiser(),
        autoencoder=shared.autoencoder(),
        schedule=shared.schedule(),
        noise=shared.noise,
        synthesis=shared.synthesis,
        pixel_head=_build_pixel_head(shared, settings),
        masking=Masking(**settings.masking.table()),
        loss_options=Loss(**settings.loss.table()),
        sampler=Sampler(**inference.sampler.table()),
        score=Score(
            **inference.score.table(), sigma=shared.sigma, inside_brain=shared.inside_brain
        ),
    )
