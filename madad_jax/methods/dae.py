"""Denoising autoencoder with coarse noise (Kascenas et al., MIDL 2022).

    n       N(0, sigma^2) on r x r cells, upsampled bilinearly to the image, rolled at random
    train   sum_brain ( f(x + m n) - x )^2 / |brain|,   m the brain mask
    test    map = |x - f(x)|: the image as it is, without noise

The network learns to take coarse blobs away; a lesion is one. Published: r = 16 for 128 pixels,
sigma = 0.2 for intensities in [0, 1] (0.4 here, where they span [-1, 1]); a U-Net of depth 4 with
64 base channels and GroupNorm; AdamW-style decay 1e-5 under Adam (amsgrad) 1e-4 with a cosine of
100 epochs' period; batch 16, 67,200 steps; at test the mask eroded (5 x 5 average above 0.95), a
5 x 5 median filter, and in 3-D components of up to 20 voxels dropped.

What differs: one modality at a time; the given brain mask is the foreground; rolls are a sample's
own; the U-Net is this repository's (residual blocks, its time step fixed at 0); AdamW without
amsgrad. With `synthesis.share` (ours) so many samples carry a synthetic anomaly instead of noise.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import interfaces
from madad_jax.synthesis import mix, shapes

_NO_SYNTHESIS = shapes.Options()
_PLAIN = difference.Residual()


@dataclasses.dataclass(frozen=True)
class Dae:
    """The method. `resolution` in cells a side, `sigma` for intensities in [0, 1]."""

    network: interfaces.Denoiser
    residual: difference.Residual = _PLAIN
    resolution: int = 16
    sigma: float = 0.2
    synthesis: shapes.Options = _NO_SYNTHESIS
    name: str = "dae"

    def __post_init__(self):
        if self.resolution < 1 or self.sigma < 0:
            raise errors.UserError(
                f"methods.dae.resolution, sigma: found {self.resolution}, {self.sigma}; "
                "accepted: at least 1, at least 0"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        return self.network.init(key, batch_spec["image"].shape)

    def corrupt(self, batch: Batch, key: jax.Array, frozen: Params = None) -> jax.Array:
        """Training inputs [b,H,W,1]: coarse noise, or a synthetic anomaly, in the brain."""
        k_noise, k_choice, k_anomaly = jax.random.split(key, 3)
        x, brain = batch["image"], batch["brain_mask"]
        # 2: sigma is published for intensities in [0, 1], here they span 2.
        noise = 2.0 * self.sigma * coarse_noise(k_noise, x.shape, self.resolution)
        noised = x + noise * brain[..., None]
        keys = k_choice, k_anomaly
        return mix.replace_share(keys, batch, self.synthesis, noised, lambda x: x, frozen)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Squared error of the denoised image over the brain."""
        k_corrupt, k_dropout = jax.random.split(key)
        corrupted = self.corrupt(batch, k_corrupt, frozen)
        output = self._clean(params, corrupted, k_dropout if train else None)
        inside = batch["brain_mask"].astype(jnp.float32)
        error = jnp.square(output.x0 - batch["image"])[..., 0]
        # A batch of slices without brain has no pixel to average over.
        loss = (error * inside).sum() / jnp.maximum(inside.sum(), 1.0)
        return loss, {"loss": loss, **base.report_penalty(output)}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1] of the image as it is."""
        del frozen, key
        x, brain = batch["image"], batch["brain_mask"]
        # Nothing was asked of the network outside the brain: there it shows the input.
        x_hat = jnp.where(brain[..., None], self._clean(params, x, None).x0, x)
        return {"map": self.residual(x_hat, x, brain), "reconstruction": x_hat}

    def _clean(self, params: Params, x: jax.Array, key: jax.Array | None) -> interfaces.Output:
        # The U-Net embeds a noise level; a denoising autoencoder has one level only.
        return self.network.apply(params, x, jnp.zeros(len(x), jnp.int32), key=key)


def coarse_noise(
    key: jax.Array, shape: tuple[int, ...], resolution: int
) -> Float[jax.Array, "b H W c"]:
    """Standard normal draws on `resolution` x `resolution` cells, upsampled bilinearly to
    `shape` (b, H, W, c), each sample rolled along both axes by a random number of pixels."""
    batch, height, width, channels = shape
    k_cells, k_roll = jax.random.split(key)
    cells = jax.random.normal(k_cells, (batch, resolution, resolution, channels))
    fine = jax.image.resize(cells, shape, "bilinear")
    # Without the roll the grid of cells would lie at the same pixels in every sample.
    roll = jax.random.randint(k_roll, (batch, 2), 0, jnp.array([height, width]))
    return jax.vmap(lambda x, r: jnp.roll(x, (r[0], r[1]), (0, 1)))(fine, roll)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Dae:
    """From `config.methods.dae`."""
    return Dae(
        network=shared.pixel_unet(),
        residual=shared_lib.filtered_residual(shared, settings.inference),
        resolution=settings.resolution,
        sigma=settings.sigma,
        synthesis=shared.synthesis,
    )
