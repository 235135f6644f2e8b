"""AnoDDPM: partial diffusion with simplex noise (Wyatt et al., CVPR workshops 2022).

    train   || eps - f(x_t, t) ||^2 with eps simplex noise             (their eq. 5 with S for N)
    test    x noised to level 250 of 1000 with simplex noise, denoised to x_hat
            map = (x_hat - x)^2

White noise hides fine detail first and large shapes last, so a lesion of some size survives the
levels that keep anatomy; simplex noise (diffusion/simplex.py) has power at low frequencies and
hides it. Published: 6 octaves, persistence 0.8, frequency 64 at 256 pixels; T = 1000, linear;
U-Net of 128 channels with attention at 16 and 8 pixels; AdamW 1e-4, batch of 1; the map is cut at
0.5. What differs: the map is left to the evaluation's thresholds, smoothed as every row is; noise
is drawn for each image; `steps` may be fewer.
"""

import dataclasses

from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib


@dataclasses.dataclass(frozen=True)
class AnoDdpm(families.PartialDiffusion):
    """`process.noise` is the simplex noise."""

    name: str = "anoddpm"


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> AnoDdpm:
    """From `config.methods.anoddpm`."""
    parts = shared_lib.pixel_parts(shared, settings)
    return AnoDdpm(**parts, reverse=shared_lib.reverse(settings.inference))
