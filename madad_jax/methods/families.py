"""What methods of one kind share: those on latents, on images, with partial noising, with a
bottleneck, on tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from madad_jax.anomaly_maps import difference, fused, structure
from madad_jax.anomaly_maps import tokens as tokens_lib
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import partial
from madad_jax.methods import base
from madad_jax.models import image_networks, interfaces
from madad_jax.models.networks import lpips


def perceptual_distance(
    frozen: Params, a: Float[jax.Array, "b H W 1"], b: Float[jax.Array, "b H W 1"]
) -> Float[jax.Array, "b H W"]:
    """LPIPS as a map where `frozen` holds its weights ("lpips"), else (1 - SSIM) / 2."""
    if "lpips" in frozen:
        return lpips.distance_map(frozen["lpips"], a, b)
    return structure.dissimilarity(a, b)


@dataclasses.dataclass(frozen=True)
class OnLatents:
    """What methods on the latents of a frozen autoencoder share: the way there and back.

    `frozen` is {"autoencoder": params, "scaling_factor": scalar}; a batch may carry the posterior
    (`latent_mean`, `latent_logvar`) in place of images.
    """

    denoiser: interfaces.Denoiser
    autoencoder: interfaces.Autoencoder

    def latent_sides(self, batch_spec: Batch) -> tuple[int, int]:
        """(h, w) of the latents of a batch of these shapes."""
        if "latent_mean" in batch_spec:
            return batch_spec["latent_mean"].shape[1:3]
        # A batch of images alone: the sides follow from the autoencoder's factor.
        _, height, width, _ = batch_spec["image"].shape
        return height // self.autoencoder.factor, width // self.autoencoder.factor

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the denoiser for the latents of the batch, or of its images."""
        h, w = self.latent_sides(batch_spec)
        return self.denoiser.init(key, (1, h, w, self.autoencoder.latent_channels))

    def posterior(self, frozen: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """(mean, log-variance), unscaled, from the batch's cache where it carries one."""
        if "latent_mean" in batch:
            return batch["latent_mean"], batch["latent_logvar"]
        return self.autoencoder.encode(frozen["autoencoder"], batch["image"])

    def draw_latent(
        self, frozen: Params, batch: Batch, key: jax.Array
    ) -> Float[jax.Array, "b h w c"]:
        """A scaled draw of the posterior, not trained through."""
        # A loss differentiated by `frozen` too must not move the autoencoder.
        mean, logvar = jax.lax.stop_gradient(self.posterior(frozen, batch))
        noise = jax.random.normal(key, mean.shape)
        return (mean + jnp.exp(0.5 * logvar) * noise) * frozen["scaling_factor"]

    def scaled_mean(
        self, frozen: Params, images: Float[jax.Array, "b H W 1"]
    ) -> Float[jax.Array, "b h w c"]:
        """Scaled posterior means of images, not trained through."""
        mean, _ = self.autoencoder.encode(frozen["autoencoder"], images)
        # The mean without a draw: maps are made from means as well.
        return jax.lax.stop_gradient(mean) * frozen["scaling_factor"]

    def decode_pair(
        self,
        frozen: Params,
        batch: Batch,
        latent: Float[jax.Array, "b h w c"],
        corrected: Float[jax.Array, "b h w c"],
        reference: str,
    ) -> tuple[Float[jax.Array, "b H W 1"], Float[jax.Array, "b H W 1"]]:
        """(decoded correction, what it is compared with); both latents are scaled.

        `reference`: "autoencoded" decodes twice, in one batch, or once where nothing was
        corrected; the paper's "input" needs only one.
        """
        weights, scale = frozen["autoencoder"], frozen["scaling_factor"]
        if reference == "input":
            return self.autoencoder.decode(weights, corrected / scale), batch["image"]
        # In one call: where nothing was corrected, the decoder runs once.
        return self.autoencoder.decode_both(weights, corrected / scale, latent / scale)


@dataclasses.dataclass(frozen=True)
class CorrectedLatents(OnLatents):
    """What methods share whose network predicts a vector field that corrects a latent.

    train   || target - f(x_t, t) ||^2 over the whole latent
    test    `correct` follows f from the encoded image; what it moved is the map, in pixels and
            in latent cells (`anomaly_maps/fused.py`)
    """

    # Keyword-only: subclasses have fields without a default behind it.
    score: fused.FusedScore = dataclasses.field(kw_only=True)

    def regression(
        self,
        params: Params,
        x_t: Float[jax.Array, "b h w c"],
        t: Int[jax.Array, " b"],
        target: Float[jax.Array, "b h w c"],
        dropout_key: jax.Array | None,
    ) -> tuple[jax.Array, Metrics]:
        """Loss and metrics of the network's answer at (x_t, t)."""
        output = self.denoiser.apply(params, x_t, t, key=dropout_key)
        loss = jnp.square(output.x0 - target).mean()
        size = jnp.square(target).mean()  # the loss of a network that answers 0 everywhere
        # The floor: a batch in which no cell was corrupted has a target of 0.
        metrics = {"loss": loss, "loss_over_zero": loss / jnp.maximum(size, 1e-6)}
        return loss, metrics | base.report_penalty(output)

    def correct(
        self, params: Params, latent: Float[jax.Array, "b h w c"]
    ) -> Float[jax.Array, "b h w c"]:
        """The scaled latent as the network would have it."""
        raise NotImplementedError

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` (both differences) and `latent_map` [b,H,W]; `reconstruction` [b,H,W,1]."""
        del key  # nothing is drawn
        mean, _ = self.posterior(frozen, batch)
        # The mean without a draw: one slice has one map.
        latent = mean * frozen["scaling_factor"]
        corrected = self.correct(params, latent)
        image, reference = self.decode_pair(frozen, batch, latent, corrected, self.score.reference)
        maps = fused.fused_maps(
            image, reference, corrected, latent, batch["brain_mask"], self.score
        )
        return {**maps, "reconstruction": image}


@dataclasses.dataclass(frozen=True)
class ImageDiffusion:
    """What every diffusion on whole images shares: its parts, its weights and its training.

    train   || y - f(x_t, t) ||^2 at all levels t, y the noise or the clean image
    """

    network: interfaces.Denoiser
    process: partial.Process
    residual: difference.Residual

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        return self.network.init(key, batch_spec["image"].shape)

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The network's error over whole images."""
        del frozen
        # Split even when dropout is off: validation then sees the noise that training would.
        k_process, k_dropout = jax.random.split(key)
        x_t, t, target = self.process.draw_example(batch["image"], k_process)
        output = self.network.apply(params, x_t, t, key=k_dropout if train else None)
        loss = jnp.square(output.x0 - target).mean()
        return loss, {"loss": loss, **base.report_penalty(output)}


_PUBLISHED = partial.Reverse(start=250)


@dataclasses.dataclass(frozen=True)
class PartialDiffusion(ImageDiffusion):
    """Noised in part and denoised; what changed is the map (diffusion/partial.py)."""

    reverse: partial.Reverse = _PUBLISHED
    name: str = "ddpm"

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1]."""
        del frozen
        x = batch["image"]

        def network(x, t):
            return self.network.predict(params, x, t)

        # Without a key: dropout stays off while a map is made, the noise alone is drawn.
        x_hat = self.process.reconstruct(network, x, key, self.reverse)
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}


_PLAIN = difference.Residual()


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """What autoencoders with a bottleneck share: what does not fit through it is the map."""

    network: image_networks.Reconstructor
    residual: difference.Residual = _PLAIN

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the autoencoder."""
        return self.network.init(key, batch_spec["image"].shape)

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1]; of a variational one at the mean latent."""
        del frozen, key
        x = batch["image"]
        x_hat, _, _ = self.network.apply(params, x)
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnTokens:
    """What methods share that compare tokens of slices with tokens of healthy ones.

    Parameters are {"encoder": the network's, and what `fit` computed}. Nothing is learned by
    gradients here: `fit` looks at healthy slices, and `distance` at a slice.

    Attributes:
      encoder: image -> one vector a patch; vectors are brought to length 1.
      image_size: side in pixels that slices are brought to first (cubic, antialiased).
      residual: smooths the map and keeps it inside the brain.
      pooling: side of the neighbourhood of patches that a token is the mean of; 1: itself.
      most_tokens: of all healthy slices that `fit` keeps in memory; more are drawn from evenly.
    """

    encoder: image_networks.FeatureEncoder
    image_size: int
    residual: difference.Residual
    name: str
    pooling: int = 1
    most_tokens: int = 300_000

    def __post_init__(self):
        if self.image_size < 1 or self.image_size % self.encoder.patch:
            raise errors.UserError(
                f"features.image_size: found {self.image_size}, accepted: multiples of the "
                f"network's patch of {self.encoder.patch} pixels"
            )
        method = self.name.partition(" ")[0]
        if self.pooling < 1 or self.pooling % 2 == 0 or self.most_tokens < 1:
            raise errors.UserError(
                f"methods.{method}.pooling, most_tokens: found {self.pooling}, "
                f"{self.most_tokens}; accepted: an odd number, at least 1"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Drawn parameters of the network, and those of `fit` all 0."""
        del batch_spec
        shape = (1, self.image_size, self.image_size, 1)
        return {"encoder": self.encoder.init(key, shape), **self.empty()}

    def empty(self) -> Params:
        """What `fit` computes, all 0."""
        raise NotImplementedError

    def distance(self, params: Params, tokens: Float[jax.Array, "n d"]) -> Float[jax.Array, " n"]:
        """How far tokens are from healthy ones."""
        raise NotImplementedError

    def tokens(self, params: Params, images: Float[jax.Array, "b H W 1"]) -> jax.Array:
        """Vectors of length 1, [b, h, w, d]."""
        images = resize_images(images, self.image_size)
        found = self.encoder.tokens(params["encoder"], images)
        return tokens_lib.unit(tokens_lib.pool(tokens_lib.unit(found), self.pooling))

    def healthy_tokens(
        self, params: Params, slices: base.HealthySlices, key: jax.Array
    ) -> Float32[np.ndarray, "n d"]:
        """Tokens inside the brain of all slices, at most `most_tokens`.

        Raises UserError where no slice holds brain.
        """

        @jax.jit
        def look(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
            found = self.tokens(params, batch["image"])
            return found, tokens_lib.inside(batch["brain_mask"], found.shape[1:3])

        draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
        # A share of each slice: slices of one level of the head would else fill the memory.
        each = max(1, self.most_tokens // max(1, len(slices)))
        rows = [np.zeros((0, self.encoder.width), np.float32)]
        for batch in slices:
            for vectors, brain in zip(*jax.device_get(look(params, batch)), strict=True):
                kept = vectors[brain]
                if len(kept) > each:
                    kept = kept[np.sort(draw.choice(len(kept), each, replace=False))]
                rows.append(kept)
        found = np.concatenate(rows)
        if not len(found):
            raise errors.UserError("data.train: no brain in any slice; look at the brain masks")
        return found

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Mean distance of the tokens inside the brain: what healthy slices have left."""
        del frozen, key, train
        distance, brain = self._score(params, batch)
        loss = (distance * brain).sum() / jnp.maximum(brain.sum(), 1)
        return loss, {"loss": loss}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and, as `reconstruction` [b,H,W,1], the slice itself."""
        del frozen, key
        distance, brain = self._score(params, batch)
        images = batch["image"]
        maps = tokens_lib.to_maps(distance * brain, images.shape[1:3])
        maps = self.residual.finish(maps, batch["brain_mask"])
        return {"map": maps, "reconstruction": images}

    def _score(self, params: Params, batch: Batch) -> tuple[jax.Array, Bool[jax.Array, "b h w"]]:
        """(distance, whether the patch is brain) of each token [b, h, w]."""
        found = self.tokens(params, batch["image"])
        distance = self.distance(params, found.reshape(-1, found.shape[-1]))
        grid = found.shape[1:3]
        return distance.reshape(-1, *grid), tokens_lib.inside(batch["brain_mask"], grid)


def resize_images(images: Float[jax.Array, "b H W 1"], side: int) -> Float[jax.Array, "b h w 1"]:
    """Images of `side` x `side` pixels, cubic and antialiased; of that side, as they are."""
    if images.shape[1:3] == (side, side):
        return images
    return jax.image.resize(images, (len(images), side, side, 1), "cubic", antialias=True)
