"""Structural similarity (Wang et al. 2004) as a map, on device.

    SSIM = (2 mu_a mu_b + c1)(2 s_ab + c2) / ((mu_a^2 + mu_b^2 + c1)(s_a^2 + s_b^2 + c2))

with moments under a Gaussian window of sigma 1.5 pixels, c1 = (0.01 L)^2, c2 = (0.03 L)^2 and
L = 2, the range of an image in [-1, 1].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import difference

_C1, _C2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2


def dissimilarity(
    a: Float[jax.Array, "b H W 1"], b: Float[jax.Array, "b H W 1"], sigma: float = 1.5
) -> Float[jax.Array, "b H W"]:
    """(1 - SSIM) / 2, from 0 (equal) to 1."""
    a, b = a[..., 0], b[..., 0]

    def mean(x: jax.Array) -> jax.Array:
        return difference.gaussian_smooth(x, sigma)

    mu_a, mu_b = mean(a), mean(b)
    # E[x^2] - E[x]^2 cancels for flat regions and may come out negative; see the maximum below.
    var_a, var_b = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    cov = mean(a * b) - mu_a * mu_b
    similarity = (2 * mu_a * mu_b + _C1) * (2 * cov + _C2)
    similarity /= (mu_a**2 + mu_b**2 + _C1) * (jnp.maximum(var_a + var_b, 0.0) + _C2)
    return jnp.clip(0.5 * (1.0 - similarity), 0.0, 1.0)
