"""Painting a part of an image anew while the rest stays known (RePaint, Lugmayr et al. 2022).

    x_{t-1} = M p(x_{t-1} | x_t) + (1 - M) q(x_{t-1} | x)

at every level t; `resamplings` times each, noised again to t before the next.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.diffusion import partial


def inpaint(
    process: partial.Process,
    network: partial.Network,
    x_t: Float[jax.Array, "b h w c"],
    image: Float[jax.Array, "b h w c"],
    mask: Float[jax.Array, "#b h w 1"],
    key: jax.Array,
    entries: tuple[jax.Array, jax.Array, jax.Array],
    *,
    eta: float,
    resamplings: int = 1,
) -> Float[jax.Array, "b h w c"]:
    """The image, painted anew where `mask` is 1.

    Args:
      process: schedule, noise and what the network predicts.
      network: the denoiser.
      x_t: the image at the first of the levels.
      image: what is known where `mask` is 0.
      mask: 1 where it is painted.
      key: of the noise of all steps.
      entries: (level, next level or -1, number of the step), as `partial.entries` gives them.
      eta: 0 DDIM .. 1 DDPM.
      resamplings: of each level, at least 1.
    """

    def level(x_t, entry):
        t, before, number = entry
        t_all = jnp.full((len(image),), t)

        def resample(i, state):
            x_t, _ = state
            draws = jax.random.split(jax.random.fold_in(key, number * resamplings + i), 3)
            fresh, known, up = (process.noise.draw(k, image.shape) for k in draws)
            x0, eps = process.estimate(x_t, t_all, network(x_t, t_all))
            inside = process.step(x0, eps, fresh, t=t, before=before, eta=eta)
            # q(x_{t-1} | x) with fresh noise: `step` with x0 and eps given is exactly that.
            outside = process.step(image, known, known, t=t, before=before, eta=0.0)
            cleaner = mask * inside + (1.0 - mask) * outside
            return process.add_more_noise(cleaner, up, before=before, t=t), cleaner

        # Index 1 is the cleaner state before it was noised again for the next resampling.
        return jax.lax.fori_loop(0, resamplings, resample, (x_t, x_t))[1], None

    return jax.lax.scan(level, x_t, entries)[0]
