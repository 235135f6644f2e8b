"""Networks as pure functions: what a method may ask of each kind of network."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import chunks, initialize, moments

Array = jax.Array
Params = Any  # nested dict of arrays


class Output(NamedTuple):
    """What a denoiser answers, all float32.

    Attributes:
      x0: the clean latent or image, or what else the network was trained to predict.
      visible_logit: sigmoid of it is the probability that a cell is untouched (official
        polarity: 1 = kept); None for a network without a mask head.
      penalty: loss of the network's own blocks, unweighted (`layers/sspcab.py`). None where
        there is no such block, so that the program of other networks holds no trace of it.
      moments: second moments of what each layer multiplied, {path of the layer: [d, d]}
        (`layers/moments.py`), of a network that records them; else None.
    """

    x0: Float[Array, "b h w d"]
    visible_logit: Float[Array, "b h w 1"] | None = None
    penalty: Float[Array, ""] | None = None
    moments: dict[str, Array] | None = None


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Predicts the clean latent and which cells are untouched.

    With `records` each answer brings the second moments of what the layers multiplied.
    """

    name: str
    _module: Any = dataclasses.field(repr=False)
    records: bool = False

    def init(self, key: Shaped[Array, "..."], latent_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for latents of `latent_shape` (b, h, w, c)."""
        # One sample: parameters do not depend on the batch, and nothing is computed.
        x = jax.ShapeDtypeStruct((1, *latent_shape[1:]), jnp.float32)
        return initialize.init(self._module, key, x, jax.ShapeDtypeStruct((1,), jnp.int32))

    def apply(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        *,
        key: Shaped[Array, "..."] | None = None,
        **more: Float[Array, "b ..."],
    ) -> Output:
        """The network's answer; `t` is the raw step index 0 .. T-1.

        Dropout is active exactly when `key` is given. `more` are inputs that only some networks
        take: `condition` and `tokens` of a DiT.
        """
        rngs = None if key is None else {"dropout": key}
        # The mode follows from the key, so that no caller can ask for dropout without one.
        ask = functools.partial(
            self._module.apply, {"params": params}, x, t, train=key is not None, rngs=rngs, **more
        )
        if not self.records:
            return Output(*ask())
        answer, sown = ask(mutable=[moments.COLLECTION])
        return Output(*answer)._replace(moments=moments.by_layer(sown))

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers that the network was built with, by the names of `denoiser`."""
        return _settings(self._module)

    @property
    def has_penalty(self) -> bool:
        """Whether a block in the network has a loss of its own (`sspcab`)."""
        return getattr(self._module, "sspcab", False)

    def predict(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        *,
        key: Shaped[Array, "..."] | None = None,
    ) -> Float[Array, "b h w d"]:
        """`x0` of `apply` alone, for maps of networks without a mask head.

        A loss calls `apply`, whose penalty would be lost here.
        """
        return self.apply(params, x, t, key=key).x0


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Image <-> latent. `factor` is the ratio of the sides, `latent_channels` the depth.

    With `chunk` above 0, `encode`, `decode` and `decode_both` take at most so many images at a
    time (`chunks.in_chunks`).
    """

    factor: int
    latent_channels: int
    output_kernel_path: tuple[str, ...]
    _module: Any = dataclasses.field(repr=False)
    chunk: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers that the network was built with, by the names of `autoencoder`."""
        return _settings(self._module)

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c).

        Raises:
            UserError: a side is not divisible by `factor`.
        """
        self._check(image_shape)
        # The parameters do not depend on the side: the smallest image is enough.
        x = jax.ShapeDtypeStruct((1, self.factor, self.factor, image_shape[-1]), jnp.float32)
        return initialize.init(self._module, key, x)

    def encode(
        self, params: Params, image: Float[Array, "b H W c"]
    ) -> tuple[Float[Array, "b h w z"], Float[Array, "b h w z"]]:
        """Posterior (mean, logvar), float32, unscaled; logvar within [-30, 20]."""
        self._check(image.shape)
        return self._in_chunks(params, "encode", image)

    def decode(self, params: Params, latent: Float[Array, "b h w z"]) -> Float[Array, "b H W c"]:
        """Unscaled latent -> image, float32, not clipped."""
        return self._in_chunks(params, "decode", latent)

    def decode_both(
        self,
        params: Params,
        corrected: Float[Array, "b h w z"],
        latent: Float[Array, "b h w z"],
    ) -> tuple[Float[Array, "b H W c"], Float[Array, "b H W c"]]:
        """Both decoded in one batch; where the two are equal, decoded once.

        That is decided for each chunk as a whole, and for the batch without chunks.
        """

        def decode_together(a: Array, b: Array) -> tuple[Array, Array]:
            both = jnp.concatenate([a, b])
            first, second = jnp.split(
                self._module.apply({"params": params}, both, method="decode"), 2
            )
            return first, second

        def decode_once(a: Array, _: Array) -> tuple[Array, Array]:
            image = self._module.apply({"params": params}, a, method="decode")
            return image, image

        def decode_part(a: Array, b: Array) -> tuple[Array, Array]:
            # Decided on the device: healthy slices are often not corrected at all, and the decoder
            # is most of the cost of a map.
            return jax.lax.cond(jnp.any(a != b), decode_together, decode_once, a, b)

        return chunks.in_chunks(decode_part, self.chunk, corrected, latent)

    def _in_chunks(self, params: Params, method: str, x: Array) -> Any:
        apply = functools.partial(self._module.apply, {"params": params}, method=method)
        return chunks.in_chunks(apply, self.chunk, x)

    def decode_features(
        self, params: Params, latent: Float[Array, "b h w z"]
    ) -> Float[Array, "b hh ww d"]:
        """The decoder without its last convolution."""
        return self._module.apply({"params": params}, latent, method="decode_features")

    def output_layer(self, params: Params, h: Float[Array, "b hh ww d"]) -> Float[Array, "b H W c"]:
        """The last convolution: decode = output_layer after decode_features."""
        return self._module.apply({"params": params}, h, method="output_layer")

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape[1] % self.factor or shape[2] % self.factor:
            raise errors.UserError(
                f"image size {shape[1]}x{shape[2]} is not divisible by the autoencoder's "
                f"factor {self.factor}"
            )


@dataclasses.dataclass(frozen=True)
class Classifier:
    """One logit of a noised image."""

    _module: Any = dataclasses.field(repr=False)

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c)."""
        x = jax.ShapeDtypeStruct((1, *image_shape[1:]), jnp.float32)
        return initialize.init(self._module, key, x, jax.ShapeDtypeStruct((1,), jnp.int32))

    def apply(
        self, params: Params, x: Float[Array, "b H W c"], t: Int[Array, " b"]
    ) -> Float[Array, " b"]:
        """The logit, float32; `t` is the raw step index."""
        return self._module.apply({"params": params}, x, t)


@dataclasses.dataclass(frozen=True)
class Discriminator:
    """Tells decoded images from real ones, patch by patch."""

    _module: Any = dataclasses.field(repr=False)

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c)."""
        return initialize.init(self._module, key, jax.ShapeDtypeStruct(image_shape, jnp.float32))

    def apply(self, params: Params, image: Float[Array, "b H W c"]) -> Float[Array, "b h w 1"]:
        """Patch logits, float32; > 0 means real. Uses the statistics of this batch."""
        return self._module.apply({"params": params}, image)


def _settings(module: Any) -> dict[str, Any]:
    fields = (f.name for f in dataclasses.fields(module) if f.name not in _INTERNAL)
    return {name: getattr(module, name) for name in fields}


_INTERNAL = ("parent", "name")  # fields that every module has
