"""IterMask2: a mask that shrinks while what it hides can be predicted (Liang et al., MICCAI 2024).

Two plain networks, trained side by side on healthy slices, see the high frequencies h(x), which
hold the anatomy's edges and little of a lesion's intensity:

    h(x)       amplitudes of the Fourier transform within `radius` set to 1, phases kept
    A          || x - A(h(x)) ||^2
    B          || x - B((1 - M) x + M n, h(x)) ||^2,   n white noise, M a union of random squares

Test:          M_0 = the `start` share of brain pixels with the largest error of A
    repeat     x_hat = B((1 - M) x + M n, h(x));   M <- M and (x_hat - x)^2 > threshold
    until      M loses less than 1 % of its pixels;   map = (x_hat - x)^2 within the last M

so that healthy tissue leaves the mask, which leaves more context for the rest. The loop is one
`lax.while_loop`; every image stops for itself.

Published: 128 pixels, U-Nets of 32 channels (1, 1, 2, 3, 4), 2 blocks, attention at 32, 16 and 8
pixels, dropout 0.1; lr 1e-4, batch of 32, EMA 0.9999, 150,000 steps; radius 15, start 60 %,
squares of 4, 8, 16 pixels around Gaussian centres in the brain; the threshold is the value
that 20 % of masked healthy validation pixels exceed.

What differs: that threshold is learnt while B trains, on masked training pixels, by the pinball
loss, whose minimum is the quantile: evaluation needs no pass over data first, but the threshold
is of slices that B has seen. Images lie within [-1, 1] (published: about [-3, 3]).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from madad_jax.anomaly_maps import difference
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import base
from madad_jax.methods import shared as shared_lib
from madad_jax.models import interfaces

_RATE = 10.0  # the threshold is exp(10 p): p moves at the network's learning rate
_INITIAL_THRESHOLD = 0.02  # the threshold before training, a squared difference in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Options:
    """`radius` in cycles per image; `start` share of the brain; `exceeded` share of masked healthy
    pixels above the threshold; squares have `sides` pixels, up to `squares` a slice; `least`
    share of its pixels that the mask must lose to go on, at most `rounds` times."""

    radius: float = 15.0
    sides: tuple[int, ...] = (4, 8, 16)
    squares: int = 60
    exceeded: float = 0.2
    start: float = 0.6
    least: float = 0.01
    rounds: int = 50


@dataclasses.dataclass(frozen=True)
class IterMask2:
    """`network` takes one channel (A) or two (B); parameters say which it is."""

    network: interfaces.Denoiser
    residual: difference.Residual
    options: Options = Options()
    name: str = "itermask2"

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """{"first": A, "masked": B, "threshold": p}."""
        k_first, k_masked = jax.random.split(key)
        one = batch_spec["image"].shape
        return {
            "first": self.network.init(k_first, one),
            "masked": self.network.init(k_masked, (*one[:3], 2)),
            "threshold": jnp.log(_INITIAL_THRESHOLD) / _RATE * jnp.ones(()),
        }

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Both errors and the pinball loss of the threshold."""
        del frozen
        k_mask, k_noise, k_a, k_b = jax.random.split(key, 4)
        x = batch["image"]
        h = high_frequencies(x, self.options.radius)
        o = self.options
        mask = random_squares(k_mask, batch["brain_mask"], o.sides, o.squares)
        keys = (k_a, k_b) if train else (None, None)
        from_edges = self._predict_from_edges(params, h, keys[0])
        filled = self._fill_mask(params, x, h, mask, k_noise, keys[1])
        first = jnp.square(from_edges.x0 - x).mean()
        error = jnp.square(filled.x0 - x)
        pinball, exceeded = self._pinball(params, error[..., 0], mask * batch["brain_mask"])
        total = first + error.mean() + pinball
        return total, {
            "loss": total,
            "first_loss": first,
            "masked_loss": error.mean(),
            "threshold": self.threshold(params),
            "exceeded": exceeded,
            **base.report_penalty(from_edges, filled),
        }

    def _pinball(
        self, params: Params, error: jax.Array, mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """(pinball loss of the log threshold, share of masked pixels above it)."""
        # The stop: the threshold follows the errors, errors must not follow the threshold.
        gap = jnp.log(jax.lax.stop_gradient(error) + 1e-12) - _RATE * params["threshold"]
        tau = 1.0 - self.options.exceeded
        loss = jnp.where(gap > 0, tau * gap, (tau - 1.0) * gap)
        count = jnp.maximum(mask.sum(), 1.0)
        return (loss * mask).sum() / count / _RATE, ((gap > 0) * mask).sum() / count

    def threshold(self, params: Params) -> Float[jax.Array, ""]:
        """The squared difference above which a pixel stays masked."""
        return jnp.exp(_RATE * params["threshold"])

    def _predict_from_edges(
        self, params: Params, h: jax.Array, key: jax.Array | None = None
    ) -> interfaces.Output:
        return self.network.apply(params["first"], h, jnp.zeros(len(h), jnp.int32), key=key)

    def _fill_mask(
        self,
        params: Params,
        x: jax.Array,
        h: jax.Array,
        mask: jax.Array,
        noise_key: jax.Array,
        key: jax.Array | None = None,
    ) -> interfaces.Output:
        m = mask[..., None].astype(x.dtype)
        given = (1.0 - m) * x + m * jax.random.normal(noise_key, x.shape)
        pair = jnp.concatenate([given, h], -1)
        zero = jnp.zeros(len(x), jnp.int32)
        return self.network.apply(params["masked"], pair, zero, key=key)

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1] (the input outside the last mask)."""
        del frozen
        x, brain = batch["image"], batch["brain_mask"]
        h = high_frequencies(x, self.options.radius)
        first = jnp.square(self._predict_from_edges(params, h).x0 - x)[..., 0]
        start = largest_share(first, brain, self.options.start)

        def reconstruct(mask, number):
            return self._fill_mask(params, x, h, mask, jax.random.fold_in(key, number)).x0

        o = self.options
        threshold = self.threshold(params)
        mask, x_hat = shrink(reconstruct, x, start, threshold, least=o.least, rounds=o.rounds)
        m = mask[..., None]
        x_hat = jnp.where(m, x_hat, x)
        return {"map": self.residual(x_hat, x, brain), "reconstruction": x_hat}


def high_frequencies(x: Float[jax.Array, "b H W 1"], radius: float) -> Float[jax.Array, "b H W 1"]:
    """h(x): amplitudes within `radius` cycles per image set to 1, the rest and all phases kept."""
    rows, columns = (jnp.fft.fftfreq(side) * side for side in x.shape[1:3])
    low = jnp.square(rows)[:, None] + jnp.square(columns)[None] < radius**2
    spectrum = jnp.fft.fft2(x[..., 0])
    # The phase of a zero amplitude is arbitrary; angle gives 0 for it, and no NaN.
    flat = jnp.exp(1j * jnp.angle(spectrum))
    return jnp.fft.ifft2(jnp.where(low, flat, spectrum)).real[..., None]


def random_squares(
    key: jax.Array, brain: Bool[jax.Array, "b H W"], sides: tuple[int, ...], squares: int
) -> Float[jax.Array, "b H W"]:
    """1 inside a union of 1 to `squares` squares whose centres are Gaussian around the middle of
    the brain, with the brain's spread, and within the brain."""
    batch, height, width = brain.shape
    k_count, k_side, k_centre = jax.random.split(key, 3)
    weight = jnp.maximum(brain.sum((1, 2)), 1).astype(jnp.float32)
    lines = []
    k_each = jax.random.split(k_centre)
    side = jnp.asarray(sides)[jax.random.randint(k_side, (batch, squares), 0, len(sides))]
    for axis, length in ((1, height), (2, width)):
        place = jnp.arange(length, dtype=jnp.float32)
        mass = brain.sum(3 - axis) / weight[:, None]
        middle = (mass * place).sum(-1, keepdims=True)
        spread = jnp.sqrt((mass * jnp.square(place - middle)).sum(-1, keepdims=True))
        draw = jax.random.normal(k_each[axis - 1], (batch, squares))
        start = jnp.round(middle + spread * draw - side / 2)[..., None]
        lines.append((place >= start) & (place < start + side[..., None]))
    count = jax.random.randint(k_count, (batch, 1), 1, squares + 1)
    used = (jnp.arange(squares) < count)[..., None]
    # Union by counting hits: one product in place of `squares` masks of the whole slice.
    hit = jnp.einsum("bkh,bkw->bhw", (lines[0] & used) * 1.0, lines[1] * 1.0)
    return (hit > 0.5) * brain * 1.0


def largest_share(
    error: Float[jax.Array, "b H W"], brain: Bool[jax.Array, "b H W"], share: float
) -> Bool[jax.Array, "b H W"]:
    """The brain pixels with the largest errors, `share` of each image's."""
    # NaN drops the background from the quantile; a share is of brain pixels.
    inside = jnp.where(brain, error, jnp.nan)
    limit = jnp.nanquantile(inside, 1.0 - share, axis=(1, 2), keepdims=True)
    return brain & (error >= limit)


def shrink(
    reconstruct,
    x: Float[jax.Array, "b H W 1"],
    start: Bool[jax.Array, "b H W"],
    threshold: Float[jax.Array, ""],
    *,
    least: float,
    rounds: int,
) -> tuple[Bool[jax.Array, "b H W"], Float[jax.Array, "b H W 1"]]:
    """(last mask, last reconstruction) of the loop of the test.

    Args:
      reconstruct: (mask, number of the round) -> x_hat.
      x, start, threshold: the image, the first mask, the error above which a pixel stays.
      least: an image stops when its mask loses a smaller share.
      rounds: at most so many.
    """

    def is_unfinished(state):
        number, _, _, moving = state
        return (number < rounds) & moving.any()

    def take_round(state):
        number, mask, x_hat, moving = state
        found = reconstruct(mask, number)
        kept = mask & (jnp.square(found - x)[..., 0] > threshold)
        before, after = (m.sum((1, 2)).astype(jnp.float32) for m in (mask, kept))
        x_hat = jnp.where(moving[:, None, None, None], found, x_hat)
        mask = jnp.where(moving[:, None, None], kept, mask)
        # An empty mask stops as well: nothing is left that could shrink.
        return number + 1, mask, x_hat, moving & (before - after >= least * before) & (after > 0)

    first = (jnp.int32(0), start, x, jnp.ones(len(x), bool))
    _, mask, x_hat, _ = jax.lax.while_loop(is_unfinished, take_round, first)
    return mask, x_hat


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> IterMask2:
    """From `config.methods.itermask2`."""
    inference = settings.inference
    return IterMask2(
        network=shared.pixel_unet(),
        residual=shared_lib.residual(shared, inference),
        options=Options(**settings.table(), **inference.table(without=("difference", "gamma"))),
    )
