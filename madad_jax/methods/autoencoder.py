"""The KL autoencoder as a method: L1 + KL + hinge PatchGAN (+ LPIPS when weights are given).

    L_nll  = sum_pixels ( |x - x_hat| + w_p LPIPS(x, x_hat) ) / batch
    L_ae   = L_nll + w_kl KL + d a g,          g = - mean D(x_hat)
    d      = w_d clip( ||dL_nll/dW|| / (||dg/dW|| + 1e-4), 0, 1e4 ),  W the output kernel
    L_disc = a / 2 ( mean relu(1 - D(x)) + mean relu(1 + D(x_hat)) )

after LDM (Rombach et al. 2022); a is 0 before `disc_start` steps and 1 from then on. L_ae
is divided by the number of pixels, which changes nothing under Adam and keeps its size
independent of the image. Both sides' losses add up to one scalar: each side's inputs
from the other are stop-gradiented, so its gradient is right for both at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.models import interfaces
from madad_jax.models.networks import lpips


@dataclasses.dataclass(frozen=True)
class Loss:
    """Weights of the terms; `disc_start` in optimiser steps."""

    kl_weight: float = 1e-6
    perceptual_weight: float = 1.0
    disc_weight: float = 0.5
    disc_start: int = 50001


@dataclasses.dataclass(frozen=True)
class KLAutoencoder:
    """Trains {"autoencoder", "discriminator"}. `frozen` may hold {"lpips": weights}.

    `discriminator=None` leaves the adversarial term out. With `crop` > 0 training sees squares
    of so many pixels around random brain pixels instead of whole slices: the network is
    convolutional, most of a slice is background, and a quarter of the work teaches as much.
    Its map is |x - x_hat|, clipped at `gamma` and smoothed by `sigma` pixels: what the frozen part
    misses by itself. No row reports it (row `ae` is `methods/ae.py`): a latent made to keep a
    slice keeps its lesions.
    """

    autoencoder: interfaces.Autoencoder
    discriminator: interfaces.Discriminator | None = None
    loss_options: Loss = Loss()
    crop: int = 0
    gamma: float = 0.25
    sigma: float = 5.0
    name: str = "autoencoder"
    # The loss means something else from `disc_start` on; this means the same at every step.
    selected_by: str = "reconstruction"

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the autoencoder and, when there is one, the discriminator."""
        height, width = batch_spec["image"].shape[1:3]
        if self.crop > min(height, width) or self.crop % self.autoencoder.factor:
            raise errors.UserError(
                f"autoencoder.crop: found {self.crop}; must be a multiple of "
                f"{self.autoencoder.factor} and at most the image size {min(height, width)}"
            )
        k_ae, k_disc = jax.random.split(key)
        shape = (1, *batch_spec["image"].shape[1:])
        params = {"autoencoder": self.autoencoder.init(k_ae, shape)}
        if self.discriminator is not None:
            params["discriminator"] = self.discriminator.init(k_disc, shape)
        return params

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """The scalar above and its parts; crops are drawn while training alone.

        `reconstruction` is L_nll per pixel, which no switch of the discriminator changes.
        """
        k_crop, k_sample = jax.random.split(key)
        x = batch["image"]
        if self.crop and train:
            x = crop_in_brain(k_crop, x, batch["brain_mask"], self.crop)
        weights = params["autoencoder"]
        mean, logvar = self.autoencoder.encode(weights, x)
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar).sum((1, 2, 3)).mean()
        # Drawn in validation too: its loss is that of a draw, not of the mean.
        latent = mean + jnp.exp(0.5 * logvar) * jax.random.normal(k_sample, mean.shape)
        # In two calls, so that `_adaptive_weight` can pull back through the last layer alone.
        features = self.autoencoder.decode_features(weights, latent)
        x_hat = self.autoencoder.output_layer(weights, features)
        # Of the crop, where training crops: both terms below are sums over it.
        pixels = x[0].size
        nll = self._nll(frozen, x, x_hat)
        total = (nll + self.loss_options.kl_weight * kl) / pixels
        metrics = {"l1": jnp.abs(x - x_hat).mean(), "kl": kl, "reconstruction": nll / pixels}
        if self.discriminator is not None:
            adversarial, more = self._adversarial(params, frozen, x, x_hat, features, batch)
            total = total + adversarial
            metrics |= more
        return total, {"loss": total, **metrics}

    def acts_within(self, steps: int) -> bool:
        """Whether a discriminator that is there says anything in a training of `steps`."""
        return self.discriminator is None or self.loss_options.disc_start < steps

    def _nll(self, frozen: Params, x: jax.Array, x_hat: jax.Array) -> jax.Array:
        error = jnp.abs(x - x_hat)
        if frozen and "lpips" in frozen:
            distance = lpips.distance(frozen["lpips"], x, x_hat)
            error = error + self.loss_options.perceptual_weight * distance
        return error.sum() / x.shape[0]

    def _adversarial(self, params, frozen, x, x_hat, features, batch) -> tuple[jax.Array, Metrics]:
        """Both sides' adversarial terms, weighted, per pixel for the generator."""
        disc = params["discriminator"]
        active = (batch["step"] >= self.loss_options.disc_start).astype(jnp.float32)

        def g_loss(image):
            # The generator's term must not train the discriminator, which wants the opposite.
            return -self.discriminator.apply(jax.lax.stop_gradient(disc), image).mean()

        # Computed before `disc_start` too and switched by a factor: the step is traced.
        weight = self._adaptive_weight(params, frozen, x, x_hat, features, g_loss)
        generator = g_loss(x_hat)
        real = self.discriminator.apply(disc, x)
        fake = self.discriminator.apply(disc, jax.lax.stop_gradient(x_hat))
        # The fake is stopped: the hinge trains the discriminator alone.
        hinge = 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())
        total = active * (weight * generator / x[0].size + hinge)
        return total, {"disc_loss": hinge, "disc_weight": weight * active, "g_loss": generator}

    def _adaptive_weight(self, params, frozen, x, x_hat, features, g_loss) -> jax.Array:
        """LDM's balance of the two gradients at the output kernel, itself not trained through.

        Both gradients are pulled back through the output layer alone: the chain above it
        is shared, so nothing of the decoder is run again.
        """
        weights = jax.lax.stop_gradient(params["autoencoder"])
        features, x_hat = jax.lax.stop_gradient((features, x_hat))
        path = self.autoencoder.output_kernel_path

        def output(kernel):
            return self.autoencoder.output_layer(_replace(weights, path, kernel), features)

        _, pull_back = jax.vjp(output, _get(weights, path))

        def norm(loss):
            (gradient,) = pull_back(jax.grad(loss)(x_hat))
            return jnp.sqrt(jnp.square(gradient.astype(jnp.float32)).sum())

        # 1e-4 and 1e4 are LDM's: a vanishing generator gradient must not blow the weight up.
        ratio = norm(lambda y: self._nll(frozen, x, y)) / (norm(g_loss) + 1e-4)
        weight = self.loss_options.disc_weight * jnp.clip(ratio, 0.0, 1e4)
        return jax.lax.stop_gradient(weight)

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] of the plain reconstruction error and `reconstruction` [b,H,W,1]."""
        del frozen, key
        weights = params["autoencoder"]
        mean, _ = self.autoencoder.encode(weights, batch["image"])
        x_hat = self.autoencoder.decode(weights, mean)
        maps = difference.clipped_difference(
            x_hat, batch["image"], difference="l1", gamma=self.gamma
        )
        return {"map": difference.gaussian_smooth(maps, self.sigma), "reconstruction": x_hat}


def crop_in_brain(
    key: jax.Array,
    images: Float[jax.Array, "b H W c"],
    brain_masks: Bool[jax.Array, "b H W"],
    side: int,
) -> Float[jax.Array, "b S S c"]:
    """A square of `side` pixels a slice around a brain pixel drawn uniformly, moved inside
    the slice where it would stick out. A slice without brain is cut anywhere."""
    batch, height, width = brain_masks.shape
    flat = brain_masks.reshape(batch, -1)
    logits = jnp.where(flat | ~flat.any(-1, keepdims=True), 0.0, -jnp.inf)
    centre = jax.random.categorical(key, logits)
    # Moved inside the slice, not cut off: all crops need one shape.
    top = jnp.clip(centre // width - side // 2, 0, height - side)
    left = jnp.clip(centre % width - side // 2, 0, width - side)

    def cut(image: jax.Array, row: jax.Array, column: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (row, column, 0), (side, side, image.shape[-1]))

    return jax.vmap(cut)(images, top, left)


def _get(tree: Params, path: tuple[str, ...]) -> jax.Array:
    for name in path:
        tree = tree[name]
    return tree


def _replace(tree: Params, path: tuple[str, ...], leaf: jax.Array) -> Params:
    """`tree` with one leaf exchanged; the rest is shared."""
    head, *rest = path
    return {**tree, head: _replace(tree[head], tuple(rest), leaf) if rest else leaf}
