"""Selective DDIM: the unhealthy latent is taken to be the noised one (paper eq. 6).

No noise is added at the start. At each of N steps, from the noisiest to the cleanest,
the network predicts the clean latent and which cells are visible; cells whose
probability of being visible is below the threshold are rewritten, all others keep
their value. One `lax.scan`, so that the whole loop is a single compiled program.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.core import errors
from madad_jax.diffusion import process
from madad_jax.diffusion import schedule as schedule_lib

REWRITES = ("threshold", "probability")

# (x [b,h,w,c], t [b]) -> (x0_hat [b,h,w,c], visible_logit [b,h,w,1], ...); the rest is not read
DenoiseFn = Callable[[jax.Array, jax.Array], tuple[Any, ...]]


def selective_ddim(
    denoise: DenoiseFn,
    latent: Float[jax.Array, "b h w c"],
    schedule: schedule_lib.Schedule,
    noise: Float[jax.Array, "n b h w c"],
    *,
    eta: float,
    threshold: float = 0.5,
    rewrite: str = "threshold",
    outside: Float[jax.Array, "b h w"] | None = None,
    at_least: Float[jax.Array, "b h w"] | None = None,
) -> dict[str, jax.Array]:
    """Corrects a latent.

    Args:
      denoise: the network.
      latent: the encoded image, scaled.
      schedule: the respaced schedule of n steps.
      noise: standard normal draws in the order of execution (step n-1 first).
      eta: 0 deterministic, 1 ancestral.
      threshold: a cell is rewritten where P(visible) < threshold (official code: 0.5).
      rewrite: `threshold`, or `probability` (ours: mixes by 1 - P(visible)).
      outside: 1 where a cell may never be rewritten (ours; None rewrites anywhere).
      at_least: lowest probability of "noised" of each cell (ours), known beside the network.

    Returns:
      `latent` [b,h,w,c] corrected; `abnormal` [b,h,w] mean over steps of 1 - P(visible);
      `rewritten` [b,h,w] share of the steps at which the cell was rewritten.

    Raises:
      UserError: unknown `rewrite`.
    """
    if rewrite not in REWRITES:
        raise errors.UserError(
            f"sampler.rewrite: found {rewrite!r}, accepted: {', '.join(REWRITES)}"
        )
    batch = latent.shape[0]
    allowed = 1.0 if outside is None else 1.0 - outside

    def step(x, entry):
        t, abar, abar_prev, eps = entry
        x0_hat, logit = denoise(x, jnp.full((batch,), t, jnp.int32))[:2]
        # Sigmoid before the comparison: a threshold is a probability, as in the official code.
        p_visible = jax.nn.sigmoid(logit[..., 0])
        kept = p_visible if at_least is None else jnp.minimum(p_visible, 1.0 - at_least)
        flagged = kept < threshold if rewrite == "threshold" else 1.0 - kept
        flagged = flagged * allowed
        x = process.ddim_step(x, x0_hat, flagged, eps, abar=abar, abar_prev=abar_prev, eta=eta)
        return x, (1.0 - p_visible, flagged)

    tables = (*_reversed_tables(schedule), noise)
    corrected, (abnormal, flagged) = jax.lax.scan(step, latent, tables)
    return {"latent": corrected, "abnormal": abnormal.mean(0), "rewritten": flagged.mean(0)}


def _reversed_tables(schedule: schedule_lib.Schedule) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(t, abar, abar of the next step): a scan runs from the noisiest step to the cleanest."""
    return (
        jnp.asarray(schedule.timestep_map[::-1].copy(), jnp.int32),
        jnp.asarray(schedule.alphas_cumprod[::-1].copy(), jnp.float32),
        jnp.asarray(schedule.alphas_cumprod_prev[::-1].copy(), jnp.float32),
    )


def inpaint(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    latent: Float[jax.Array, "b h w c"],
    region: Float[jax.Array, "b h w"],
    schedule: schedule_lib.Schedule,
    noise: Float[jax.Array, "n b h w c"],
    *,
    eta: float = 0.0,
) -> Float[jax.Array, "b h w c"]:
    """Draws new content into a region: DDIM from the noisiest level, the outside kept to the bit.

    Args:
      denoise: (x, t) -> clean latent.
      latent: scaled.
      region: 1 where cells are drawn anew, else 0.
      schedule: of n - 1 steps.
      noise: standard normal draws, the first for the start, the others in order of execution.
      eta: 0 deterministic, 1 ancestral.
    """
    batch = latent.shape[0]
    top = jnp.full((batch,), schedule.num_steps - 1, jnp.int32)
    start = process.q_sample(schedule, latent, top, noise[0], 1.0 - region)

    def step(x, entry):
        t, abar, abar_prev, eps = entry
        x0_hat = denoise(x, jnp.full((batch,), t, jnp.int32))
        x = process.ddim_step(x, x0_hat, region, eps, abar=abar, abar_prev=abar_prev, eta=eta)
        return x, None

    tables = (*_reversed_tables(schedule), noise[1:])
    drawn, _ = jax.lax.scan(step, start, tables)
    # A product with 0 would let an infinite value of the network through.
    return jnp.where(region[..., None] > 0, drawn, latent)
