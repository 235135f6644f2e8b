"""The masked forward process and one selective DDIM update.

    z_t      = v z_0 + (1 - v) ( sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps )          (paper eq. 1)
    eps_hat  = ( z_t - sqrt(abar_t) z0_hat ) / sqrt(1 - abar_t)
    sigma_t  = eta sqrt( (1 - abar_{t-1}) / (1 - abar_t) ) sqrt( 1 - abar_t / abar_{t-1} )
    y        = sqrt(abar_{t-1}) z0_hat + sqrt(1 - abar_{t-1} - sigma_t^2) eps_hat + sigma_t eps'
    z_{t-1}  = y where the cell is flagged, z_t elsewhere

v is `visible` (1 = untouched). The paper prints sqrt(1 - abar_{t-1}) in the third line;
the official code has the DDIM form above, which is used under both presets because the
printed one does not conserve variance for eta > 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from madad_jax.diffusion import schedule as schedule_lib


def gather(table, t: Int[jax.Array, " b"]) -> Float[jax.Array, "b 1 1 1"]:
    """Entries of a float64 table at t, as float32 that broadcasts over NHWC."""
    # A JAX array, since t is traced and cannot index numpy's table.
    return jnp.asarray(table, jnp.float32)[t][:, None, None, None]


def q_sample(
    schedule: schedule_lib.Schedule,
    x0: Float[jax.Array, "b h w c"],
    t: Int[jax.Array, " b"],
    noise: Float[jax.Array, "b h w c"],
    visible: Float[jax.Array, "b h w"],
) -> Float[jax.Array, "b h w c"]:
    """The partly noised latent (paper eq. 1)."""
    abar = gather(schedule.alphas_cumprod, t)
    noised = jnp.sqrt(abar) * x0 + jnp.sqrt(1.0 - abar) * noise
    v = visible[..., None]
    return v * x0 + (1.0 - v) * noised


def ddim_step(
    x: Float[jax.Array, "b h w c"],
    x0_hat: Float[jax.Array, "b h w c"],
    flagged: Float[jax.Array, "b h w"],
    noise: Float[jax.Array, "b h w c"],
    *,
    abar: Float[jax.Array, ""],
    abar_prev: Float[jax.Array, ""],
    eta: float,
) -> Float[jax.Array, "b h w c"]:
    """One selective update; `flagged` = 1 where the cell is rewritten (may be fractional:
    the new and the old value are then mixed in that proportion).

    At the last step abar_prev = 1, so sigma = 0 and flagged cells become x0_hat.
    """
    # The header's eps_hat with both sides divided by sqrt(abar), the official code's form,
    # which rounds as theirs does.
    eps_hat = (x / jnp.sqrt(abar) - x0_hat) / jnp.sqrt(1.0 / abar - 1.0)
    sigma = eta * jnp.sqrt((1 - abar_prev) / (1 - abar)) * jnp.sqrt(1 - abar / abar_prev)
    # Rounding can take the argument just below 0 where it should be 0.
    direction = jnp.sqrt(jnp.maximum(1 - abar_prev - sigma**2, 0.0))
    y = jnp.sqrt(abar_prev) * x0_hat + direction * eps_hat + sigma * noise
    f = flagged[..., None]
    return f * y + (1.0 - f) * x
