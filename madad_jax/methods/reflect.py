"""REFLECT: a rectified flow from corrupted to healthy latents (MICCAI 2025, arXiv 2508.02889).

    z_0  = sqrt(1 - m) z_1 + sqrt(m) r           corrupted; z_1 is the healthy latent
    z_t  = (1 - t) z_0 + t z_1,  v = z_1 - z_0,  t ~ U(0, 1)
    train    || v - f(z_t, t) ||^2
    test     the encoded image is z_0; Euler: z <- z + f(z, i / N) / N, i = 0 .. N - 1; N = 1

m in [0, 1] are 1 to 4 filled random walks (`synthesis/polygons.py`), each of a strength U(0.2, 1),
the largest where they overlap; nine in ten samples keep them inside the brain. r is, half and half,

    texture      the latent of a texture
    noise        sqrt(a) n_c + sqrt(1 - a) n,  a ~ U(0, 1): one number a channel, and white noise

Score: (image map + latent map) / 2 (`anomaly_maps/fused.py`). Published: the autoencoder and U-Net
L of MAD-AD, AdamW 5e-4, 200 epochs, batch 96, one step; clips 0.4 and 0.4, smoothing 3 pixels and
1 cell. Re-derived from these formulas; no code of the authors was used.

Differs: the textures are not photographs (DTD) but drawn on device (`textures` below), or, on
cached latents, where nothing can be encoded, patches of other latents, shuffled; t is one of
1,000 levels, which is what the networks embed; only the first flow is here, not REFLECT-2, which
trains a second one on the couplings of the first. With `synthesis.share` (ours) so many samples
have the latent of an image with a synthetic anomaly as z_0.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import fused
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import families
from madad_jax.methods import shared as shared_lib
from madad_jax.synthesis import mix, polygons, shapes

LEVELS = 1000  # of t, as the networks embed it
TEXTURES = ("drawn", "shuffled")
_NO_SYNTHESIS = shapes.Options()
_PUBLISHED_SCORE = fused.FusedScore(latent_gamma=0.4, fusion="arithmetic")


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Objects a sample, their size (radii as shares of the side), strength and content."""

    max_objects: int = 4
    vertices: int = 10
    min_radius: float = 0.03
    max_radius: float = 0.15
    min_strength: float = 0.2
    inside_brain: float = 0.9  # probability that objects are cut at the brain's rim
    texture: float = 0.5  # probability of a texture; else noise
    textures: str = "drawn"  # drawn | shuffled

    def __post_init__(self):
        if self.textures not in TEXTURES:
            raise errors.UserError(
                f"methods.reflect.textures: found {self.textures!r}, accepted: "
                f"{', '.join(TEXTURES)}"
            )
        if self.max_objects < 1 or self.vertices < 3:
            raise errors.UserError(
                f"methods.reflect.max_objects, vertices: found {self.max_objects}, "
                f"{self.vertices}; accepted: at least 1, at least 3"
            )


@dataclasses.dataclass(frozen=True)
class Reflect(families.CorrectedLatents):
    """The method. `frozen` is {"autoencoder": params, "scaling_factor": scalar}."""

    corruption: Corruption = Corruption()
    steps: int = 1
    score: fused.FusedScore = dataclasses.field(default=_PUBLISHED_SCORE, kw_only=True)
    synthesis: shapes.Options = _NO_SYNTHESIS
    name: str = "reflect"

    def __post_init__(self):
        if not 1 <= self.steps <= LEVELS:
            raise errors.UserError(
                f"methods.reflect.inference.steps: found {self.steps}, accepted: 1 to {LEVELS}"
            )

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Squared error of the velocity over the whole latent."""
        k_sample, k_t, k_corrupt, k_dropout = jax.random.split(key, 4)
        z1 = self.draw_latent(frozen, batch, k_sample)
        z0 = self.corrupt(frozen, batch, z1, k_corrupt)
        # A level and not a real t: the network embeds integers, as at test.
        level = jax.random.randint(k_t, (len(z1),), 0, LEVELS)
        t = (level / LEVELS)[:, None, None, None]
        velocity = z1 - z0
        z_t = (1 - t) * z0 + t * z1
        return self.regression(params, z_t, level, velocity, k_dropout if train else None)

    def corrupt(
        self, frozen: Params, batch: Batch, z1: Float[jax.Array, "b h w c"], key: jax.Array
    ) -> Float[jax.Array, "b h w c"]:
        """z_0 of healthy latents.

        Raises UserError where images are needed and the batch has cached latents alone.
        """
        k_mask, k_which, k_texture, k_noise, k_choice, k_synthesis = jax.random.split(key, 6)
        one = (len(z1), 1, 1, 1)
        # Of cells: the mask acts on latents, where the corruption is mixed in.
        m = self.strength(k_mask, batch["brain_mask"], z1.shape[1:3])[..., None]
        textured = jax.random.bernoulli(k_which, self.corruption.texture, one)
        content = jnp.where(
            textured, self._texture(frozen, batch, z1, k_texture), mixed_noise(k_noise, z1.shape)
        )
        z0 = jnp.sqrt(1 - m) * z1 + jnp.sqrt(m) * content
        return mix.replace_share(
            (k_choice, k_synthesis),
            batch,
            self.synthesis,
            z0,
            lambda images: self.scaled_mean(frozen, images),
            frozen,
        )

    def _texture(self, frozen: Params, batch: Batch, z1: jax.Array, key: jax.Array) -> jax.Array:
        if self.corruption.textures == "shuffled":
            k_sample, k_patch = jax.random.split(key)
            # Two shuffles, of samples and of cells: no cell then keeps the anatomy around it.
            other = jax.random.permutation(k_sample, z1)
            b, h, w, c = other.shape
            return jax.random.permutation(k_patch, other.reshape(b, h * w, c), axis=1).reshape(
                other.shape
            )
        if "image" not in batch:
            raise errors.UserError(
                "methods.reflect.textures: found 'drawn', which needs images, but the batch has "
                "cached latents; set data.latents=live, or methods.reflect.textures=shuffled and "
                "synthesis.share=0"
            )
        return self.scaled_mean(frozen, textures(key, batch["image"].shape))

    def strength(
        self, key: jax.Array, brain_mask: jax.Array, shape: tuple[int, int]
    ) -> Float[jax.Array, "b h w"]:
        """m in [0, 1]."""
        k_walk, k_count, k_strength, k_inside = jax.random.split(key, 4)
        c, (h, w) = self.corruption, shape
        b, height, width = brain_mask.shape
        # A cell is brain when most of its pixels are.
        cells = brain_mask.reshape(b, h, height // h, w, width // w).mean((2, 4)) > 0.5
        filled = polygons.draw(
            k_walk,
            cells,
            c.max_objects,
            vertices=c.vertices,
            min_radius=c.min_radius,
            max_radius=c.max_radius,
        )
        one = (b, 1, 1, 1)
        count = jax.random.randint(k_count, one, 1, c.max_objects + 1)
        # All objects are drawn and the surplus dropped: a traced count cannot size an array.
        number = jnp.arange(c.max_objects)[None, :, None, None]
        strength = jax.random.uniform(
            k_strength, (b, c.max_objects, 1, 1), minval=c.min_strength, maxval=1.0
        )
        # The strongest object where several overlap.
        m = (filled * (number < count) * strength).max(1)
        inside = jax.random.bernoulli(k_inside, c.inside_brain, (b, 1, 1))
        return jnp.where(inside, m * cells, m)

    def correct(
        self, params: Params, latent: Float[jax.Array, "b h w c"]
    ) -> Float[jax.Array, "b h w c"]:
        """Euler's method from t = 0 to 1."""

        def step(z, number):
            # The left end of each interval, as Euler's method reads the field.
            level = jnp.full((len(z),), number * LEVELS // self.steps, jnp.int32)
            velocity = self.denoiser.predict(params, z, level)
            return z + velocity / self.steps, None

        return jax.lax.scan(step, latent, jnp.arange(self.steps))[0]


def mixed_noise(key: jax.Array, shape: tuple[int, ...]) -> Float[jax.Array, "b h w c"]:
    """sqrt(a) n_c + sqrt(1 - a) n of unit variance; a ~ U(0, 1) a sample."""
    k_share, k_constant, k_white = jax.random.split(key, 3)
    b, _, _, c = shape
    a = jax.random.uniform(k_share, (b, 1, 1, 1))
    constant = jax.random.normal(k_constant, (b, 1, 1, c))
    return jnp.sqrt(a) * constant + jnp.sqrt(1 - a) * jax.random.normal(k_white, shape)


def textures(key: jax.Array, shape: tuple[int, ...]) -> Float[jax.Array, "b H W 1"]:
    """Grey textures in [-1, 1]: three gratings of random direction and period, bent by a
    smooth field, with random contrast around a random grey; some of them hard-edged."""
    b, height, width, _ = shape
    k_angle, k_period, k_phase, k_bend, k_weight, k_grey, k_hard = jax.random.split(key, 7)
    three = (b, 3, 1, 1)
    angle = jax.random.uniform(k_angle, three, maxval=jnp.pi)
    # Periods of 4 to 32 pixels: log-uniform, since texture scales are.
    octave = jax.random.uniform(k_period, three, minval=2.0, maxval=5.0)
    rows = jnp.arange(height)[:, None] * jnp.sin(angle)
    columns = jnp.arange(width)[None, :] * jnp.cos(angle)
    field = jax.random.normal(k_bend, (b, 4, 4))
    bend = jax.image.resize(field, (b, height, width), "cubic")[:, None]
    phase = 2 * jnp.pi * jax.random.uniform(k_phase, three)
    waves = jnp.sin(2 * jnp.pi * (rows + columns) / 2**octave + phase + 2.0 * bend)
    waves = (waves * jax.random.uniform(k_weight, three)).sum(1)
    hard = jax.random.bernoulli(k_hard, 0.5, (b, 1, 1))
    waves = jnp.where(hard, jnp.sign(waves), waves)
    grey = jax.random.uniform(k_grey, (2, b, 1, 1), minval=0.0, maxval=0.8)
    return jnp.clip(2 * grey[0] - 0.8 + grey[1] * waves, -1.0, 1.0)[..., None]


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Reflect:
    """From `config.methods.reflect`."""
    return Reflect(
        denoiser=shared.denoiser(),
        autoencoder=shared.autoencoder(),
        corruption=Corruption(**settings.corruption.table()),
        steps=settings.inference.steps,
        score=shared_lib.fused_score(shared, settings.inference),
        synthesis=shared.synthesis,
    )
