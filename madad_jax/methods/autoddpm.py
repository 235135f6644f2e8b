"""AutoDDPM: mask, stitch, resample (Bercea et al., ICML workshops 2023).

    1  x_hat = x noised to level 200 and denoised
    2  s = LPIPS(x_hat, x) * clip( |x_hat - x| / p95(|x_hat - x|), 0, 1 )
       M = s > `threshold`, dilated
    3  stitched = M x_hat + (1 - M) x, noised to level 50; then for every level t down to 0,
       `resamplings` times:   x_{t-1} = M p(x_{t-1} | x_t) + (1 - M) q(x_{t-1} | x),
       noised again to t before the next (RePaint, Lugmayr et al. 2022)
    4  map = |x_final - x| * s

Published: network and optimiser as THOR's, 3,000 epochs, T = 1000, Gaussian noise; threshold 0.13,
found so that at most 5 % of healthy pixels are above it; 5 resamplings.

What differs: without LPIPS weights, (1 - SSIM) / 2 stands for LPIPS (published: SqueezeNet's), so
the threshold's meaning moves; `threshold = 0` takes the 95th percentile of s in each image, which
is the other rule of the public code.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import difference, morphology
from madad_jax.core.types import Batch, Params
from madad_jax.diffusion import inpainting, partial
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib


@dataclasses.dataclass(frozen=True)
class Inpainting:
    """The second pass: from level `start` by `steps` levels (0: every one), `resamplings` of
    each; `threshold` of the mask (0: the 95th percentile) and its dilation in pixels."""

    start: int = 50
    steps: int = 0
    resamplings: int = 5
    threshold: float = 0.13
    dilation: int = 3


_PUBLISHED = partial.Reverse(start=200)


@dataclasses.dataclass(frozen=True)
class AutoDdpm(families.ImageDiffusion):
    """`frozen` may hold {"lpips": weights}."""

    reverse: partial.Reverse = _PUBLISHED
    inpainting: Inpainting = Inpainting()
    name: str = "autoddpm"

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1], both passes in one program."""
        k_first, k_second = jax.random.split(key)
        x = batch["image"]

        def network(x, t):
            return self.network.predict(params, x, t)

        x_hat = self.process.reconstruct(network, x, k_first, self.reverse)
        suspicion = measure_suspicion(families.perceptual_distance(frozen, x_hat, x), x_hat, x)
        mask = self.mask(suspicion)[..., None]
        final = self.inpaint(network, x_hat, x, mask, k_second)
        r = self.residual
        maps = difference.clipped_difference(final, x, difference=r.difference, gamma=r.gamma)
        maps = r.finish(maps * suspicion, batch["brain_mask"])
        return {"map": maps, "reconstruction": final}

    def mask(self, suspicion: Float[jax.Array, "b H W"]) -> Float[jax.Array, "b H W"]:
        """1 where the image is painted anew."""
        o = self.inpainting
        limit = o.threshold
        if limit <= 0:
            # A quantile of each image, so that a bright slice does not decide for the batch.
            limit = jnp.quantile(suspicion, 0.95, axis=(1, 2), keepdims=True)
        found = (suspicion > limit).astype(jnp.float32)
        return morphology.dilate(found, o.dilation) if o.dilation > 1 else found

    def inpaint(
        self,
        network: partial.Network,
        x_hat: Float[jax.Array, "b H W 1"],
        x: Float[jax.Array, "b H W 1"],
        mask: Float[jax.Array, "b H W 1"],
        key: jax.Array,
    ) -> Float[jax.Array, "b H W 1"]:
        """The stitched image, resampled inside the mask (step 3)."""
        p, o = self.process, self.inpainting
        times = p.times(o.start, o.steps)
        k_start, k_loop = jax.random.split(key)
        stitched = mask * x_hat + (1.0 - mask) * x
        noise = p.noise.draw(k_start, x.shape)
        # Noised to a low level only: seams of the stitching vanish, anatomy stays.
        x_t = p.add_noise(stitched, jnp.full((len(x),), o.start), noise)

        return inpainting.inpaint(
            p,
            network,
            x_t,
            x,
            mask,
            k_loop,
            partial.entries(times),
            eta=self.reverse.eta,
            resamplings=o.resamplings,
        )


def measure_suspicion(
    perceptual: Float[jax.Array, "b H W"],
    x_hat: Float[jax.Array, "b H W 1"],
    x: Float[jax.Array, "b H W 1"],
) -> Float[jax.Array, "b H W"]:
    """s of step 2, in [0, 1]."""
    residual = jnp.abs(x_hat - x)[..., 0]
    high = jnp.quantile(residual, 0.95, axis=(1, 2), keepdims=True)
    # The floor keeps a perfect reconstruction (all residuals 0) from dividing by 0.
    return jnp.clip(perceptual, 0.0, 1.0) * jnp.clip(residual / jnp.maximum(high, 1e-6), 0.0, 1.0)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> AutoDdpm:
    """From `config.methods.autoddpm`."""
    c = settings.inference
    return AutoDdpm(
        **shared_lib.pixel_parts(shared, settings),
        reverse=shared_lib.reverse(c),
        inpainting=Inpainting(
            c.inpaint_start, c.inpaint_steps, c.resamplings, c.threshold, c.dilation
        ),
    )
