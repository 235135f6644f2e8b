"""Networks by name, as small frozen objects of pure functions.

`denoiser`, `autoencoder` and `discriminator` take plain keyword arguments (a config section)
and return objects whose methods take parameters, a plain nested dict of float32 arrays, as an
argument. What the networks are written with does not show: no class of it appears in a
signature, a parameter tree or a checkpoint.
"""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from madad_jax.core import errors
from madad_jax.models import (
    attention,
    autoencoder_kl,
    chunks,
    convolution,
    dit,
    initialize,
    layers,
    penalty,
    unet,
)
from madad_jax.models import classifier as image_classifier
from madad_jax.models import discriminator as patchgan

Array = jax.Array
Params = Any  # nested dict of arrays


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Predicts the clean latent and which cells are untouched."""

    name: str
    _module: Any = dataclasses.field(repr=False)

    def init(self, key: Shaped[Array, "..."], latent_shape: tuple[int, int, int, int]) -> Params:
        """Fresh parameters for latents of `latent_shape` (b, h, w, c)."""
        x = jax.ShapeDtypeStruct((1, *latent_shape[1:]), jnp.float32)
        return initialize.init(self._module, key, x, jax.ShapeDtypeStruct((1,), jnp.int32))

    def apply(
        self,
        params: Params,
        x: Float[Array, "b h w c"],
        t: Int[Array, " b"],
        *,
        key: Shaped[Array, "..."] | None = None,
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w 1"] | None]:
        """(x0, visible_logit), both float32; `t` is the raw step index 0 .. T-1.

        Dropout is active exactly when `key` is given. sigmoid(visible_logit) is the probability
        that a cell is untouched (official polarity: 1 = kept).
        """
        rngs = None if key is None else {"dropout": key}
        call = functools.partial(
            self._module.apply, {"params": params}, x, t, train=key is not None, rngs=rngs
        )
        return penalty.keep(call) if self.penalised else call()

    @property
    def settings(self) -> dict[str, Any]:
        """The numbers that the network was built with, by the names of `denoiser`."""
        return _settings(self._module)

    @property
    def penalised(self) -> bool:
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
        """The first output of `apply` alone, for networks without a mask head."""
        return self.apply(params, x, t, key=key)[0]


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

        def together(a: Array, b: Array) -> tuple[Array, Array]:
            both = jnp.concatenate([a, b])
            first, second = jnp.split(
                self._module.apply({"params": params}, both, method="decode"), 2
            )
            return first, second

        def once(a: Array, _: Array) -> tuple[Array, Array]:
            image = self._module.apply({"params": params}, a, method="decode")
            return image, image

        def part(a: Array, b: Array) -> tuple[Array, Array]:
            return jax.lax.cond(jnp.any(a != b), together, once, a, b)

        return chunks.in_chunks(part, self.chunk, corrected, latent)

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


def denoiser(name: str = "dit", **kwargs: Any) -> Denoiser:
    """A denoiser by name; `kwargs` are its settings, all optional.

    "dit": size ("S/2"), patch_size, hidden_size, depth, num_heads, mlp_ratio, dropout,
    attention, remat, scan, residual_x0, dtype. A number overrides what the size name says.
    "unet": size ("XS" to "XL"), model_channels, num_heads, channel_mult, num_res_blocks,
    attention_rates, num_groups, dropout, attention, convolution ("auto"; models/convolution.py),
    remat, residual_x0, out_channels (0: as the input), mask_head (True), patch (1; squares of
    pixels folded into channels), sspcab, dtype.

    Raises:
        UserError: unknown name, unknown or contradictory settings.
    """
    builders = {"dit": _dit, "unet": _unet}
    if name not in builders:
        raise errors.UserError(
            f"denoiser.name: found {name!r}, accepted are {', '.join(sorted(builders))}"
        )
    return Denoiser(name=name, _module=builders[name](**kwargs))


def autoencoder(chunk: int = 0, **kwargs: Any) -> Autoencoder:
    """A KL autoencoder. Defaults are the published kl-f8 with one channel.

    `chunk`: images encoded or decoded at a time (0: all).

    in_channels=1, out_channels=1, channels=128, channel_mult=(1, 2, 4, 4) (the factor is
    patch * 2**(levels - 1)), num_res_blocks=2, patch=1 (pixels a side folded into channels
    first), latent_channels=4, embed_dim=None (the latent's depth outside, as latent_channels when
    None), decoder_channels=None, decoder_channel_mult=None,
    decoder_num_res_blocks=None (as the encoder when None; each decoder level has one block
    more than this number, as published), num_groups=32, mid_attention=True,
    attention="chunked", convolution="auto" (models/convolution.py), remat=False,
    dtype="float32".

    Raises:
        UserError: unknown or contradictory settings, named by key.
    """
    if chunk < 0:
        raise errors.UserError(f"autoencoder.chunk: found {chunk}, accepted: 0 or more")
    settings = checked_settings("autoencoder", autoencoder_kl.AutoencoderKL, kwargs, ("chunk",))
    defaults = {
        "embed_dim": settings.get("latent_channels", 4),
        "decoder_channels": settings.get("channels", 128),
        "decoder_channel_mult": settings.get("channel_mult", (1, 2, 4, 4)),
        "decoder_num_res_blocks": settings.get("num_res_blocks", 2),
    }
    for key, value in defaults.items():
        if settings.get(key) is None:
            settings[key] = value
    module = autoencoder_kl.AutoencoderKL(**settings)
    if len(module.decoder_channel_mult) != len(module.channel_mult):
        raise errors.UserError(
            f"autoencoder.decoder_channel_mult: found {len(module.decoder_channel_mult)} levels, "
            f"the encoder has {len(module.channel_mult)}"
        )
    if module.patch < 1:
        raise errors.UserError(f"autoencoder.patch: found {module.patch}, at least 1")
    # The encoder has layers of its base width too, the decoder only of its multiples.
    for mult in (1, *module.channel_mult):
        layers.check_groups("autoencoder.channels", module.channels * mult, module.num_groups)
    for mult in module.decoder_channel_mult:
        width = module.decoder_channels * mult
        layers.check_groups("autoencoder.decoder_channels", width, module.num_groups)
    return Autoencoder(
        factor=module.patch * 2 ** (len(module.channel_mult) - 1),
        latent_channels=module.embed_dim,
        output_kernel_path=("decoder", "conv_out", "kernel"),
        _module=module,
        chunk=chunk,
    )


def classifier(**kwargs: Any) -> Classifier:
    """A classifier of noised images: model_channels=32, channel_mult=(1, 2, 2, 4),
    num_res_blocks=2, num_groups=8, patch=1, dropout=0, dtype="float32".

    Raises:
        UserError: unknown settings, or channels that do not divide into groups.
    """
    module = image_classifier.Classifier(
        **checked_settings("classifier", image_classifier.Classifier, kwargs)
    )
    for mult in module.channel_mult:
        width = module.model_channels * mult
        layers.check_groups("classifier.model_channels", width, module.num_groups)
    return Classifier(_module=module)


def discriminator(**kwargs: Any) -> Discriminator:
    """A PatchGAN discriminator: channels=64, num_layers=3, dtype="float32"."""
    settings = checked_settings("discriminator", patchgan.PatchDiscriminator, kwargs)
    return Discriminator(_module=patchgan.PatchDiscriminator(**settings))


def _dit(size: str | None = "S/2", **kwargs: Any) -> dit.DiT:
    """Reads "S/2" (or "S" and patch_size), then lets explicit numbers override."""
    settings = checked_settings("denoiser", dit.DiT, kwargs, extra=("size",))
    merged: dict[str, Any] = {"patch_size": 2}
    if size is not None:
        stem, _, patch = size.partition("/")
        if stem not in dit.SIZES or (patch and not patch.isdigit()):
            raise errors.UserError(
                f"denoiser.size: found {size!r}, accepted are {', '.join(dit.SIZES)}, with a "
                'patch size as in "S/2"'
            )
        merged |= dict(zip(("hidden_size", "depth", "num_heads"), dit.SIZES[stem], strict=True))
        if patch:
            merged["patch_size"] = int(patch)
    merged |= {key: value for key, value in settings.items() if value is not None}
    missing = [k for k in ("hidden_size", "depth", "num_heads") if k not in merged]
    if missing:
        raise errors.UserError(f"denoiser.{missing[0]}: needed when denoiser.size is None")
    hidden, heads = merged["hidden_size"], merged["num_heads"]
    if hidden % heads or hidden % 4:
        raise errors.UserError(
            f"denoiser.hidden_size: {hidden} must be divisible by num_heads={heads} and by 4"
        )
    return dit.DiT(**merged)


def _unet(size: str | None = "L", **kwargs: Any) -> unet.UNet:
    """Reads the size name, then lets explicit numbers override."""
    settings = checked_settings("denoiser", unet.UNet, kwargs, extra=("size",))
    merged: dict[str, Any] = {}
    if size is not None:
        if size not in unet.SIZES:
            raise errors.UserError(
                f"denoiser.size: found {size!r}, accepted are {', '.join(unet.SIZES)}"
            )
        merged = dict(zip(("model_channels", "num_heads"), unet.SIZES[size], strict=True))
    merged |= {key: value for key, value in settings.items() if value is not None}
    for key in ("model_channels", "num_heads"):
        if key not in merged:
            raise errors.UserError(f"denoiser.{key}: needed when denoiser.size is None")
    module = unet.UNet(**merged)
    for mult in module.channel_mult:
        width = module.model_channels * mult
        layers.check_groups("denoiser.model_channels", width, module.num_groups)
        if width % module.num_heads:
            raise errors.UserError(
                f"denoiser.num_heads: {width} channels are not divisible by {module.num_heads}"
            )
    return module


def checked_settings(
    section: str, module_class: Any, kwargs: Mapping[str, Any], extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Checked keyword arguments of a module: known names, tuples for lists, known types."""
    accepted = [f.name for f in dataclasses.fields(module_class) if f.name not in _INTERNAL]
    for key in kwargs:
        if key not in accepted:
            near = difflib.get_close_matches(key, [*accepted, *extra], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(accepted)}"
            raise errors.UserError(f"{section}.{key}: unknown key; {hint}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    if "dtype" in settings:
        layers.check_dtype(f"{section}.dtype", settings["dtype"])
    if "attention" in settings:
        attention.check_implementation(f"{section}.attention", settings["attention"])
    if "convolution" in settings:
        convolution.check_implementation(f"{section}.convolution", settings["convolution"])
    return settings


def _settings(module: Any) -> dict[str, Any]:
    fields = (f.name for f in dataclasses.fields(module) if f.name not in _INTERNAL)
    return {name: getattr(module, name) for name in fields}


_INTERNAL = ("parent", "name")  # fields that every module has
