"""Training losses of the two heads.

    L = mean || z_0 - z0_hat ||^2  +  lambda * l(v, p)

Paper: l = binary cross-entropy. Official code: l = squared error on the sigmoid,
lambda = 0.001, and both means run over the whole latent, noised or not.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from madad_jax.core import errors

MASK_LOSSES = ("bce", "mse")
REGIONS = ("all", "noised")


def latent_loss(
    x0: Float[jax.Array, "b h w c"],
    x0_hat: Float[jax.Array, "b h w c"],
    visible: Float[jax.Array, "b h w"],
    region: str = "all",
) -> Float[jax.Array, " b"]:
    """Squared error a sample, over the whole latent or over its noised cells.

    Raises UserError for another `region`.
    """
    error = jnp.square(x0 - x0_hat).mean(-1)
    if region == "all":
        return error.mean((1, 2))
    if region == "noised":
        noised = 1.0 - visible
        # A sample without a noised cell has nothing to learn from and weighs nothing.
        return (error * noised).sum((1, 2)) / jnp.maximum(noised.sum((1, 2)), 1.0)
    raise errors.UserError(f"loss.region: found {region!r}, accepted: {', '.join(REGIONS)}")


def mask_loss(
    visible: Float[jax.Array, "b h w"],
    logit: Float[jax.Array, "b h w 1"],
    kind: str = "bce",
) -> Float[jax.Array, " b"]:
    """Error of the mask head a sample. Raises UserError for another `kind`."""
    logit = logit[..., 0]
    if kind == "bce":
        return optax.sigmoid_binary_cross_entropy(logit, visible).mean((1, 2))
    if kind == "mse":
        # The official loss. Its gradient vanishes where the head is surely wrong; the cross-entropy
        # of the paper does not.
        return jnp.square(visible - jax.nn.sigmoid(logit)).mean((1, 2))
    raise errors.UserError(f"loss.mask: found {kind!r}, accepted: {', '.join(MASK_LOSSES)}")
