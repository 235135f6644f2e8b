"""Variational autoencoder: the bottleneck is a distribution, kept near a standard normal one.

    z ~ N( mu(x), sigma(x)^2 )
    train   sum_pixels |x - x_hat(z)|  +  w KL,   KL = 1/2 sum ( mu^2 + sigma^2 - log sigma^2 - 1 )
    test    map = |x - x_hat(mu)|

Source: Kingma & Welling 2014; as a detector, Baur et al. 2021 (Medical Image Analysis 69) and its
public repository, whose network and settings are those of `ae`, w = 1. Averages over several
draws of z at test were an option there and are not here. What differs otherwise is said in
`methods/ae.py`. The loss is divided by the number of pixels, which changes nothing under Adam.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib
from madad_jax.models import image_networks


@dataclasses.dataclass(frozen=True)
class Vae(families.Bottleneck):
    """The method; `network` must be variational. `frozen` is empty."""

    kl_weight: float = 1.0
    name: str = "vae"

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The negative evidence bound a pixel; without `train`, at the mean latent."""
        del frozen
        x = batch["image"]
        x_hat, mean, log_sigma = self.network.apply(params, x, key=key if train else None)
        # Sums over pixels, so that w = 1 weighs the KL as published, whatever the image size.
        error = jnp.abs(x - x_hat).sum((1, 2, 3)).mean()
        kl = kl_divergence(mean, log_sigma).mean()
        loss = (error + self.kl_weight * kl) / x[0].size
        return loss, {"loss": loss, "l1": error / x[0].size, "kl": kl}


def kl_divergence(
    mean: Float[jax.Array, "b z"], log_sigma: Float[jax.Array, "b z"]
) -> Float[jax.Array, " b"]:
    """KL of N(mean, exp(log_sigma)^2) from N(0, 1), summed over the latent."""
    return 0.5 * (mean**2 + jnp.exp(2 * log_sigma) - 2 * log_sigma - 1.0).sum(-1)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Vae:
    """From `config.methods.vae`."""
    return Vae(
        network=image_networks.reconstructor(**settings.network.table(), variational=True),
        residual=shared_lib.filtered_residual(shared, settings.inference),
        kl_weight=settings.kl_weight,
    )
