"""Networks by name, as small frozen objects of pure functions.

`denoiser`, `autoencoder` and `discriminator` take plain keyword arguments (a config section)
and return objects whose methods take parameters, a plain nested dict of float32 arrays, as an
argument. What the networks are written with does not show: no class of it appears in a
signature, a parameter tree or a checkpoint.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from madad_jax.core import errors
from madad_jax.models import interfaces
from madad_jax.models.layers import attention, basic, convolution
from madad_jax.models.networks import autoencoder_kl, dit, unet
from madad_jax.models.networks import classifier as image_classifier
from madad_jax.models.networks import discriminator as patchgan


def denoiser(name: str = "dit", **kwargs: Any) -> interfaces.Denoiser:
    """A denoiser by name; `kwargs` are its settings, all optional.

    "dit": size ("S/2"), patch_size, hidden_size, depth, num_heads, mlp_ratio, dropout,
    attention, remat, scan, residual_x0, dtype. A number overrides what the size name says.
    "unet": size ("XS" to "XL"), model_channels, num_heads, channel_mult, num_res_blocks,
    attention_rates, num_groups, dropout, attention, convolution ("auto"; layers/convolution.py),
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
    return interfaces.Denoiser(name=name, _module=builders[name](**kwargs))


def autoencoder(chunk: int = 0, **kwargs: Any) -> interfaces.Autoencoder:
    """A KL autoencoder. Defaults are the published kl-f8 with one channel.

    `chunk`: images encoded or decoded at a time (0: all).

    in_channels=1, out_channels=1, channels=128, channel_mult=(1, 2, 4, 4) (the factor is
    patch * 2**(levels - 1)), num_res_blocks=2, patch=1 (pixels a side folded into channels
    first), latent_channels=4, embed_dim=None (the latent's depth outside, as latent_channels when
    None), decoder_channels=None, decoder_channel_mult=None,
    decoder_num_res_blocks=None (as the encoder when None; each decoder level has one block
    more than this number, as published), num_groups=32, mid_attention=True,
    attention="chunked", convolution="auto" (models/layers/convolution.py), remat=False,
    dtype="float32".

    Raises:
        UserError: unknown or contradictory settings, named by key.
    """
    if chunk < 0:
        raise errors.UserError(f"autoencoder.chunk: found {chunk}, accepted: 0 or more")
    # `chunk` is no field of the module, but a near miss of it should be named as well.
    settings = check_settings("autoencoder", autoencoder_kl.AutoencoderKL, kwargs, ("chunk",))
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
        basic.check_groups("autoencoder.channels", module.channels * mult, module.num_groups)
    # GroupNorm would fail too, but deep in a trace and without the key's name.
    for mult in module.decoder_channel_mult:
        width = module.decoder_channels * mult
        basic.check_groups("autoencoder.decoder_channels", width, module.num_groups)
    return interfaces.Autoencoder(
        factor=module.patch * 2 ** (len(module.channel_mult) - 1),
        latent_channels=module.embed_dim,
        output_kernel_path=("decoder", "conv_out", "kernel"),
        _module=module,
        chunk=chunk,
    )


def classifier(**kwargs: Any) -> interfaces.Classifier:
    """A classifier of noised images: model_channels=32, channel_mult=(1, 2, 2, 4),
    num_res_blocks=2, num_groups=8, patch=1, dropout=0, dtype="float32".

    Raises:
        UserError: unknown settings, or channels that do not divide into groups.
    """
    module = image_classifier.Classifier(
        **check_settings("classifier", image_classifier.Classifier, kwargs)
    )
    for mult in module.channel_mult:
        width = module.model_channels * mult
        basic.check_groups("classifier.model_channels", width, module.num_groups)
    return interfaces.Classifier(_module=module)


def discriminator(**kwargs: Any) -> interfaces.Discriminator:
    """A PatchGAN discriminator: channels=64, num_layers=3, dtype="float32"."""
    settings = check_settings("discriminator", patchgan.PatchDiscriminator, kwargs)
    return interfaces.Discriminator(_module=patchgan.PatchDiscriminator(**settings))


def _dit(size: str | None = "S/2", **kwargs: Any) -> dit.DiT:
    """A DiT of size "S/2" (or "S" with patch_size); explicit numbers take precedence."""
    settings = check_settings("denoiser", dit.DiT, kwargs, extra=("size",))
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
    # None stands for a number that the size decides.
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
    """A U-Net of the named size; explicit numbers take precedence."""
    settings = check_settings("denoiser", unet.UNet, kwargs, extra=("size",))
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
        basic.check_groups("denoiser.model_channels", width, module.num_groups)
        if width % module.num_heads:
            raise errors.UserError(
                f"denoiser.num_heads: {width} channels are not divisible by {module.num_heads}"
            )
    return module


def check_settings(
    section: str, module_class: Any, kwargs: Mapping[str, Any], extra: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Checked keyword arguments of a module: known names, tuples for lists, known types."""
    accepted = [
        f.name for f in dataclasses.fields(module_class) if f.name not in interfaces._INTERNAL
    ]
    for key in kwargs:
        if key not in accepted:
            # `extra` are keys that are read before: they are accepted, just not by the module.
            near = difflib.get_close_matches(key, [*accepted, *extra], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(accepted)}"
            raise errors.UserError(f"{section}.{key}: unknown key; {hint}")
    # Configs read from JSON have lists, which a frozen module cannot hash.
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    if "dtype" in settings:
        basic.check_dtype(f"{section}.dtype", settings["dtype"])
    if "attention" in settings:
        attention.check_implementation(f"{section}.attention", settings["attention"])
    if "convolution" in settings:
        convolution.check_implementation(f"{section}.convolution", settings["convolution"])
    return settings
