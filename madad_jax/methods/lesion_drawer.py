"""Draws lesions of a kind that it saw a few examples of into healthy slices, on latents.

After AnomalyDiffusion (Hu et al., AAAI 2024, arXiv 2312.05767), with MAD-AD's denoiser in place of
a text-to-image model: it was trained to fill cells M of a latent from the clean rest. Autoencoder
and denoiser stay as they are; adapters are trained (`models/adapters.py`).

    train   || m (z_0 - f(z_t^M, t, k, m)) ||^2 / |m|       z_0 of a slice with lesions, m its soft
            mask in cells, M = m grown by one cell; half of a batch healthy, k = none
    draw    z_T = noise in M, the healthy latent elsewhere; DDIM with
            f = f_none + s w (f_k - f_none)
    w       |M| (1/d) / sum_M (1/d) in [1, 1.5],  d = mean_c (z_t - z_healthy)^2    (published, for
            attention): cells that still look healthy are guided more

What differs from the paper is ours: one vector a type in place of four words, no spatial encoder
(the mask is an input channel), w as a map of the guidance, and flips, turns of 20 degrees, scales
of 0.8 to 1.25 and intensities of +-10 % as augmentation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import process, samplers
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import families
from madad_jax.models import adapters as adapters_lib
from madad_jax.synthesis import smooth_noise

_TURN = 20.0  # degrees
_SCALES = (0.8, 1.25)
_INTENSITY = 0.1
_MOST_WEIGHT = 1.5  # of w


@dataclasses.dataclass(frozen=True)
class LesionDrawer(families.OnLatents):
    """The drawer. `frozen` is {"denoiser": weights, "autoencoder": weights, "scaling_factor": ...}.

    Attributes:
      schedule, noise: as the denoiser was trained.
      types: kinds of lesions.
      rank: of the adapters.
      batch_size: of training, half of it healthy; even.
      guidance: s; 1 follows f_k alone.
      reweight: whether w is used.
    """

    schedule: schedule_lib.Schedule
    noise: str = "gaussian"
    types: int = 1
    rank: int = 8
    batch_size: int = 16
    guidance: float = 2.0
    reweight: bool = True
    name: str = "lesion_drawer"

    def __post_init__(self):
        _ = self.adapters  # for its errors
        if self.batch_size < 2 or self.batch_size % 2:
            raise errors.UserError(
                f"--batch_size: found {self.batch_size}, accepted: even numbers, since half of a "
                "batch is healthy"
            )
        if self.guidance < 0:
            raise errors.UserError(f"--guidance: found {self.guidance}, accepted: 0 or more")

    @property
    def adapters(self) -> adapters_lib.Adapters:
        """What is trained. Raises UserError for a denoiser that cannot have any."""
        return adapters_lib.Adapters(self.denoiser, self.types, self.rank)

    def init_adapters(self, key: jax.Array, frozen: Params) -> Params:
        """Fresh adapters of the frozen denoiser."""
        return self.adapters.init(key, frozen["denoiser"])

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The error of the clean latent inside the masks.

        `batch` holds all there is to draw from: `lesion_image` [k,H,W,1], `lesion_mask` [k,H,W],
        `lesion_type` [k] from 1 on; `healthy_image` [n,H,W,1] and `healthy_mask` [n,H,W], masks of
        lesions in slices without any.
        """
        del train
        half = self.batch_size // 2
        k_sick, k_well, k_augment, k_t, k_noise = jax.random.split(key, 5)
        sick = jax.random.randint(k_sick, (half,), 0, batch["lesion_image"].shape[0])
        well = jax.random.randint(k_well, (half,), 0, batch["healthy_image"].shape[0])
        images = jnp.concatenate([batch["lesion_image"][sick], batch["healthy_image"][well]])
        masks = jnp.concatenate([batch["lesion_mask"][sick], batch["healthy_mask"][well]])
        types = jnp.concatenate([batch["lesion_type"][sick], jnp.zeros(half, jnp.int32)])
        images, masks = augment(k_augment, images, masks.astype(jnp.float32))
        x0 = self.scaled_mean(frozen, images)
        soft = self.soften(masks)
        t = jax.random.randint(k_t, (len(x0),), 0, self.schedule.num_steps)
        noise = noise_lib.draw(k_noise, x0.shape, self.noise)
        x_t = process.q_sample(self.schedule, x0, t, noise, 1.0 - grow(soft))
        x0_hat = self.adapters.apply(frozen["denoiser"], params, x_t, t, types, soft)
        error = jnp.square(soft[..., None] * (x0 - x0_hat)).mean(-1).sum((1, 2))
        # A mask that was turned out of the picture has no cell to average over.
        each = error / jnp.maximum(soft.sum((1, 2)), 1e-3)
        loss = each.mean()
        return loss, {"loss": loss, "lesion": each[:half].mean(), "healthy": each[half:].mean()}

    def soften(self, masks: Float[jax.Array, "b H W"]) -> Float[jax.Array, "b h w"]:
        """Masks in latent cells: the share of each cell that they cover."""
        b, height, width = masks.shape
        f = self.autoencoder.factor
        return masks.reshape(b, height // f, f, width // f, f).mean((2, 4))

    def draw(
        self,
        params: Params,
        frozen: Params,
        images: Float[jax.Array, "b H W 1"],
        masks: Float[jax.Array, "b H W"],
        types: Int[jax.Array, " b"],
        keys: jax.Array,
    ) -> dict[str, jax.Array]:
        """`drawn` and `healthy` [b,H,W,1]: the slices decoded with lesions and as they are.

        Args:
          params: trained adapters.
          frozen: as in the class.
          images: healthy slices.
          masks: of the lesions, 0 to 1.
          types: of the lesions, from 1 on.
          keys: [b], one a slice, so that a slice does not depend on those beside it.
        """
        x0 = self.scaled_mean(frozen, images)
        soft = self.soften(masks)
        region = grow(soft)
        steps = self.schedule.num_steps

        def noise_of(key: jax.Array) -> jax.Array:
            return noise_lib.draw(key, (1, *x0.shape[1:]), self.noise)[0]

        # Mapped over steps too: written out, a program of minutes to compile.
        each = jax.vmap(lambda key: jax.random.split(key, steps + 1))(keys)
        noise = jnp.swapaxes(jax.vmap(jax.vmap(noise_of))(each), 0, 1)

        def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
            twice = [jnp.concatenate([a, a]) for a in (x, t, soft)]
            both = jnp.concatenate([jnp.zeros_like(types), types])
            answers = self.adapters.apply(frozen["denoiser"], params, *twice[:2], both, twice[2])
            none, wanted = jnp.split(answers, 2)
            weight = guidance_weights(x, x0, region) if self.reweight else 1.0
            return none + self.guidance * weight * (wanted - none)

        drawn = samplers.inpaint(denoise, x0, region, self.schedule, noise)
        weights, scale = frozen["autoencoder"], frozen["scaling_factor"]
        first, second = self.autoencoder.decode_both(weights, drawn / scale, x0 / scale)
        return {"drawn": first, "healthy": second}


def grow(soft: Float[jax.Array, "b h w"]) -> Float[jax.Array, "b h w"]:
    """1 on cells that a mask touches and on their neighbours, else 0."""
    touched = (soft > 0).astype(jnp.float32)
    return jax.lax.reduce_window(touched, 0.0, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")


def guidance_weights(
    x: Float[jax.Array, "b h w c"],
    healthy: Float[jax.Array, "b h w c"],
    region: Float[jax.Array, "b h w"],
) -> Float[jax.Array, "b h w 1"]:
    """w of the module's text; 1 outside the region."""
    distance = jnp.square(x - healthy).mean(-1)
    # The floor: a cell that has not changed at all is the one to guide most, not infinitely.
    inverse = region / jnp.maximum(distance, 1e-6)
    count = region.sum((1, 2), keepdims=True)
    total = jnp.maximum(inverse.sum((1, 2), keepdims=True), 1e-6)
    weight = jnp.clip(count * inverse / total, 1.0, _MOST_WEIGHT)
    return jnp.where(region > 0, weight, 1.0)[..., None]


def augment(
    key: jax.Array, images: Float[jax.Array, "b H W 1"], masks: Float[jax.Array, "b H W"]
) -> tuple[Float[jax.Array, "b H W 1"], Float[jax.Array, "b H W"]]:
    """Slices and masks mirrored, turned and scaled alike; intensities of the slices changed."""
    batch, height, width = masks.shape
    one = (batch, 1, 1)
    k_flip, k_turn, k_scale, k_intensity = jax.random.split(key, 4)
    flip = jnp.where(jax.random.bernoulli(k_flip, 0.5, one), -1.0, 1.0)
    turn = jnp.deg2rad(_TURN) * jax.random.uniform(k_turn, one, minval=-1.0)
    least, most = np.log(_SCALES)
    scale = jnp.exp(jax.random.uniform(k_scale, one, minval=least, maxval=most))
    rows = (jnp.arange(height) - (height - 1) / 2)[None, :, None]
    columns = (jnp.arange(width) - (width - 1) / 2)[None, None, :] * flip
    r = (jnp.cos(turn) * rows - jnp.sin(turn) * columns) / scale + (height - 1) / 2
    c = (jnp.sin(turn) * rows + jnp.cos(turn) * columns) / scale + (width - 1) / 2
    gain = jax.random.uniform(k_intensity, one, minval=1.0 - _INTENSITY, maxval=1.0 + _INTENSITY)
    unit = smooth_noise.sample((images[..., 0] + 1.0) * 0.5, r, c) * gain
    return (jnp.clip(unit, 0.0, 1.0) * 2.0 - 1.0)[..., None], smooth_noise.sample(masks, r, c)
