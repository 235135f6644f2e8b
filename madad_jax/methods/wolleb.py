"""Classifier-guided DDIM (Wolleb et al., MICCAI 2022), weakly supervised or with synthetic labels.

    train   || eps - f(x_t, t) ||^2 on healthy and unhealthy slices, and a classifier C(x_t, t) of
            "healthy" on the same noised slices
    test    x is noised by the reversed DDIM, deterministically, to level L:
                x_{t+1} = sqrt(abar_{t+1}) x0_hat + sqrt(1 - abar_{t+1}) eps_hat
            and denoised by DDIM with the noise
                eps_hat - s sqrt(1 - abar_t) grad_{x_t} log C(healthy | x_t, t)
            map = |x_hat - x|

Published: weakly supervised, with real slices labelled healthy or not by their segmentation; four
modalities, 256 pixels, ADM's network (128 channels, 2 blocks, learned variance), T = 1000,
linear, lr 1e-4, batch of 10, classifier of 32 channels, L = 500, s = 100.

`labels="split"` is the published setting: slices of a split of its own are labelled abnormal
(sources/labelled.py). With `labels="synthetic"`, the default, since most training sets hold healthy
slices alone, half of each batch gets synthetic anomalies (synthesis/shapes.py) and the label
"unhealthy": no label of a person and no real lesion is used, and the row is named so. The
variance is not learned: DDIM does not read it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from madad_jax.anomaly_maps import difference
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import partial, process
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import interfaces
from madad_jax.synthesis import mix, shapes

_ROWS = {"synthetic": "synthetic labels", "split": "slices labelled"}
LABELS = tuple(_ROWS)


@dataclasses.dataclass(frozen=True)
class Wolleb:
    """`level` L, `steps` there and as many back (0: every level), `scale` s; `labels` one of
    `LABELS`: with "split" training batches have `unhealthy` [b]."""

    network: interfaces.Denoiser
    classifier: interfaces.Classifier
    process: partial.Process
    synthesis: shapes.Options
    residual: difference.Residual
    level: int = 500
    steps: int = 0
    scale: float = 100.0
    labels: str = "synthetic"

    @property
    def name(self) -> str:
        """Of the row."""
        return f"wolleb ({_ROWS[self.labels]})"

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """{"denoiser", "classifier"}."""
        k_denoiser, k_classifier = jax.random.split(key)
        shape = batch_spec["image"].shape
        return {
            "denoiser": self.network.init(k_denoiser, shape),
            "classifier": self.classifier.init(k_classifier, shape),
        }

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Both losses; their gradients do not meet."""
        del frozen
        k_label, k_corrupt, k_t, k_noise, k_dropout = jax.random.split(key, 5)
        x = batch["image"]
        if self.labels == "split":
            unhealthy = batch["unhealthy"]
        else:
            half = dataclasses.replace(self.synthesis, share=0.5)  # both classes as often
            healthy = jnp.zeros(len(x), bool)
            x, unhealthy = mix.replace_share(
                (k_label, k_corrupt), batch, half, (x, healthy), lambda images: (images, ~healthy)
            )
        t = self.process.draw_time(k_t, len(x))
        noise = self.process.noise.draw(k_noise, x.shape)
        x_t = self.process.add_noise(x, t, noise)
        dropout = k_dropout if train else None
        output = self.network.apply(params["denoiser"], x_t, t, key=dropout)
        denoising = jnp.square(output.x0 - self.process.target(x, noise)).mean()
        logit = self.classifier.apply(params["classifier"], x_t, t)
        label = unhealthy.astype(jnp.float32)
        classification = optax.sigmoid_binary_cross_entropy(logit, label).mean()
        # The logit is of "unhealthy"; guidance at test goes towards its negative.
        right = ((logit > 0) == unhealthy).mean()
        total = denoising + classification
        return total, {
            "loss": total,
            "denoising_loss": denoising,
            "classifier_loss": classification,
            "classifier_accuracy": right,
            **base.report_penalty(output),
        }

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1]; nothing is drawn."""
        del frozen, key
        x, p = batch["image"], self.process
        down = p.times(self.level, self.steps)

        def network(x, t):
            return self.network.predict(params["denoiser"], x, t)

        def healthy(x, t):
            return jax.nn.log_sigmoid(-self.classifier.apply(params["classifier"], x, t))

        def encode(x, entry):
            t, after = entry
            level = jnp.full((len(x),), t)
            x0, eps = p.estimate(x, level, network(x, level))
            return p.step(x0, eps, eps, t=t, before=after, eta=0.0), None

        def decode(x, entry):
            t, before, _ = entry
            level = jnp.full((len(x),), t)
            _, eps = p.estimate(x, level, network(x, level))
            # The guided noise gives another clean estimate below; that of `estimate` is not guided.
            eps = eps - self.scale * self.direction(healthy, x, level)
            x0 = p.estimate_clean(x, level, eps)
            return p.step(x0, eps, eps, t=t, before=before, eta=0.0), None

        # Encoding visits the same levels as decoding: DDIM is its own inverse on one grid alone.
        up = jnp.asarray(down[::-1].copy())
        noised, _ = jax.lax.scan(encode, x, (up[:-1], up[1:]))
        x_hat, _ = jax.lax.scan(decode, noised, partial.entries(down))
        return {"map": self.residual(x_hat, x, batch["brain_mask"]), "reconstruction": x_hat}

    def direction(
        self, healthy, x: Float[jax.Array, "b H W 1"], t: Int[jax.Array, " b"]
    ) -> Float[jax.Array, "b H W 1"]:
        """sqrt(1 - abar_t) times the gradient of log C(healthy | x, t)."""
        abar = process.gather(self.process.schedule.alphas_cumprod, t)
        return jnp.sqrt(1.0 - abar) * jax.grad(lambda x: healthy(x, t).sum())(x)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Wolleb:
    """From `config.methods.wolleb`. Raises UserError for labels that there are not."""
    return Wolleb(
        **shared_lib.pixel_parts(shared, settings),
        classifier=shared.classifier(settings.classifier.table()),
        synthesis=shared.synthesis,
        labels=settings.choose("labels", LABELS),
        level=settings.inference.start,
        steps=settings.inference.steps,
        scale=settings.inference.scale,
    )
