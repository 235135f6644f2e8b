"""Noise schedules and respacing.

    abar(u) = cos^2( (u + 0.008) / 1.008 * pi / 2 )                 (cosine, T = 10)
    beta_i  = min( 1 - abar((i+1)/T) / abar(i/T), 0.999 )

Tables are float64 numpy, cast to float32 where they are gathered, as in the official
code; t = 0 is already noised (abar_0 = 0.972).
"""

import dataclasses
import math

import numpy as np

from madad_jax.core import errors

SCHEDULES = ("cosine", "linear")
SPACINGS = ("official", "trailing")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A (possibly respaced) schedule of N steps.

    `timestep_map[k]` is the index in the original numbering that the network is given
    at respaced step k; the other tables have one float64 entry a step.
    """

    timestep_map: np.ndarray
    betas: np.ndarray

    @property
    def num_steps(self) -> int:
        """N, the number of steps."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> np.ndarray:
        """abar_k, float64 [N]."""
        return np.cumprod(1.0 - self.betas)

    @property
    def alphas_cumprod_prev(self) -> np.ndarray:
        """abar_{k-1} with abar_{-1} = 1, float64 [N]."""
        return np.append(1.0, self.alphas_cumprod[:-1])


def make_schedule(name: str = "cosine", num_timesteps: int = 10) -> Schedule:
    """The training schedule. Raises UserError for an unknown name or T < 1."""
    if num_timesteps < 1:
        raise errors.UserError(f"diffusion.timesteps: found {num_timesteps}, must be at least 1")
    if name == "cosine":
        # Nichol & Dhariwal's schedule, which paper and official code use with T = 10.
        betas = _cosine_betas(num_timesteps)
    elif name == "linear":
        # The published range 1e-4 .. 0.02 is that of 1,000 steps. Fewer steps each remove more,
        # so that abar_T stays about the same; the clip keeps abar above 0 for very few.
        scale = 1000.0 / num_timesteps
        betas = np.minimum(np.linspace(scale * 1e-4, scale * 0.02, num_timesteps), 0.999)
    else:
        raise errors.UserError(
            f"diffusion.schedule: found {name!r}, accepted: {', '.join(SCHEDULES)}"
        )
    return Schedule(timestep_map=np.arange(num_timesteps), betas=betas)


def _cosine_betas(num_timesteps: int) -> np.ndarray:
    def abar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    # Ratios, so that the product of 1 - beta is abar again, except where a beta is clipped.
    steps = range(num_timesteps)
    ratios = [abar((i + 1) / num_timesteps) / abar(i / num_timesteps) for i in steps]
    return np.array([min(1.0 - r, 0.999) for r in ratios])


def respace(schedule: Schedule, num_steps: int, spacing: str = "official") -> Schedule:
    """The schedule on a subset of its timesteps, with abar unchanged at those steps.

    `official` takes the smallest integer stride that gives exactly `num_steps` steps
    from 0 upwards (10: 0..9; 5: 0,2,..,8; 2: 0,5) and, for the counts that the official
    code refuses, falls back to `trailing`: evenly spaced steps that end at T - 1.
    Raises UserError unless 1 <= num_steps <= T.
    """
    total = schedule.num_steps
    if not 1 <= num_steps <= total:
        raise errors.UserError(f"sampler.steps: found {num_steps}, accepted: 1 to {total}")
    if spacing not in SPACINGS:
        raise errors.UserError(
            f"sampler.spacing: found {spacing!r}, accepted: {', '.join(SPACINGS)}"
        )
    used = None
    if spacing == "official":
        # Stride 1 upwards: the first that fits is the smallest, as the official code searches.
        strides = (range(0, total, s) for s in range(1, total))
        used = next((list(r) for r in strides if len(r) == num_steps), None)
    if used is None:
        # A single step is the noisiest one; evenly spaced from 0 it would be the cleanest.
        first = 0 if num_steps > 1 else total - 1
        used = np.round(np.linspace(first, total - 1, num_steps)).astype(int).tolist()
    # New betas such that the cumulative product meets the old abar at the steps kept.
    abar = schedule.alphas_cumprod[used]
    betas = 1.0 - abar / np.append(1.0, abar[:-1])
    return Schedule(timestep_map=schedule.timestep_map[used], betas=betas)
