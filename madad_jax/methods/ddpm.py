"""DDPM on images with partial noising, the plain diffusion baseline.

    train   || eps - f(x_t, t) ||^2 at all levels t                    (Ho et al. 2020, eq. 14)
    test    x noised to level `start`, denoised to x_hat; map = |x_hat - x|

Source: Ho et al. 2020; noising an image only partly, Wyatt et al. 2022 (AnoDDPM, whose Gaussian
row this is). Published there: T = 1000, linear schedule, U-Net of 128 channels, AdamW 1e-4,
start 250, every step of the reverse process. What differs: the map is the clipped difference
instead of a difference cut at a fixed value, smoothed as every row is; `steps` may be fewer
(DDIM's spacing), for machines without a GPU, and images may stop early (`partial.Adaptive`, off).
"""

import dataclasses

import jax

from madad_jax.diffusion import partial
from madad_jax.methods import base
from madad_jax.typing import Batch, Params

_PUBLISHED = partial.Reverse(start=250)


@dataclasses.dataclass(frozen=True)
class Ddpm(base.ImageDiffusion):
    """Partial noising and denoising of whole images (diffusion/partial.py)."""

    reverse: partial.Reverse = _PUBLISHED
    name: str = "ddpm"
    deterministic: bool = False

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1]."""
        del frozen
        x = batch["image"]

        def network(x, t):
            return self.network.predict(params, x, t)

        x_hat = self.process.reconstruct(network, x, key, self.reverse)
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}
