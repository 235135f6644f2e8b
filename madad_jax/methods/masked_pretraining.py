"""A masked autoencoder trained on healthy slices: a network for tokens without public weights.

    train   a share of the squares is hidden, drawn anew for each slice
            | x - MAE(x, visible) |^2 over the hidden squares that touch the brain
    test    the squares are divided into four parts at random; each is shown alone and the other
            three are guessed; map = | x - mean guess |

He et al. (CVPR 2022): 75 % hidden, mean squared error over hidden squares. Departures: hidden
squares stay in place, unread (`networks/masked_encoder.py`); squares without brain do not count;
pixels are not normalised square by square.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.core import errors
from madad_jax.core.types import Batch, Metrics, Params
from madad_jax.methods import families
from madad_jax.models import image_networks

_PARTS = 4


@dataclasses.dataclass(frozen=True)
class MaskedPretraining:
    """The method; `frozen` is empty, parameters are those of `encoder`.

    `ratio` of the squares is hidden; slices are brought to `image_size` pixels a side first.
    """

    encoder: image_networks.MaskedEncoder
    image_size: int
    ratio: float = 0.75
    name: str = "masked_pretraining"

    def __post_init__(self):
        if not 0.0 < self.ratio < 1.0:
            raise errors.UserError(
                f"features.masked.ratio: found {self.ratio}, accepted: above 0 and below 1"
            )

    def init(self, key: jax.Array, batch_spec: Batch) -> Params:
        """Parameters of the autoencoder."""
        del batch_spec
        return self.encoder.init(key, (1, self.image_size, self.image_size, 1))

    def loss(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array, *, train: bool = True
    ) -> tuple[jax.Array, Metrics]:
        """Mean squared error of the hidden squares of the brain."""
        del frozen, train
        x = families.resize_images(batch["image"], self.image_size)
        visible = 1.0 - self._draw_hidden(key, len(x))
        guess = self.encoder.apply(params, x, visible, self._squares_a_side() ** 2 - self._hidden())
        brain = families.resize_images(
            batch["brain_mask"][..., None].astype(jnp.float32), self.image_size
        )
        counted = (1.0 - visible) * (self._squares(brain).max(-1) > 0.5)
        error = self._squares(jnp.square(x - guess)).mean(-1)
        loss = (error * counted).sum() / jnp.maximum(counted.sum(), 1)
        return loss, {"loss": loss}

    def anomaly_map(
        self, params: Params, frozen: Params, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """`map` [b,H,W] and `reconstruction` [b,H,W,1], the mean of three guesses a square."""
        del frozen
        x = families.resize_images(batch["image"], self.image_size)
        order = self._ranks(key, len(x))
        total = self._squares_a_side() ** 2

        def guess(number: jax.Array) -> jax.Array:
            shown = (order * _PARTS // total == number).astype(jnp.float32)
            hidden = 1.0 - shown.repeat(self.encoder.patch, 1).repeat(self.encoder.patch, 2)
            return self.encoder.apply(params, x, shown) * hidden[..., None]

        mean = jax.lax.map(guess, jnp.arange(_PARTS)).sum(0) / (_PARTS - 1)
        height, width = batch["image"].shape[1:3]
        mean = jax.image.resize(mean, (len(x), height, width, 1), "linear")
        maps = jnp.abs(batch["image"] - mean)[..., 0] / 2.0 * batch["brain_mask"]
        return {"map": maps, "reconstruction": mean}

    def _draw_hidden(self, key: jax.Array, count: int) -> Float[jax.Array, "b h w"]:
        """1 for exactly `_hidden` squares of each image."""
        return (self._ranks(key, count) < self._hidden()).astype(jnp.float32)

    def _squares_a_side(self) -> int:
        return self.image_size // self.encoder.patch

    def _hidden(self) -> int:
        """`ratio` of the squares, rounded; at least one, and one is left."""
        total = self._squares_a_side() ** 2
        return min(max(round(self.ratio * total), 1), total - 1)

    def _ranks(self, key: jax.Array, count: int) -> jax.Array:
        """The squares of each image in a random order, [b, h, w] of 0 .. h w - 1."""
        side = self._squares_a_side()
        noise = jax.random.uniform(key, (count, side * side))
        return jnp.argsort(jnp.argsort(noise)).reshape(count, side, side)

    def _squares(self, x: Float[jax.Array, "b H W 1"]) -> Float[jax.Array, "b h w p"]:
        """The pixels of each square."""
        b, height, width, _ = x.shape
        side = self.encoder.patch
        x = x.reshape(b, height // side, side, width // side, side).transpose(0, 1, 3, 2, 4)
        return x.reshape(b, height // side, width // side, side * side)
