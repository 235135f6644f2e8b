"""DDPM on images with partial noising, the plain diffusion baseline.

    train   || eps - f(x_t, t) ||^2 at all levels t                    (Ho et al. 2020, eq. 14)
    test    x noised to level `start`, denoised to x_hat; map = |x_hat - x|

Source: Ho et al. 2020; noising an image only partly, Wyatt et al. 2022 (AnoDDPM, whose Gaussian
row this is). Published there: T = 1000, linear schedule, U-Net of 128 channels, AdamW 1e-4,
start 250, every step of the reverse process. What differs: the map is the clipped difference
instead of a difference cut at a fixed value, smoothed as every row is; `steps` may be fewer
(DDIM's spacing), for machines without a GPU.
"""

import dataclasses

import jax
import jax.numpy as jnp

from madad_jax.diffusion import anomaly_map as anomaly
from madad_jax.diffusion import partial
from madad_jax.models import registry
from madad_jax.typing import Batch, Metrics, Params


@dataclasses.dataclass(frozen=True)
class Ddpm:
    """`start` is the level that images are noised to, `steps` how many lead back (0: all)."""

    network: registry.Denoiser
    process: partial.Process
    residual: anomaly.Residual
    start: int = 250
    steps: int = 0
    eta: float = 1.0
    name: str = "ddpm"
    deterministic: bool = False

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        return self.network.init(key, batch_spec["image"].shape)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """The error of the predicted noise over whole images."""
        del frozen
        k_process, k_dropout = jax.random.split(key)
        dropout = None if self.deterministic else k_dropout

        def network(x, t):
            return self.network.predict(params, x, t, key=dropout)

        loss = self.process.loss(network, batch["image"], k_process)
        return loss, {"loss": loss}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1]."""
        del frozen
        k_noise, k_steps = jax.random.split(key)
        x, times = batch["image"], self.process.times(self.start, self.steps)
        noise = self.process.noise.draw(k_noise, x.shape)
        x_t = self.process.noised(x, jnp.full((len(x),), self.start), noise)

        def network(x, t):
            return self.network.predict(params, x, t)

        x_hat = self.process.denoise(network, x_t, k_steps, times, eta=self.eta)
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}
