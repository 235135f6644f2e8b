"""Disyre: cold diffusion whose noise is synthetic anomalies (Naval Marimont et al., v1 and v2).

    c_k     = prod_{i <= k} sqrt(1 - beta_i)          from 1 (k = 0) to 0 (k = N - 1)
    train   x -> (x_c, alpha) (synthesis/disentangled.py);  k = argmin |c_k - alpha|
            || x - f(x_c, k) ||^2: no noise, and a strong anomaly has a small k
    test    v2, "ensemble":   S = w mean_k |x - f(x, k)|, x as it is at every level k
            v1, "multistep":  x_1 = x;  x0_i = f(x_i, k_i);  S = w mean_i |x_i - x0_i|
                              x_{i+1} = x0_i + (c_{k_{i+1}} / c_{k_i}) (x_i - x0_i)

w is the share of brain in the window. Levels are trailing: 99, 74, 49, 24 for 4 steps of N = 100.
In "multistep" they are N - 1 minus these, from strong to weak, and the network is told the level
whose c_k the step assumes. (The public code tells it the opposite level there.)

Published (arXiv 2407.06635; v1: 2311.15453): N = 100, beta linear from 0.001 to 0.2; crops of 128
pixels of slices of 1 mm; windows of 128 pixels, a quarter of it apart, weighted by a Gaussian of
16 pixels; 4 or 5 levels; AdamW 1e-4 (0.95, 0.999), batch 96, 100,000 steps in bfloat16; a U-Net of
diffusers, widths 32, 64, 96, 128, 256, 256, attention at the fifth. From a description of the
public code; the formulas alone were used, since it has no licence.

What differs: the U-Net is this repository's, of the same widths; images span [-1, 1], so that the
loss is four times theirs; the slices' own augmentation stands for elastic and intensity changes;
intensities are scaled between percentiles of the brain; the brain mask is the foreground.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from madad_jax.anomaly_maps import difference, sliding_window
from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.diffusion import schedule as schedule_lib
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import interfaces
from madad_jax.synthesis import disentangled as anomalies_lib
from madad_jax.synthesis.draws import Draws

# (images [b,H,W,1], levels [b]) -> clean images [b,H,W,1]
Network = Callable[[jax.Array, jax.Array], jax.Array]
SCORES = ("ensemble", "multistep")
WEIGHTS = ("window", "slice", "none")
_PLAIN = difference.Residual()
_WINDOW = sliding_window.Window()
_ANOMALIES = anomalies_lib.Options()


@dataclasses.dataclass(frozen=True)
class Score:
    """How maps are made.

    Attributes:
      kind: ensemble (v2) | multistep (v1).
      steps: number of levels.
      weight: what a map is multiplied by: the share of brain in the window (v2), in the slice (the
        copy in UAD-IMAG), or none.
      window: of slices that are larger than it; training crops have its side.
    """

    kind: str = "ensemble"
    steps: int = 4
    weight: str = "window"
    window: sliding_window.Window = _WINDOW

    def __post_init__(self):
        for key, value, accepted in (
            ("score", self.kind, SCORES),
            ("weight", self.weight, WEIGHTS),
        ):
            if value not in accepted:
                raise errors.UserError(
                    f"methods.disyre.inference.{key}: found {value!r}, accepted: "
                    f"{', '.join(accepted)}"
                )


@dataclasses.dataclass(frozen=True)
class Disyre:
    """The method; `residual` gives the difference, the smoothing and the brain mask."""

    network: interfaces.Denoiser
    schedule: schedule_lib.Schedule
    residual: difference.Residual = _PLAIN
    anomalies: anomalies_lib.Options = _ANOMALIES
    score: Score = Score()
    name: str = "disyre"

    def __post_init__(self):
        if not 1 <= self.score.steps <= self.schedule.num_steps:
            raise errors.UserError(
                f"methods.disyre.inference.steps: found {self.score.steps}, accepted: 1 to "
                f"{self.schedule.num_steps}"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the U-Net."""
        return self.network.init(key, batch_spec["image"].shape)

    @property
    def severities(self) -> np.ndarray:
        """c_k, float64 [N], falling."""
        return np.sqrt(self.schedule.alphas_cumprod)

    def level(self, severity: Float[jax.Array, " b"]) -> Int[jax.Array, " b"]:
        """The k whose c_k is nearest to alpha."""
        table = jnp.asarray(self.severities, jnp.float32)
        return jnp.argmin(jnp.abs(table - severity[:, None]), axis=-1)

    def levels(self) -> np.ndarray:
        """k of the test, int [steps]: trailing for the ensemble, strong to weak for multistep."""
        n = self.schedule.num_steps
        spread = np.round(n - np.arange(self.score.steps) * (n / self.score.steps)).astype(int) - 1
        return spread if self.score.kind == "ensemble" else n - 1 - spread

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Squared error of the clean slice, and its ratio to that of giving back what came in."""
        del frozen
        k_crop, k_anomaly, k_dropout = jax.random.split(key, 3)
        x, brain = batch["image"], batch["brain_mask"]
        side = self.score.window.side
        if train and min(brain.shape[1:]) > side:
            corner = anomalies_lib.pick_corner(Draws(k_crop, len(x), 1), brain, side)
            x = anomalies_lib.cut(x[..., 0], corner, side)[..., None]
            brain = anomalies_lib.cut(brain, corner, side)
        drawn = anomalies_lib.draw(k_anomaly, x, brain, self.anomalies)
        k = self.level(drawn.severity)
        output = self.network.apply(params, drawn.images, k, key=k_dropout if train else None)
        loss = jnp.square(output.x0 - x).mean()
        copied = jnp.square(drawn.images - x).mean()
        metrics = {
            "loss": loss,
            "loss_over_copy": loss / jnp.maximum(copied, 1e-8),
            "severity": drawn.severity.mean(),
        }
        return loss, {**metrics, **base.report_penalty(output)}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W]; `reconstruction` [b,H,W,1], the mean over the levels, of multistep the
        last estimate."""
        del frozen, key  # nothing is drawn
        x, brain = batch["image"], batch["brain_mask"]

        def network(images, k):
            return self.network.predict(params, images, k)

        def score_window(images, masks):
            maps, x_hat = self.measure(network, images)
            if self.score.weight == "window":
                maps = maps * _brain_share(masks)
            return maps, x_hat

        maps, x_hat = sliding_window.apply(score_window, x, brain, self.score.window)
        if self.score.weight == "slice":
            maps = maps * _brain_share(brain)
        maps = self.residual.finish(maps * brain, brain)
        return {"map": maps, "reconstruction": jnp.where(brain[..., None], x_hat, x)}

    def measure(
        self, network: Network, images: Float[jax.Array, "b H W 1"]
    ) -> tuple[Float[jax.Array, "b H W"], Float[jax.Array, "b H W 1"]]:
        """(mean difference over the levels, reconstruction), without weights and masks."""
        if self.score.kind == "multistep":
            return self._follow(network, images)
        steps = self.score.steps
        # All levels in one call: they see the same slices and do not wait for each other.
        x = jnp.tile(images, (steps, 1, 1, 1))
        k = jnp.repeat(jnp.asarray(self.levels(), jnp.int32), len(images))
        x0 = network(x, k)
        found = self._difference(x0, x).reshape(steps, *images.shape[:3])
        return found.mean(0), x0.reshape(steps, *images.shape).mean(0)

    def _follow(
        self, network: Network, images: Float[jax.Array, "b H W 1"]
    ) -> tuple[jax.Array, jax.Array]:
        """The steps of multistep."""
        levels, table = self.levels(), self.severities
        # The share of the difference that is left for the next level; none behind the last.
        left = np.append(table[levels[1:]], 0.0) / table[levels]

        def step(carry, entry):
            x, total, _ = carry
            k, share = entry
            x0 = network(x, jnp.full((len(x),), k))
            return (x0 + share * (x - x0), total + self._difference(x0, x), x0), None

        start = images, jnp.zeros(images.shape[:3]), images
        entries = jnp.asarray(levels, jnp.int32), jnp.asarray(left, jnp.float32)
        (_, total, x0), _ = jax.lax.scan(step, start, entries)
        return total / len(levels), x0

    def _difference(self, x0: jax.Array, x: jax.Array) -> Float[jax.Array, "b H W"]:
        r = self.residual
        return difference.clipped_difference(x0, x, difference=r.difference, gamma=r.gamma)


def _brain_share(masks: Bool[jax.Array, "b H W"]) -> Float[jax.Array, "b 1 1"]:
    return masks.mean((1, 2), keepdims=True, dtype=jnp.float32)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Disyre:
    """From `config.methods.disyre`."""
    c = settings.inference
    window = sliding_window.Window(settings.window, c.window_step, c.window_sigma)
    return Disyre(
        network=shared.pixel_unet(),
        schedule=shared.schedule(),
        residual=shared_lib.residual(shared, c),
        anomalies=anomalies_lib.Options(**settings.anomalies.table()),
        score=Score(c.score, c.steps, c.weight, window),
    )
