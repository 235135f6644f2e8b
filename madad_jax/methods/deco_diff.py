"""DeCo-Diff: correcting deviations of a latent along a predicted direction (CVPR 2025).

    x_t  = v x_0 + (1 - v) ( sqrt(abar_t) x_0 + sqrt(1 - abar_t) n )
    d    = (1 - v) ( n - (1 - sqrt(abar_t)) / sqrt(1 - abar_t) x_0 )        so that
    x_t  = x_0 + sqrt(1 - abar_t) d
    train    || d - f(x_t, t) ||^2
    test     from the encoded image at t = start, over t = start .. 0:
             x_0_hat = x - sqrt(1 - abar_t) f(x, t);  x <- x_0_hat + sqrt(1 - abar_{t-1}) f(x, t)

v = 1 on cells that stay as they are: where the network predicts 0, nothing is moved, so that no
mask head is needed. n is white noise, but on a share ~ U(0, 0.3) of the patches it is the latent of
another sample's patch. Score: sqrt(image map * latent map) (`anomaly_maps/fused.py`).

Source: Beizaee et al., CVPR 2025, from the formulas. Published: SD autoencoder (32 x 32 x 4, scaled
by 0.18215), patch sides 1, 2, 4, 8, 16 with probabilities 0.3, 0.25, 0.2, 0.15, 0.1, mask ratio
U(0, 0.7), T = 10, start 5, AdamW 1e-4 with decay 1e-4, 800 epochs, batch 128. Differs: the
autoencoder is this repository's; no class embedding, since there is one class; the foreign share is
drawn as blocks like the noised one, its content from one shuffle of all patches of the batch of
the middle side; cells outside the brain are left alone, as MAD-AD does. With `synthesis.share`
(ours) so many samples carry a synthetic anomaly instead: d then follows from its latent.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import fused
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import masking, process
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib
from madad_jax.synthesis import mix, shapes

_NO_SYNTHESIS = shapes.Options()
_PUBLISHED_SCORE = fused.FusedScore()


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Patches in latent cells; `foreign` is the largest share of noised cells that take another
    patch's content. `brain_*` as MAD-AD's (`diffusion/masking.py`); 0 gates nothing."""

    max_ratio: float = 0.7
    sides: tuple[int, ...] = (1, 2, 4, 8, 16)
    probabilities: tuple[float, ...] = (0.3, 0.25, 0.2, 0.15, 0.1)
    per: str = "sample"
    foreign: float = 0.3
    brain_cells: int = 1
    brain_min_fraction: float = 0.5


@dataclasses.dataclass(frozen=True)
class DecoDiff(families.CorrectedLatents):
    """The method. `frozen` is {"autoencoder": params, "scaling_factor": scalar}."""

    schedule: schedule_lib.Schedule
    corruption: Corruption = Corruption()
    start: int = 5
    score: fused.FusedScore = dataclasses.field(default=_PUBLISHED_SCORE, kw_only=True)
    synthesis: shapes.Options = _NO_SYNTHESIS
    name: str = "deco_diff"

    def __post_init__(self):
        if not 0 <= self.start < self.schedule.num_steps:
            raise errors.UserError(
                f"methods.deco_diff.inference.start: found {self.start}, accepted: 0 to "
                f"{self.schedule.num_steps - 1}"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the denoiser for the latents of the batch, or of its images."""
        c = self.corruption
        masking.check_sides(self.latent_sides(batch_spec), c.sides, c.probabilities, c.per)
        return super().init(key, batch_spec)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Squared error of the direction over the whole latent."""
        k_sample, k_t, k_corrupt, k_synthesis, k_dropout = jax.random.split(key, 5)
        x0 = self.draw_latent(frozen, batch, k_sample)
        t = jax.random.randint(k_t, (len(x0),), 0, self.schedule.num_steps)
        direction = self.direction(k_corrupt, x0, t, batch["brain_mask"])

        def with_anomaly(images: jax.Array) -> jax.Array:
            changed = shapes.changed_cells(
                batch["image"], images, x0.shape[1:3], self.synthesis.min_change
            )
            # All of the anomaly is there whatever t says: the direction is as much longer.
            moved = self.scaled_mean(frozen, images) - x0
            return changed[..., None] * moved / self._width(t)

        direction = mix.replace_share(
            k_synthesis, batch, self.synthesis, direction, with_anomaly, frozen
        )
        x_t = x0 + self._width(t) * direction
        return self.regression(params, x_t, t, direction, k_dropout if train else None)

    def _width(self, t: jax.Array) -> jax.Array:
        """sqrt(1 - abar_t), [b,1,1,1]."""
        return jnp.sqrt(1.0 - process.gather(self.schedule.alphas_cumprod, t))

    def direction(
        self,
        key: jax.Array,
        x0: Float[jax.Array, "b h w c"],
        t: jax.Array,
        brain_mask: jax.Array,
    ) -> Float[jax.Array, "b h w c"]:
        """d of freshly drawn patches and noise; 0 on cells that stay as they are."""
        k_visible, k_noise, k_foreign, k_shuffle = jax.random.split(key, 4)
        c = self.corruption
        shape = x0.shape[:3]
        options = {"sides": c.sides, "probabilities": c.probabilities, "per": c.per}
        visible = masking.draw_visible(k_visible, shape, max_ratio=c.max_ratio, **options)
        outside = masking.outside_brain(
            brain_mask, shape[1:], cells=c.brain_cells, min_fraction=c.brain_min_fraction
        )
        visible = masking.keep_outside(visible, outside)
        noise = jax.random.normal(k_noise, x0.shape)
        if c.foreign > 0:
            # The same drawing of blocks with `foreign` as ratio: a block is one kind as a whole.
            own = masking.draw_visible(k_foreign, shape, max_ratio=c.foreign, **options)
            side = _middle(c.sides)
            noise = jnp.where(own[..., None] > 0.5, noise, shuffle_patches(k_shuffle, x0, side))
        abar = process.gather(self.schedule.alphas_cumprod, t)
        # Solved from the first two formulas of the header; abar < 1 at every t of a schedule.
        shrink = (1.0 - jnp.sqrt(abar)) / jnp.sqrt(1.0 - abar)
        return (1.0 - visible[..., None]) * (noise - shrink * x0)

    def correct(
        self, params: Params, latent: Float[jax.Array, "b h w c"]
    ) -> Float[jax.Array, "b h w c"]:
        """The latent moved back along the predicted directions, t = start .. 0."""
        # Tables on the device, since t is traced inside the scan.
        widths = jnp.asarray((1.0 - self.schedule.alphas_cumprod) ** 0.5, jnp.float32)
        before = jnp.asarray((1.0 - self.schedule.alphas_cumprod_prev) ** 0.5, jnp.float32)

        def step(x, t):
            d = self.denoiser.predict(params, x, jnp.full((len(x),), t, jnp.int32))
            return x - (widths[t] - before[t]) * d, None

        # After t = 0 the width is that of abar = 1, which is 0: the last step removes all of d.
        return jax.lax.scan(step, latent, jnp.arange(self.start, -1, -1))[0]


def _middle(sides: tuple[int, ...]) -> int:
    """The side of shuffled patches: a typical one, since the shuffle needs a fixed size."""
    # The lower middle: 4 of the published sides.
    return sorted(sides)[(len(sides) - 1) // 2]


def shuffle_patches(
    key: jax.Array, latents: Float[jax.Array, "b h w c"], side: int
) -> Float[jax.Array, "b h w c"]:
    """All patches of `side` x `side` cells of the batch, put to random places of it."""
    b, h, w, c = latents.shape
    x = latents.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    x = jax.random.permutation(key, x.reshape(-1, side, side, c))
    x = x.reshape(b, h // side, w // side, side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(latents.shape)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> DecoDiff:
    """From `config.methods.deco_diff`."""
    return DecoDiff(
        denoiser=shared.denoiser(),
        autoencoder=shared.autoencoder(),
        schedule=shared.schedule(),
        corruption=Corruption(**settings.corruption.table()),
        start=settings.inference.start,
        score=shared_lib.fused_score(shared, settings.inference),
        synthesis=shared.synthesis,
    )
