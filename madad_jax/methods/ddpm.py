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

from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib


@dataclasses.dataclass(frozen=True)
class Ddpm(families.PartialDiffusion):
    """`process.noise` is Gaussian."""

    name: str = "ddpm"


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Ddpm:
    """From `config.methods.ddpm`."""
    parts = shared_lib.pixel_parts(shared, settings)
    return Ddpm(**parts, reverse=shared_lib.reverse(settings.inference))
