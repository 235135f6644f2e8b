"""Autoencoder with a bottleneck: what does not fit through it is taken for abnormal.

    train   sum_pixels |x - x_hat|
    test    map = |x - x_hat|

Source: Baur et al. 2021 (Medical Image Analysis 69) and its public repository. Published there:
128 pixels, dense bottleneck of 128 numbers or a spatial one of 8 x 8 x 128, dropout 0.1, Adam 1e-4
(beta1 0.5), batch 8; at test a 5 x 5 x 5 median filter and an eroded brain mask. What differs: the
loss is the mean over pixels, which changes nothing under Adam; the median filter is 5 x 5 within
a slice; GroupNorm (`networks/bottleneck.py`); no rule that only bright residuals count, which
suits FLAIR alone. Baur et al. stop early, here the best checkpoint by validation loss is scored.

The KL autoencoder under the latent methods is no substitute: its latent keeps nearly all of a
slice, lesions too, by design.
"""

import dataclasses

import jax
import jax.numpy as jnp

from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib
from madad_jax.models import image_networks


@dataclasses.dataclass(frozen=True)
class Ae(families.Bottleneck):
    """The method; `frozen` is empty."""

    name: str = "ae"

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Mean absolute error of the reconstruction."""
        del frozen
        x = batch["image"]
        # The key drives dropout alone: this bottleneck is not variational.
        x_hat, _, _ = self.network.apply(params, x, key=key if train else None)
        loss = jnp.abs(x - x_hat).mean()
        return loss, {"loss": loss}


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Ae:
    """From `config.methods.ae`."""
    return Ae(
        network=image_networks.reconstructor(**settings.network.table(), variational=False),
        residual=shared_lib.filtered_residual(shared, settings.inference),
    )
