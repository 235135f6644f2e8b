"""Values of a config that no builder looks at before hours are spent."""

import math

from ml_collections import config_dict

from madad_jax.assembly import methods, networks
from madad_jax.core import errors
from madad_jax.data.input import augment
from madad_jax.metrics import scan_stacks

_AT_LEAST_ONE = (
    "data.image_size",
    "data.latent_draws",
    "eval.batch_size",
    "log.every_steps",
    "log.validate_every_steps",
    "checkpoint.every_steps",
    "checkpoint.keep_latest",
)
_CHOICES = {
    "eval.checkpoint": ("best", "latest"),
    "eval.protocol": ("slices", "both"),
    "eval.postprocess": tuple(scan_stacks.PRESETS),
    "data.augment": ("none", *augment.STYLES),
    "data.latents": ("live", "cached"),
}


def check_values(config: config_dict.ConfigDict) -> None:
    """Raises UserError for the first key whose value cannot be."""
    values = config.to_dict()
    for key in _AT_LEAST_ONE:
        section, name = key.split(".")
        if values[section][name] < 1:
            raise errors.UserError(f"{key}: found {values[section][name]}, must be at least 1")
    for key, accepted in _CHOICES.items():
        section, name = key.split(".")
        if values[section][name] not in accepted:
            found = values[section][name]
            raise errors.UserError(f"{key}: found {found!r}, accepted: {', '.join(accepted)}")
    cached = config.data.latents == "cached"
    if cached and not methods.stands_on_latents(config):
        raise errors.UserError(
            f"data.latents: found 'cached' with method={config.method}, which works on images; "
            "set data.latents=live"
        )
    _check_pixel_mask(config, cached)
    _check_channels(config, cached)
    if config.denoiser.init and methods.fitted(config) is not None:
        raise errors.UserError(
            f"denoiser.init: found {config.denoiser.init!r} with method={config.method}, which is "
            "computed from healthy slices and starts from no weights; accepted: empty"
        )
    bank = config.lesions.bank if "lesions" in config else ""
    if bank and not methods.reads_lesion_bank(config):
        raise errors.UserError(
            f"lesions.bank: found {bank!r}, which nothing reads; accepted with one contrast, no "
            "neighbouring slices, and a mask at image resolution (drawn_unet, or the pixel head of "
            "madad), or synthesis.kind=learned and a synthesis.share above 0 of madad, dae, "
            "deco_diff, reflect"
        )
    if cached and config.synthesis.share > 0:
        raise errors.UserError(
            f"synthesis.share: found {config.synthesis.share} with data.latents=cached, whose "
            "latents hold no image to change; set synthesis.share=0 or data.latents=live"
        )
    rate = config.eval.false_positive_rate
    if not 0.0 < rate < 1.0:
        raise errors.UserError(f"eval.false_positive_rate: found {rate}, must lie between 0 and 1")
    _check_false_positives(config.eval.get("false_positives_per_scan", ()))
    for key, section in (("autoencoder.train", config.autoencoder.train), ("train", config.train)):
        if not 0.0 <= section.ema_decay < 1.0:
            raise errors.UserError(
                f"{key}.ema_decay: found {section.ema_decay}, accepted: 0 to below 1"
            )


def _check_pixel_mask(config: config_dict.ConfigDict, cached: bool) -> None:
    """A mask at image resolution, the atlas that it compares with, and what both need."""
    has_mask, head = methods.has_pixel_mask(config), "methods.madad.pixel_head.network.widths"
    groups = networks.atlas_options(config).groups
    if groups and not has_mask:
        raise errors.UserError(
            f"atlas.groups: found {groups} with method={config.method}, which has no mask at image "
            f"resolution to compare with it; set atlas.groups=0, or {head} of madad"
        )
    if not has_mask or not methods.stands_on_latents(config):
        return
    if cached:
        raise errors.UserError(
            f"data.latents: found 'cached' with {head}, and the mask head at image resolution "
            "learns from images; set data.latents=live"
        )
    c = config.synthesis
    if c.share > 0 and c.kind not in ("generic", "learned"):
        raise errors.UserError(
            f"synthesis.kind: found {c.kind!r} with {head}, which draws the anomalies that the "
            "denoiser learns from too; accepted: generic, learned"
        )


def _check_channels(config: config_dict.ConfigDict, cached: bool) -> None:
    """Several contrasts or neighbours, and what does not go with them yet."""
    several, where = networks.channels(config), "with several contrasts or neighbours"
    if several is None:
        return
    if cached:
        raise errors.UserError(f"data.latents: found 'cached' {where}, accepted: live")
    c = config.ensemble
    if c.draws != 1 or c.flips or c.combine != "none":
        raise errors.UserError(
            f"ensemble.draws, flips, combine: found {c.draws}, {c.flips}, {c.combine} {where}, "
            "accepted: 1, False, none"
        )


def _check_false_positives(found: object) -> None:
    numbers = found if isinstance(found, tuple | list) else ()
    # bool is an int, and NaN is not above 0.
    good = [n for n in numbers if isinstance(n, int | float) and n is not True and 0 < n < math.inf]
    if not isinstance(found, tuple | list) or len(good) < len(numbers):
        raise errors.UserError(
            f"eval.false_positives_per_scan: found {found!r}, accepted: numbers above 0, "
            "as (0.5, 1, 2, 4)"
        )
