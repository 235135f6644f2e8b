"""Networks on images that are no denoisers, as small frozen objects of pure functions.

As in `registry.py`: settings are plain keyword arguments, parameters plain nested dicts that are
passed in.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.layers import basic, initialize
from madad_jax.models.networks import bottleneck, mask_unet, masked_encoder, vit

Array = jax.Array
Params = Any  # nested dict of arrays

# Of the photographs that published encoders were trained on, in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class FeatureEncoder(Protocol):
    """An image to a vector for each of its patches.

    Attributes:
      patch: side of a patch in pixels.
      width: length of a vector.
    """

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        ...

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, 1)."""
        ...

    def tokens(self, params: Params, image: Float[Array, "b H W 1"]) -> Float[Array, "b h w d"]:
        """Vectors of images in [-1, 1]; sides must be multiples of `patch`."""
        ...


@dataclasses.dataclass(frozen=True)
class Reconstructor:
    """Image -> image through a bottleneck, for the autoencoder baselines."""

    _module: Any = dataclasses.field(repr=False)

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c).

        Raises:
            UserError: a side is not divisible by 2 ** levels.
        """
        multiple = 2**self._module.levels
        if image_shape[1] % multiple or image_shape[2] % multiple:
            raise errors.UserError(
                f"bottleneck.levels: {self._module.levels} halvings need image sides that are "
                f"multiples of {multiple}, found {image_shape[1]}x{image_shape[2]}"
            )
        return initialize.init(self._module, key, _images(image_shape))

    def apply(
        self,
        params: Params,
        image: Float[Array, "b H W c"],
        *,
        key: Shaped[Array, "..."] | None = None,
    ) -> tuple[Float[Array, "b H W c"], Array, Array | None]:
        """(reconstruction, mean, log sigma; None where it is not variational), float32.

        With `key`, dropout is active and a variational latent is drawn.
        """
        rngs = None
        if key is not None:
            # Two streams from one key: a draw of the latent must not change with the dropout rate.
            rngs = dict(zip(("dropout", "latent"), jax.random.split(key), strict=True))
        return self._module.apply({"params": params}, image, train=key is not None, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class MaskedEncoder:
    """Guesses hidden squares of an image from the visible ones; `patch` is their side.

    A `FeatureEncoder` too: with all squares visible, its encoder gives a vector for each.
    """

    patch: int
    _module: Any = dataclasses.field(repr=False)

    @property
    def width(self) -> int:
        """Length of a vector of `tokens`."""
        return self._module.hidden_size

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c)."""
        # The masks' shape; sides that do not divide are refused by the network itself.
        cells = (1, image_shape[1] // self.patch, image_shape[2] // self.patch)
        visible = jax.ShapeDtypeStruct(cells, jnp.float32)
        return initialize.init(self._module, key, _images(image_shape), visible)

    def apply(
        self,
        params: Params,
        image: Float[Array, "b H W c"],
        visible: Float[Array, "b h w"],
        keep: int = 0,
    ) -> Float[Array, "b H W c"]:
        """The guess of the whole image; squares with visible = 0 are not read.

        `keep`: exactly so many are visible in each image, which computes less; 0: not known.
        """
        return self._module.apply({"params": params}, image, visible, keep=keep)

    def tokens(self, params: Params, image: Float[Array, "b H W 1"]) -> Float[Array, "b h w d"]:
        """The encoder's vectors, float32, where every square is visible."""
        b, height, width, _ = image.shape
        visible = jnp.ones((b, height // self.patch, width // self.patch))
        return self._module.apply({"params": params}, image, visible, features=True)


@dataclasses.dataclass(frozen=True)
class VisionTransformer:
    """DINOv2 or DINOv3 (`networks/vit.py`) as a `FeatureEncoder`.

    A slice has one grey channel: it is repeated for the three of photographs, brought from [-1, 1]
    to [0, 1], and normalised as photographs are.
    """

    _module: Any = dataclasses.field(repr=False)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self._module.patch

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._module.hidden_size

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters, which are those of any image."""
        del image_shape
        shape = (1, self.patch, self.patch, 3)
        return initialize.init(self._module, key, jax.ShapeDtypeStruct(shape, jnp.float32))

    def apply(self, params: Params, image: Float[Array, "b H W 3"]) -> Float[Array, "b h w d"]:
        """Vectors of normalised colour images, float32."""
        return self._module.apply({"params": params}, image)

    def tokens(self, params: Params, image: Float[Array, "b H W 1"]) -> Float[Array, "b h w d"]:
        """Vectors of slices in [-1, 1], float32."""
        colour = (0.5 * (image + 1.0) - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD)
        return self.apply(params, colour)


@dataclasses.dataclass(frozen=True)
class MaskNetwork:
    """An image, with what further channels there are, to the logit of a mask of its pixels."""

    _module: Any = dataclasses.field(repr=False)

    def init(self, key: Shaped[Array, "..."], image_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for images of `image_shape` (b, H, W, c)."""
        return initialize.init(self._module, key, _images(image_shape))

    def apply(self, params: Params, image: Float[Array, "b H W c"]) -> Float[Array, "b H W"]:
        """The logit, float32."""
        return self._module.apply({"params": params}, image)


def _images(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32)


def reconstructor(**kwargs: Any) -> Reconstructor:
    """A bottleneck autoencoder (`networks/bottleneck.py`). Defaults as published for 128 pixels.

    kind="dense" ("spatial"), variational=False, levels=4, channels=32, max_channels=128,
    latent=128, dropout=0.1, num_groups=8, dtype="float32".

    Raises:
        UserError: unknown or contradictory settings.
    """
    settings = registry.check_settings("bottleneck", bottleneck.BottleneckAutoencoder, kwargs)
    module = bottleneck.BottleneckAutoencoder(**settings)
    if module.kind not in bottleneck.KINDS:
        raise errors.UserError(
            f"bottleneck.kind: found {module.kind!r}, accepted are {', '.join(bottleneck.KINDS)}"
        )
    # Only the dense bottleneck has the two maps to mean and log sigma.
    if module.variational and module.kind != "dense":
        raise errors.UserError('bottleneck.kind: a variational one must be "dense"')
    for width in (module.channels, module.max_channels):
        basic.check_groups("bottleneck.channels", width, module.num_groups)
    return Reconstructor(_module=module)


def masked_autoencoder(section: str = "maediff", **kwargs: Any) -> MaskedEncoder:
    """A masked autoencoder of the settings in `section` of a config.

    patch=8, hidden_size=128, depth=4, decoder_depth=1, num_heads=4, dtype="float32".

    Raises:
        UserError: unknown or contradictory settings.
    """
    settings = registry.check_settings(section, masked_encoder.MaskedEncoder, kwargs)
    module = masked_encoder.MaskedEncoder(**settings)
    if min(module.patch, module.hidden_size, module.num_heads) < 1:
        raise errors.UserError(
            f"{section}.patch, hidden_size, num_heads: found {module.patch}, "
            f"{module.hidden_size}, {module.num_heads}; accepted: at least 1"
        )
    if module.hidden_size % module.num_heads or module.hidden_size % 4:
        raise errors.UserError(
            f"{section}.hidden_size: {module.hidden_size} must be divisible by "
            f"num_heads={module.num_heads} and by 4"
        )
    return MaskedEncoder(patch=module.patch, _module=module)


def vision_transformer(network: str = "dinov2_s14", **kwargs: Any) -> VisionTransformer:
    """A published vision transformer by its name in `vit.NETWORKS`.

    position_resize="size" ("offset"; of a table without registers), attention="chunked",
    dtype="float32".

    Raises:
        UserError: an unknown name, or unknown or contradictory settings.
    """
    if network not in vit.NETWORKS:
        raise errors.UserError(
            f"features.network: found {network!r}, accepted are {', '.join(vit.NETWORKS)}, masked"
        )
    settings = registry.check_settings("features", vit.VisionTransformer, kwargs)
    resize = settings.get("position_resize", "size")
    if resize not in vit.RESIZES:
        raise errors.UserError(
            f"features.position_resize: found {resize!r}, accepted are {', '.join(vit.RESIZES)}"
        )
    # With registers there is one way that positions were resized, and with RoPE nothing to resize.
    return VisionTransformer(_module=vit.VisionTransformer(**(settings | vit.NETWORKS[network])))


def mask_network(**kwargs: Any) -> MaskNetwork:
    """A light U-Net from an image to a mask (`networks/mask_unet.py`).

    widths=(24, 64, 128, 192), patch=2, num_groups=8, convolution="auto", dtype="float32".

    Raises:
        UserError: unknown settings, or widths that groups do not divide.
    """
    settings = registry.check_settings("pixel_mask", mask_unet.MaskUNet, kwargs)
    module = mask_unet.MaskUNet(**settings)
    if not module.widths or module.patch < 1:
        raise errors.UserError(
            f"pixel_mask.widths, patch: found {module.widths}, {module.patch}; accepted: at least "
            "one width, at least 1"
        )
    for width in module.widths:
        basic.check_groups("pixel_mask.widths", width, module.num_groups)
    return MaskNetwork(_module=module)
