"""Which method `config.method` names, made from the config.

`METHODS` is the table: one line a method. A method's file has its `build`, which takes the shared
sections (`shared.py`) and its own, `config.methods.<name>`, whose `inference` part holds what may
change after training. docs/add_a_method.md walks through a new one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from ml_collections import config_dict

from madad_jax.assembly import networks
from madad_jax.assembly import shared as shared_lib
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.methods import (
    ae,
    anoddpm,
    autoddpm,
    base,
    dae,
    ddpm,
    deco_diff,
    disyre,
    dpmm,
    drawn_unet,
    itermask2,
    madad,
    maediff,
    memory_bank,
    noise_agnostic,
    pddpm,
    reflect,
    thor,
    vae,
    wolleb,
)
from madad_jax.methods import shared as settings_lib
from madad_jax.methods.stacked import channels, madad_stacked, stacked_mask
from madad_jax.methods.wrappers import ensemble, penalised

Stacked = Callable[[settings_lib.Shared, settings_lib.Settings, channels.Channels], base.Method]


@dataclasses.dataclass(frozen=True)
class Entry:
    """How a method is made.

    Attributes:
      build: (shared sections, own section) -> method.
      latent: stands on the frozen autoencoder (`frozen` has "autoencoder", "scaling_factor"),
        so that the stages before it train one; False: works on images.
      lpips: its `inference.lpips` may name weights of LPIPS.
      pixel_mask: key of its section with the widths of a mask network at image resolution, which
        is off where there are none; "": it has no such network.
      tokens: compares tokens of the network of `config.features`, and is fitted (`base.Fitted`).
      title: in reports; "": its key.
      stacked: (shared sections, own section, channels) -> method on several contrasts or
        neighbouring slices; None: it takes one picture alone.
    """

    build: Callable[[settings_lib.Shared, settings_lib.Settings], base.Method]
    latent: bool = False
    lpips: bool = False
    pixel_mask: str = ""
    tokens: bool = False
    title: str = ""
    stacked: Stacked | None = None


METHODS = {
    "madad": Entry(
        madad.build,
        latent=True,
        pixel_mask="pixel_head.network.widths",
        title="MAD-AD",
        stacked=madad_stacked.build,
    ),
    "ddpm": Entry(ddpm.build),
    "anoddpm": Entry(anoddpm.build),
    "pddpm": Entry(pddpm.build),
    "autoddpm": Entry(autoddpm.build, lpips=True),
    "noise_agnostic": Entry(noise_agnostic.build),
    "thor": Entry(thor.build, lpips=True),
    "itermask2": Entry(itermask2.build),
    "wolleb": Entry(wolleb.build),
    "ae": Entry(ae.build),
    "vae": Entry(vae.build),
    "dae": Entry(dae.build),
    "maediff": Entry(maediff.build),
    "disyre": Entry(disyre.build),
    "drawn_unet": Entry(
        drawn_unet.build,
        pixel_mask="network.widths",
        title="U-Net on drawn anomalies",
        stacked=stacked_mask.build_drawn_unet,
    ),
    "memory_bank": Entry(memory_bank.build, tokens=True, title="Memory bank of tokens"),
    "dpmm": Entry(dpmm.build, tokens=True, title="DPMM of tokens"),
    "deco_diff": Entry(deco_diff.build, latent=True),
    "reflect": Entry(reflect.build, latent=True),
}


def detector(config: config_dict.ConfigDict) -> base.Method:
    """The method whose maps are reported, with `config.ensemble` around it where that is on.

    Raises UserError for an unknown `config.method`.
    """
    entry, settings = _entry(config), _section(config)
    method = _build(config, entry, settings)
    weight = config.denoiser.sspcab
    if weight > 0:
        method = penalised.Penalised(method, weight, method.name)
    c = config.ensemble
    if c.draws == 1 and not c.flips and c.combine == "none":
        return method
    sigma = networks.smoothing_sigma(config)
    return ensemble.Ensemble(method, c.draws, c.flips, c.combine, sigma)


def fitted(config: config_dict.ConfigDict) -> base.Fitted | None:
    """The method on tokens, without what is around it; None for a method of another kind."""
    entry = _entry(config)
    return entry.build(shared_lib.ConfigShared(config), _section(config)) if entry.tokens else None


def _build(
    config: config_dict.ConfigDict, entry: Entry, settings: settings_lib.Settings
) -> base.Method:
    """The method for one picture, or for several."""
    shared, several = shared_lib.ConfigShared(config), networks.channels(config)
    if several is None:
        return entry.build(shared, settings)
    if entry.stacked is None:
        accepted = ", ".join(name for name, one in METHODS.items() if one.stacked)
        raise errors.UserError(
            f"data.modality, data.neighbours: found {config.data.modality} and "
            f"{config.data.neighbours} with method={config.method}, which takes one picture; "
            f"accepted: one modality and 0, or method={accepted}"
        )
    return entry.stacked(shared, settings, several)


def learns_from_labels(config: config_dict.ConfigDict) -> bool:
    """Whether the detector trains on slices that somebody labelled abnormal."""
    return config.method == "wolleb" and _section(config).labels == "split"


def stands_on_latents(config: config_dict.ConfigDict) -> bool:
    """Whether the method stands on the autoencoder's latents."""
    return _entry(config).latent


def has_pixel_mask(config: config_dict.ConfigDict) -> bool:
    """Whether the method has a mask network at image resolution, which may see an atlas."""
    key = _entry(config).pixel_mask
    section: Any = config.methods.get(config.method, {}) if key else {}
    for name in key.split("."):
        # Configs of earlier versions have no such section.
        section = section.get(name, {})
    return bool(section)


def reads_lesion_bank(config: config_dict.ConfigDict) -> bool:
    """Whether a training with these options pastes lesions of a bank: into one picture, since a
    bank holds no others of the same lesions."""
    one = networks.channels(config) is None
    return one and (has_pixel_mask(config) or draws_learned(config))


def draws_learned(config: config_dict.ConfigDict) -> bool:
    """Whether the synthesis asks for lesions of a bank, so that training needs one."""
    c = config.synthesis
    mixes = config.method in ("madad", "dae", "deco_diff", "reflect")
    return mixes and c.kind == "learned" and c.share > 0


def title(config: config_dict.ConfigDict) -> str:
    """The method's name as reports write it."""
    name = _entry(config).title or config.method
    untrained = _entry(config).tokens and not networks.features(config).trained
    return f"{name}, untrained backbone" if untrained else name


def read_weights(config: config_dict.ConfigDict) -> Params:
    """Weights beside the autoencoder's that the method reads and does not train.

    Raises UserError for a file that is missing or holds other weights.
    """
    path = _section(config).inference.lpips if _entry(config).lpips else ""
    return {"lpips": networks.read_lpips_weights(path)} if path else {}


def _entry(config: config_dict.ConfigDict) -> Entry:
    if config.method not in METHODS:
        raise errors.UserError(f"method: found {config.method!r}, accepted: {', '.join(METHODS)}")
    return METHODS[config.method]


def _section(config: config_dict.ConfigDict) -> settings_lib.Settings:
    """The method's own settings."""
    name = config.method
    if name not in config.methods:
        raise errors.UserError(
            f"method: found {name!r}, but the config has no section methods.{name}; start from "
            f"configs/baselines/{name}.py, which brings it"
        )
    return settings_lib.Settings(config.methods[name].to_dict(), f"methods.{name}")
