"""THOR: temporal harmonisation during the reverse process (Bercea et al., MICCAI 2024).

A partial diffusion as AnoDDPM's, but at some levels t of the way back the running image is
harmonised with the input, so that healthy tissue comes back exactly (their section 2):

    m    = |x0_hat - x| * G_2( clip( LPIPS(x0_hat, x), 0, 1 ) ),   divided by its largest value
    cd   = ( dilate(close(m, w), w) + m ) / 2                      grey morphology, w = 13 pixels
    x0'  = cd x0_hat + (1 - cd) x
    x_t' = q(x_t' | x0')                                           noised again, to the next level
    map  = harmonic mean of the m of all harmonised levels

Published: 128 pixels, T = 1000, noise predicted; U-Net of 128/256/256 channels with attention at
the two coarser levels and one block; Adam 1e-4, batch of 16, 1,500 epochs; Gaussian noise with
start 350 and harmonisation at 300, 150, 50, simplex noise with 250 and 200, 150, 100, 50.

What differs: LPIPS is VGG's where weights are given (published: SqueezeNet's), and the structural
dissimilarity (1 - SSIM) / 2 where not, which needs no weights. m is divided by its image's
largest value, as published: a map says where an image is least normal, not how much it is.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from madad_jax.anomaly_maps import difference as difference_lib
from madad_jax.anomaly_maps import morphology
from madad_jax.core.types import Batch, Params
from madad_jax.diffusion import partial
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib

_BLUR = 2.0  # pixels
_PUBLISHED = partial.Reverse(start=250)


@dataclasses.dataclass(frozen=True)
class Thor(families.ImageDiffusion):
    """`harmonise` are levels, `window` the side of the morphology in pixels. `frozen` may hold
    {"lpips": weights}."""

    reverse: partial.Reverse = _PUBLISHED
    harmonise: tuple[int, ...] = (200, 150, 100, 50)
    window: int = 13
    name: str = "thor"

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1] in one scan over the levels."""
        k_noise, k_steps = jax.random.split(key)
        x, r, p = batch["image"], self.reverse, self.process
        times = p.times(r.start, r.steps)
        noise = p.noise.draw(k_noise, x.shape)

        def harmonise_estimate(x0, eps):
            m = self.difference(frozen, x0, x)
            return harmonise(m, x0, x, self.window), m, True

        def keep_estimate(x0, eps):
            return x0, jnp.ones(x.shape[:3]), False

        def step(state, entry):
            x_t, inverse = state
            t, before, number, flagged = entry
            level = jnp.full((len(x),), t)
            x0, eps = p.estimate(x_t, level, self.network.predict(params, x_t, level))
            fresh = p.noise.draw(jax.random.fold_in(k_steps, number), x.shape)
            mixed, m, harmonised = jax.lax.cond(flagged, harmonise_estimate, keep_estimate, x0, eps)
            # The harmonic mean needs the sum of reciprocals; 1e-4 bounds a pixel that agrees fully.
            inverse = inverse + jnp.where(harmonised, 1.0 / jnp.maximum(m, 1e-4), 0.0)
            stepped = p.step(x0, eps, fresh, t=t, before=before, eta=r.eta)
            # `fresh` twice: with eta 0 the step noises `mixed` anew with it.
            renoised = p.step(mixed, fresh, fresh, t=t, before=before, eta=0.0)
            return (jnp.where(harmonised, renoised, stepped), inverse), None

        start = p.add_noise(x, jnp.full((len(x),), r.start), noise), jnp.zeros(x.shape[:3])
        flags = jnp.asarray(self.flags(times))
        (x_hat, inverse), _ = jax.lax.scan(step, start, (*partial.entries(times), flags))
        maps = self.flags(times).sum() / inverse
        return {"map": self.residual.finish(maps, batch["brain_mask"]), "reconstruction": x_hat}

    def difference(
        self, frozen: Params, x0: Float[jax.Array, "b H W 1"], x: Float[jax.Array, "b H W 1"]
    ) -> Float[jax.Array, "b H W"]:
        """m: absolute times blurred perceptual difference, largest value 1 in each image."""
        perceptual = jnp.clip(families.perceptual_distance(frozen, x0, x), 0.0, 1.0)
        # The blur is published as sigma 2 on 128 pixels and used as it is.
        m = jnp.abs(x0 - x)[..., 0] * difference_lib.gaussian_smooth(perceptual, _BLUR)
        return m / jnp.maximum(m.max((1, 2), keepdims=True), 1e-8)

    def flags(self, times: np.ndarray) -> np.ndarray:
        """True at the levels of `times` that are nearest to those of `harmonise`."""
        flags = np.zeros(len(times), bool)
        for level in self.harmonise:
            # The nearest, since a respaced schedule may skip the level that was asked for.
            flags[np.abs(times - level).argmin()] = True
        return flags


def harmonise(
    m: Float[jax.Array, "b H W"],
    x0: Float[jax.Array, "b H W 1"],
    x: Float[jax.Array, "b H W 1"],
    window: int,
) -> Float[jax.Array, "b H W 1"]:
    """The estimate where m is large and around it, the input elsewhere."""
    wide = morphology.dilate(morphology.close(m, window), window)
    cd = (0.5 * (wide + m))[..., None]
    return cd * x0 + (1.0 - cd) * x


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Thor:
    """From `config.methods.thor`."""
    return Thor(
        **shared_lib.pixel_parts(shared, settings),
        reverse=shared_lib.reverse(settings.inference),
        harmonise=settings.inference.harmonise,
        window=settings.inference.window,
    )
