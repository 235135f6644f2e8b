"""Diffusion of whole images: training on all noise levels, then noising to t and denoising.

    x_t      = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                     (Ho et al. 2020, eq. 4)
    x0_hat   = ( x_t - sqrt(1 - abar_t) eps_hat ) / sqrt(abar_t)           (eq. 15)
    x_{t-1}  = sqrt(abar_{t-1}) x0_hat + sqrt(1 - abar_{t-1} - s^2) eps_hat + s eps'
    s        = eta sqrt( (1 - abar_{t-1}) / (1 - abar_t) ) sqrt( 1 - abar_t / abar_{t-1} )

the last as in DDIM (Song et al. 2021, eq. 12); eta = 1 over every step is DDPM's own sampler with
the posterior's variance. An unhealthy image is noised only to `start` < T, so that anatomy
survives and the network repaints what the noise has hidden, as healthy (AnoDDPM, Wyatt et al.
2022). The clean estimate is kept within [-1, 1], as every public implementation does.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from madad_jax import errors
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import process
from madad_jax.diffusion import schedule as schedule_lib

# (x [b,h,w,c], t [b]) -> what the network was trained to say [b,h,w,c]
Network = Callable[[jax.Array, jax.Array], jax.Array]
PREDICTS = ("eps", "x0")


@dataclasses.dataclass(frozen=True)
class Process:
    """Schedule, kind of noise, and what the network predicts (`eps` | `x0`)."""

    schedule: schedule_lib.Schedule
    noise: noise_lib.Noise
    predicts: str = "eps"

    def __post_init__(self):
        if self.predicts not in PREDICTS:
            raise errors.UserError(
                f"predicts: found {self.predicts!r}, accepted: {', '.join(PREDICTS)}"
            )

    def noised(
        self, x0: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], noise: jax.Array
    ) -> Float[jax.Array, "b h w c"]:
        """x_t of every sample."""
        nowhere = jnp.zeros(x0.shape[:3])
        return process.q_sample(self.schedule, x0, t, noise, nowhere)

    def draw_time(self, key: jax.Array, batch: int) -> Int[jax.Array, " b"]:
        """A noise level for every sample, all equally likely."""
        return jax.random.randint(key, (batch,), 0, self.schedule.num_steps)

    def target(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """What the network should say."""
        return noise if self.predicts == "eps" else x0

    def estimate(
        self, x: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], said: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(x0_hat within [-1, 1], the eps_hat that agrees with it) from the network's answer."""
        abar = process.gather(self.schedule.alphas_cumprod, t)
        x0 = said
        if self.predicts == "eps":
            x0 = (x - jnp.sqrt(1.0 - abar) * said) / jnp.sqrt(abar)
        x0 = jnp.clip(x0, -1.0, 1.0)
        return x0, (x - jnp.sqrt(abar) * x0) / jnp.sqrt(1.0 - abar)

    def loss(
        self, network: Network, x0: Float[jax.Array, "b h w c"], key: jax.Array
    ) -> Float[jax.Array, ""]:
        """Mean squared error of the network at random noise levels (Ho et al., eq. 14)."""
        k_t, k_noise = jax.random.split(key)
        t = self.draw_time(k_t, len(x0))
        noise = self.noise.draw(k_noise, x0.shape)
        said = network(self.noised(x0, t, noise), t)
        return jnp.square(said - self.target(x0, noise)).mean()

    def times(self, start: int, steps: int) -> np.ndarray:
        """Levels from `start` down to 0; `steps` of them evenly spread, 0: every one.

        Raises UserError for a start outside the schedule or more steps than levels.
        """
        last = self.schedule.num_steps - 1
        if not 0 <= start <= last:
            raise errors.UserError(f"inference.start: found {start}, accepted: 0 to {last}")
        if not 0 <= steps <= start + 1:
            raise errors.UserError(f"inference.steps: found {steps}, accepted: 0 to {start + 1}")
        spread = np.linspace(start, 0, steps or start + 1) if steps != 1 else np.array([start])
        return np.round(spread).astype(np.int32)

    def step(
        self,
        x0: Float[jax.Array, "b h w c"],
        eps: Float[jax.Array, "b h w c"],
        noise: Float[jax.Array, "b h w c"],
        *,
        t: Int[jax.Array, ""],
        before: Int[jax.Array, ""],
        eta: float,
    ) -> Float[jax.Array, "b h w c"]:
        """From level t to the cleaner level `before` (-1: clean), given both estimates there."""
        table = jnp.asarray(np.append(self.schedule.alphas_cumprod, 1.0), jnp.float32)
        abar, abar_before = table[t], table[before]  # -1 is the appended 1
        sigma = eta * jnp.sqrt((1 - abar_before) / (1 - abar)) * jnp.sqrt(1 - abar / abar_before)
        direction = jnp.sqrt(jnp.maximum(1 - abar_before - sigma**2, 0.0))
        return jnp.sqrt(abar_before) * x0 + direction * eps + sigma * noise

    def denoise(
        self,
        network: Network,
        x: Float[jax.Array, "b h w c"],
        key: jax.Array,
        times: np.ndarray,
        *,
        eta: float,
    ) -> Float[jax.Array, "b h w c"]:
        """From x at level times[0] to a clean image, in one `lax.scan`."""

        def one(x, entry):
            t, before, number = entry
            level = jnp.full((len(x),), t)
            x0, eps = self.estimate(x, level, network(x, level))
            noise = self.noise.draw(jax.random.fold_in(key, number), x.shape)
            return self.step(x0, eps, noise, t=t, before=before, eta=eta), None

        return jax.lax.scan(one, x, entries(times))[0]


def entries(times: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(level, next level or -1, number of the step), for scans over the reverse process."""
    before = np.append(times[1:], -1)
    parts = (times, before, np.arange(len(times)))
    return tuple(jnp.asarray(part, jnp.int32) for part in parts)
