"""From a config to networks: the autoencoder, the denoiser, a classifier, weights of LPIPS."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import config_dict

from madad_jax.anomaly_maps import healthy_groups as atlas
from madad_jax.assembly import data
from madad_jax.convert import containers, vit_weights
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.methods import autoencoder as autoencoder_method
from madad_jax.methods import masked_pretraining
from madad_jax.methods import shared as shared_lib
from madad_jax.methods.stacked import channels as channels_lib
from madad_jax.models import image_networks, interfaces, registry
from madad_jax.models.networks import lpips
from madad_jax.synthesis import learned

_DIT_NUMBERS = ("hidden_size", "depth", "num_heads")
_UNET_NUMBERS = (
    "model_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_rates",
    "num_groups",
    "patch",
)


def autoencoder(config: config_dict.ConfigDict) -> interfaces.Autoencoder:
    """The KL autoencoder of `config.autoencoder`."""
    c = config.autoencoder
    optional = {
        "decoder_channels": c.decoder_channels or None,
        "decoder_channel_mult": tuple(c.decoder_channel_mult) or None,
        "decoder_num_res_blocks": (
            None if c.decoder_num_res_blocks < 0 else c.decoder_num_res_blocks
        ),
    }
    return registry.autoencoder(
        channels=c.channels,
        channel_mult=tuple(c.channel_mult),
        num_res_blocks=c.num_res_blocks,
        patch=c.patch,
        latent_channels=c.latent_channels,
        num_groups=c.num_groups,
        mid_attention=c.mid_attention,
        attention=c.attention,
        convolution=c.convolution,
        chunk=c.chunk,
        remat=c.remat,
        dtype=c.dtype,
        **optional,
    )


def denoiser(config: config_dict.ConfigDict, **more: Any) -> interfaces.Denoiser:
    """The network of `config.denoiser`; `more` are settings that a method decides for it."""
    c = {k: v for k, v in config.denoiser.to_dict().items() if k != "init"}
    # 0 and () in the config stand for "as the size says"; each network knows its own numbers.
    overrides = {k: c.pop(k) for k in (*_DIT_NUMBERS, *_UNET_NUMBERS)}
    c |= {k: tuple(v) if isinstance(v, list) else v for k, v in overrides.items() if v}
    del c["convolution" if c["name"] == "dit" else "scan"]
    if c.pop("sspcab") > 0:
        c["sspcab"] = True
    return registry.denoiser(**c, **more)


def pixel_unet(config: config_dict.ConfigDict, out_channels: int = 1) -> interfaces.Denoiser:
    """The U-Net of `config.denoiser` for images: one output and no mask head.

    Raises UserError for another network.
    """
    if config.denoiser.name != "unet":
        raise errors.UserError(
            f"denoiser.name: found {config.denoiser.name!r} with method={config.method}, which "
            "works on pixels; accepted: unet"
        )
    return denoiser(config, mask_head=False, out_channels=out_channels)


def autoencoder_training(config: config_dict.ConfigDict) -> autoencoder_method.KLAutoencoder:
    """The method that trains the autoencoder."""
    c, discriminator = config.autoencoder, None
    if c.discriminator:
        discriminator = registry.discriminator(
            channels=c.disc_channels, num_layers=c.disc_layers, dtype=c.dtype
        )
    kind = autoencoder_method.KLAutoencoder
    if channels(config) is not None:
        kind = channels_lib.ContrastAutoencoder
    return kind(
        autoencoder=autoencoder(config),
        discriminator=discriminator,
        loss_options=autoencoder_method.Loss(**c.loss.to_dict()),
        crop=c.crop,
        sigma=smoothing_sigma(config),
    )


def classifier(
    config: config_dict.ConfigDict, settings: Mapping[str, Any]
) -> interfaces.Classifier:
    """A classifier for images with these settings, computed in the denoiser's type."""
    return registry.classifier(**settings, dtype=config.denoiser.dtype)


def features(config: config_dict.ConfigDict) -> shared_lib.Features:
    """The network of `config.features`. Raises UserError for an unknown one."""
    c = config.features
    pretraining = masked_pretraining_of(config)
    if pretraining is None:
        encoder = image_networks.vision_transformer(
            c.network, position_resize=c.position_resize, dtype=c.dtype
        )
        return shared_lib.Features(encoder, c.image_size, trained=bool(c.weights))
    if c.weights:
        raise errors.UserError(
            f"features.weights: found {c.weights!r} with features.network=masked, which is trained "
            "here; accepted: empty, or another network"
        )
    return shared_lib.Features(pretraining.encoder, c.image_size, trained=True)


def masked_pretraining_of(
    config: config_dict.ConfigDict,
) -> masked_pretraining.MaskedPretraining | None:
    """What trains the network of `config.features` here; None where it is a published one."""
    c = config.features
    if c.network != "masked":
        return None
    settings = c.masked.to_dict()
    ratio = settings.pop("ratio")
    encoder = image_networks.masked_autoencoder("features.masked", **settings, dtype=c.dtype)
    return masked_pretraining.MaskedPretraining(encoder, c.image_size, ratio)


def read_features(config: config_dict.ConfigDict) -> Params:
    """Weights of `features.weights`. Raises UserError as `vit_weights.read` does."""
    return vit_weights.read(config.features.weights, features(config).encoder)


def atlas_options(config: config_dict.ConfigDict) -> atlas.Options:
    """The atlas of healthy slices; configs of earlier versions have none."""
    return atlas.Options(**config.atlas.to_dict()) if "atlas" in config else atlas.Options()


def channels(config: config_dict.ConfigDict) -> channels_lib.Channels | None:
    """Several contrasts or neighbouring slices; None for one picture alone."""
    contrasts, beside = data.contrast_names(config.data.modality), data.neighbours(config)
    if len(contrasts) == 1 and not beside:
        return None
    return channels_lib.Channels(len(contrasts), beside, **config.contrasts.to_dict())


def lesion_options(config: config_dict.ConfigDict) -> learned.Options:
    """How lesions of a bank are pasted; configs of earlier versions do not say."""
    section = config.lesions.to_dict() if "lesions" in config else {}
    return learned.Options(**{key: v for key, v in section.items() if key != "bank"})


def smoothing_sigma(config: config_dict.ConfigDict) -> float:
    """`map.sigma` is given in pixels of a 256 image, whatever the size in use."""
    return config.map.sigma * config.data.image_size / 256.0


def read_lpips_weights(path: str) -> Any:
    """LPIPS-VGG weights from a `.npz`, `.safetensors` or PyTorch file.

    `networks/lpips.py` names the keys. Raises UserError when the file is missing, damaged, of
    another kind, or lacks a weight.
    """
    if not epath.Path(path).exists():
        raise errors.UserError(f"autoencoder.lpips: no file {path}; empty turns the term off")
    arrays = containers.read_arrays(path, "autoencoder.lpips")
    try:
        return lpips.prepare(arrays)
    except errors.UserError as error:
        raise errors.UserError(f"autoencoder.lpips: {path}: {error}") from error
