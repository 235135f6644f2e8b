"""Diffusion of whole images: training on all noise levels, then noising to t and denoising.

    x_t      = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                     (Ho et al. 2020, eq. 4)
    x0_hat   = ( x_t - sqrt(1 - abar_t) eps_hat ) / sqrt(abar_t)           (eq. 15)
    x_{t-1}  = sqrt(abar_{t-1}) x0_hat + sqrt(1 - abar_{t-1} - s^2) eps_hat + s eps'
    s        = eta sqrt( (1 - abar_{t-1}) / (1 - abar_t) ) sqrt( 1 - abar_t / abar_{t-1} )

the last as in DDIM (Song et al. 2021, eq. 12); eta = 1 over every step is DDPM's own sampler with
the posterior's variance. An unhealthy image is noised only to `start` < T, so that anatomy
survives and the network repaints what the noise has hidden, as healthy (AnoDDPM, Wyatt et al.
2022). The clean estimate is kept within [-1, 1], as every public implementation does.

`Adaptive` stops per image (after GLAD, Yao et al. 2024): once the clean estimate is far from the
input, the anomaly is gone, and further steps only cost healthy detail. At each step the mean of
the `patches` largest differences over squares of `side` pixels is taken; the image takes no
further step when it is above `limit`, or at levels below `first`: its estimate is fused with the
input, weighted by sigmoid(difference) and 1 - sigmoid(difference). GLAD compares DINO features of
patches; here the images' own difference stands for them, since nothing is pretrained.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from madad_jax.core import errors
from madad_jax.diffusion import noise as noise_lib
from madad_jax.diffusion import process
from madad_jax.diffusion import schedule as schedule_lib

# (x [b,h,w,c], t [b]) -> what the network was trained to predict [b,h,w,c]
Network = Callable[[jax.Array, jax.Array], jax.Array]
PREDICTS = ("eps", "x0")


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """When an image stops being denoised; `limit` in units of an image in [-1, 1]."""

    limit: float
    first: int = 0
    side: int = 4
    patches: int = 10

    def distance(
        self, a: Float[jax.Array, "b h w c"], b: Float[jax.Array, "b h w c"]
    ) -> Float[jax.Array, " b"]:
        """Mean of the largest patch differences."""
        s = self.side
        difference = jnp.abs(a - b).mean(-1)
        window = (1, s, s)
        sums = jax.lax.reduce_window(difference, 0.0, jax.lax.add, window, window, "VALID")
        flat = (sums / s**2).reshape(len(a), -1)
        return jax.lax.top_k(flat, min(self.patches, flat.shape[1]))[0].mean(-1)


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

    def add_noise(
        self, x0: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], noise: jax.Array
    ) -> Float[jax.Array, "b h w c"]:
        """x_t of every sample."""
        # The masked process with nothing visible is the plain one: one formula for both.
        nowhere = jnp.zeros(x0.shape[:3])
        return process.q_sample(self.schedule, x0, t, noise, nowhere)

    def draw_time(self, key: jax.Array, batch: int) -> Int[jax.Array, " b"]:
        """A noise level for every sample, all equally likely."""
        return jax.random.randint(key, (batch,), 0, self.schedule.num_steps)

    def target(self, x0: jax.Array, noise: jax.Array) -> jax.Array:
        """What the network should predict."""
        return noise if self.predicts == "eps" else x0

    def estimate(
        self, x: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], prediction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(x0_hat within [-1, 1], the eps_hat that agrees with it) from the network's answer."""
        abar = process.gather(self.schedule.alphas_cumprod, t)
        if self.predicts == "eps":
            x0 = self.estimate_clean(x, t, prediction)
        else:
            x0 = jnp.clip(prediction, -1.0, 1.0)
        # eps_hat is computed from the clipped x0_hat, not taken from the network: only then do
        # both describe the same x_t, and the clip also bounds the next step.
        return x0, (x - jnp.sqrt(abar) * x0) / jnp.sqrt(1.0 - abar)

    def estimate_clean(
        self, x: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], eps: jax.Array
    ) -> Float[jax.Array, "b h w c"]:
        """x0_hat within [-1, 1] from the noise in x."""
        abar = process.gather(self.schedule.alphas_cumprod, t)
        return jnp.clip((x - jnp.sqrt(1.0 - abar) * eps) / jnp.sqrt(abar), -1.0, 1.0)

    def draw_example(
        self, x0: Float[jax.Array, "b h w c"], key: jax.Array
    ) -> tuple[jax.Array, Int[jax.Array, " b"], jax.Array]:
        """(x_t, t, what the network should predict) at random noise levels (Ho et al., eq. 14)."""
        k_t, k_noise = jax.random.split(key)
        t = self.draw_time(k_t, len(x0))
        noise = self.noise.draw(k_noise, x0.shape)
        return self.add_noise(x0, t, noise), t, self.target(x0, noise)

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
        """From level t to the level `before` (-1: clean), given both estimates there.

        Without noise (eta 0) `before` may be the noisier one: DDIM reversed.
        """
        # Index -1 reads the appended 1: level -1 is the clean image (abar = 1).
        table = jnp.asarray(np.append(self.schedule.alphas_cumprod, 1.0), jnp.float32)
        abar, abar_before = table[t], table[before]  # -1 is the appended 1
        # Upwards (DDIM reversed, eta 0) the second root's argument is negative: no noise at all.
        gained = jnp.maximum(1 - abar / abar_before, 0.0)
        sigma = eta * jnp.sqrt((1 - abar_before) / (1 - abar) * gained)
        direction = jnp.sqrt(jnp.maximum(1 - abar_before - sigma**2, 0.0))
        return jnp.sqrt(abar_before) * x0 + direction * eps + sigma * noise

    def add_more_noise(
        self,
        x: Float[jax.Array, "b h w c"],
        noise: Float[jax.Array, "b h w c"],
        *,
        before: Int[jax.Array, ""],
        t: Int[jax.Array, ""],
    ) -> Float[jax.Array, "b h w c"]:
        """From level `before` (-1: clean) up to t: q(x_t | x_before)."""
        table = jnp.asarray(np.append(self.schedule.alphas_cumprod, 1.0), jnp.float32)
        kept = table[t] / table[before]
        return jnp.sqrt(kept) * x + jnp.sqrt(1.0 - kept) * noise

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

        def step(x, entry):
            t, before, number = entry
            level = jnp.full((len(x),), t)
            x0, eps = self.estimate(x, level, network(x, level))
            noise = self.noise.draw(jax.random.fold_in(key, number), x.shape)
            return self.step(x0, eps, noise, t=t, before=before, eta=eta), None

        return jax.lax.scan(step, x, entries(times))[0]

    def denoise_adaptively(
        self,
        network: Network,
        x: Float[jax.Array, "b h w c"],
        image: Float[jax.Array, "b h w c"],
        key: jax.Array,
        times: np.ndarray,
        *,
        eta: float,
        adaptive: Adaptive,
    ) -> tuple[Float[jax.Array, "b h w c"], Int[jax.Array, " b"]]:
        """As `denoise`, each image to its own stop; (clean images, steps taken by each).

        A `lax.while_loop` that ends when the last image has stopped.
        """
        levels, befores, _ = entries(times)

        def is_unfinished(state):
            number, _, _, taken = state
            return (number < len(times)) & (taken < 0).any()

        def step(state):
            number, x, out, taken = state
            t = levels[number]
            level = jnp.full((len(x),), t)
            x0, eps = self.estimate(x, level, network(x, level))
            noise = self.noise.draw(jax.random.fold_in(key, number), x.shape)
            after = self.step(x0, eps, noise, t=t, before=befores[number], eta=eta)
            moving = taken < 0
            # The distance is taken of the clean estimate: x itself still holds noise at this level.
            stops = moving & (
                (adaptive.distance(x0, image) > adaptive.limit) | (t < adaptive.first)
            )
            # GLAD's fusion: where estimate and input agree the share is 1/2, and both are equal.
            share = jax.nn.sigmoid(jnp.abs(x0 - image))
            fused = share * x0 + (1.0 - share) * image
            choose = moving[:, None, None, None]
            out = jnp.where(stops[:, None, None, None], fused, jnp.where(choose, after, out))
            x = jnp.where(choose, after, x)
            return number + 1, x, out, jnp.where(stops, number + 1, taken)

        # -1 stands for an image that has not stopped yet.
        start = (jnp.int32(0), x, x, jnp.full((len(x),), -1, jnp.int32))
        number, _, out, taken = jax.lax.while_loop(is_unfinished, step, start)
        # Images that never stopped took every step.
        return out, jnp.where(taken < 0, number, taken)

    def reconstruct(
        self,
        network: Network,
        image: Float[jax.Array, "b h w c"],
        key: jax.Array,
        reverse: "Reverse",
    ) -> Float[jax.Array, "b h w c"]:
        """The image noised to `reverse.start` and denoised."""
        k_noise, k_steps = jax.random.split(key)
        times = self.times(reverse.start, reverse.steps)
        noise = self.noise.draw(k_noise, image.shape)
        x = self.add_noise(image, jnp.full((len(image),), reverse.start), noise)
        if reverse.adaptive is None:
            return self.denoise(network, x, k_steps, times, eta=reverse.eta)
        options = {"eta": reverse.eta, "adaptive": reverse.adaptive}
        return self.denoise_adaptively(network, x, image, k_steps, times, **options)[0]


@dataclasses.dataclass(frozen=True)
class Reverse:
    """The level `start` that images are noised to, and the way back: `steps` levels (0: every
    one), `eta` (0 DDIM .. 1 DDPM), per-image stops or none."""

    start: int = 250
    steps: int = 0
    eta: float = 1.0
    adaptive: Adaptive | None = None


def entries(times: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(level, next level or -1, number of the step), for scans over the reverse process; levels
    [..., steps], several ways at once."""
    before = np.append(times[..., 1:], np.full((*times.shape[:-1], 1), -1), axis=-1)
    parts = (times, before, np.broadcast_to(np.arange(times.shape[-1]), times.shape))
    return tuple(jnp.asarray(part, jnp.int32) for part in parts)
