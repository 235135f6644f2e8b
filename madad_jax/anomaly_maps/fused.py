"""Image and latent difference in one map: the scores of DeCo-Diff and REFLECT."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors

FUSIONS = ("geometric", "arithmetic")


@dataclasses.dataclass(frozen=True)
class FusedScore:
    """Image and latent difference in one map (DeCo-Diff's and REFLECT's score).

    image    G_s ( min(|x_hat - x|, g) / g ),     g `image_gamma`, s `image_sigma` in pixels
    latent   G_s ( min(mean_c |z_hat - z|, g) / g ), s `latent_sigma` in latent cells, resized
    fusion   geometric  sqrt(image * latent)   (DeCo-Diff)
             arithmetic (image + latent) / 2   (REFLECT)
    """

    image_gamma: float = 0.4
    image_sigma: float = 3.0
    latent_gamma: float = 0.2
    latent_sigma: float = 1.0
    fusion: str = "geometric"
    reference: str = "autoencoded"
    inside_brain: bool = False

    def __post_init__(self):
        if self.fusion not in FUSIONS:
            raise errors.UserError(
                f"score.fusion: found {self.fusion!r}, accepted: {', '.join(FUSIONS)}"
            )
        if self.reference not in difference.REFERENCES:
            raise errors.UserError(
                f"score.reference: found {self.reference!r}, "
                f"accepted: {', '.join(difference.REFERENCES)}"
            )
        if min(self.image_gamma, self.latent_gamma) <= 0:
            raise errors.UserError(
                f"score.image_gamma, latent_gamma: found {self.image_gamma}, "
                f"{self.latent_gamma}; both must be positive"
            )


def fused_maps(
    corrected: Float[jax.Array, "b H W 1"],
    reference: Float[jax.Array, "b H W 1"],
    corrected_latent: Float[jax.Array, "b h w c"],
    latent: Float[jax.Array, "b h w c"],
    brain_mask: Bool[jax.Array, "b H W"],
    options: FusedScore,
) -> dict[str, jax.Array]:
    """`map` and `latent_map` [b,H,W] in [0, 1]."""
    image = difference.clipped_difference(
        corrected, reference, difference="l1", gamma=options.image_gamma
    )
    image = difference.gaussian_smooth(image, options.image_sigma)
    cells = jnp.abs(corrected_latent - latent).mean(-1)
    # Clipped and smoothed as cells, before the resize: both widths are published in cells.
    cells = jnp.minimum(cells, options.latent_gamma) / options.latent_gamma
    cells = difference.gaussian_smooth(cells, options.latent_sigma)
    cells = jax.image.resize(cells, image.shape, "bilinear")
    if options.fusion == "geometric":
        # Rounding of the filters may leave values just below 0, whose root is NaN.
        fused = jnp.sqrt(jnp.maximum(image * cells, 0.0))
    else:
        fused = (image + cells) / 2
    if options.inside_brain:
        fused, cells = fused * brain_mask, cells * brain_mask
    return {"map": fused, "latent_map": cells}
