"""One table of what can be converted: names, sizes, and where a run keeps it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from madad_jax.convert import autoencoder_kl_weights, dit_weights, state_dict, unet_weights
from madad_jax.core import errors
from madad_jax.models.networks import dit as dit_model
from madad_jax.models.networks import unet as unet_model


@dataclasses.dataclass(frozen=True)
class Converted:
    """Our parameters and the sizes that they belong to.

    `settings` are keyword arguments of `models/registry.py`; `section` and `values` are what
    the run's config must say to build the same network.
    """

    kind: str
    params: Any
    settings: dict[str, Any]
    section: str
    values: dict[str, Any]
    notes: list[str]
    complete: bool = True  # False: a beginning for training, no detector


def convert(
    kind: str,
    state: Mapping[str, np.ndarray],
    *,
    num_heads: int = 0,
    num_groups: int = 0,
    adapt: str = "",
) -> Converted:
    """A published state dict as our parameters, checked both ways.

    Args:
        kind: "unet", "autoencoder" or "dit".
        state: {published key: float32 array}.
        num_heads: of attention (U-Net, DiT); 0 guesses it from the width.
        num_groups: of GroupNorm (U-Net, autoencoder); 0 is 32.
        adapt: "sum" or "mean" of the input kernel, for an autoencoder with 3 channels.

    Raises:
        UserError: sizes that cannot be, tensors missing, unexpected or misshapen.
    """
    if not 0 <= num_heads < 2**16 or not 0 <= num_groups < 2**16:
        raise errors.UserError(
            f"found {num_heads} heads, {num_groups} groups; accepted: 1 to 65535"
        )
    with state_dict.sizes_checked(kind):
        return _CONVERTERS[kind](state, num_heads, num_groups, adapt)


def _guessed(option: str, value: int, why: str) -> str:
    return f"guessed: {option}={value} ({why}); --{option}=N sets it"


def _unet(state: Mapping[str, Any], num_heads: int, num_groups: int, adapt: str) -> Converted:
    del adapt
    settings = unet_weights.infer_config(state, num_heads or None) | {
        "num_groups": num_groups or 32
    }
    params = unet_weights.to_ours(state, settings)
    usual = {"channel_mult": (1, 2, 4), "num_res_blocks": 2, "attention_rates": (1, 2, 4)}
    usual |= {"num_groups": 32}
    names = {widths: name for name, widths in unet_model.SIZES.items()}
    size = names.get((settings["model_channels"], settings["num_heads"]))
    values = {"name": "unet", "size": size or "L"}
    if not size:
        values |= {key: settings[key] for key in ("model_channels", "num_heads")}
    values |= {key: settings[key] for key, value in usual.items() if settings[key] != value}
    width, heads = settings["model_channels"], settings["num_heads"]
    notes = []
    if not num_heads and not size:
        why = f"its tensors do not tell it, and {width} channels are none of the published sizes"
        notes.append(_guessed("num_heads", heads, why))
    if not num_groups and not size:
        notes.append(_guessed("num_groups", 32, "as published; its tensors do not tell it"))
    return Converted("unet", params, settings, "denoiser", values, notes)


def _dit(state: Mapping[str, Any], num_heads: int, num_groups: int, adapt: str) -> Converted:
    del num_groups, adapt
    settings = dit_weights.infer_config(state, num_heads or None)
    if settings["mlp_ratio"] != 4.0:
        raise errors.UserError(
            f"DiT with an MLP of {settings['mlp_ratio']} times its width; accepted is 4"
        )
    params = dit_weights.to_ours(state, settings)
    sizes = {key: settings[key] for key in ("hidden_size", "depth", "num_heads")}
    values = {"name": "dit", "size": settings["size"] or f"S/{settings['patch_size']}"}
    stem = values["size"].split("/")[0]
    if dit_model.SIZES[stem] != tuple(sizes.values()):
        values |= sizes
    complete = "final_layer.mask.weight" in state
    notes = dit_weights.notes(state)
    if not num_heads and not settings["size"]:
        why = "one per 64 channels; its tensors do not tell it, and its size is none of the known"
        notes.append(_guessed("num_heads", settings["num_heads"], why))
    return Converted("dit", params, settings, "denoiser", values, notes, complete)


def _autoencoder(
    state: Mapping[str, Any], num_heads: int, num_groups: int, adapt: str
) -> Converted:
    del num_heads
    state, notes = adapt_channels(state, adapt)
    settings = autoencoder_kl_weights.infer_config(state, num_groups or 32)
    if settings["embed_dim"] != settings["latent_channels"]:
        raise errors.UserError(
            f"autoencoder with embed_dim {settings['embed_dim']} and z_channels "
            f"{settings['latent_channels']}; accepted are those where both are the same"
        )
    params = autoencoder_kl_weights.to_ours(state, settings)
    if not num_groups and settings["channels"] != 128:
        why = "as LDM's; its tensors do not tell it, and LDM's are 128 channels wide"
        notes = [*notes, _guessed("num_groups", 32, why)]
    values = {key: settings[key] for key in _AUTOENCODER_KEYS}
    for key in ("channels", "channel_mult", "num_res_blocks"):
        if settings[f"decoder_{key}"] != settings[key]:
            values[f"decoder_{key}"] = settings[f"decoder_{key}"]
    return Converted("autoencoder", params, settings, "autoencoder", values, notes)


def adapt_channels(
    state: Mapping[str, np.ndarray], adapt: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """An autoencoder of colour pictures made one of grey ones, and what was done in words.

    "sum" adds the input kernel up over the channels: the same codes as for the grey picture
    given three times. "mean" averages it: codes of a third of the contrast. The output
    convolution is averaged over its channels in both cases.

    Raises:
        UserError: three channels and no choice, or a number of channels other than 1 and 3.
    """
    inward, outward = "encoder.conv_in.weight", "decoder.conv_out.weight"
    channels = (
        state_dict.size(state, inward, 1, "autoencoder"),
        state_dict.size(state, outward, 0, "autoencoder"),
    )
    if channels == (1, 1):
        return dict(state), ["--adapt not used: the autoencoder has one channel"] if adapt else []
    if channels != (3, 3):
        raise errors.UserError(
            f"autoencoder of {channels[0]} input and {channels[1]} output channels; accepted are "
            "1 and, with --adapt, 3"
        )
    if not adapt:
        raise errors.UserError(
            "autoencoder of 3 channels, images here have 1: choose --adapt=sum (input kernel "
            "summed: a grey image as it would be coded in colour) or --adapt=mean"
        )
    reduce = np.sum if adapt == "sum" else np.mean
    new = dict(state)
    new[inward] = reduce(state[inward], axis=1, keepdims=True, dtype=np.float32)
    for leaf in ("weight", "bias"):
        key = f"decoder.conv_out.{leaf}"
        if key in state:
            new[key] = np.mean(state[key], axis=0, keepdims=True, dtype=np.float32)
    return new, [f"3 channels made 1: {adapt} of the input kernel, mean of the output kernel"]


def to_official(kind: str, params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> the published names and layouts."""
    return {"unet": unet_weights, "autoencoder": autoencoder_kl_weights, "dit": dit_weights}[
        kind
    ].to_official(params)


_AUTOENCODER_KEYS = (
    "channels",
    "channel_mult",
    "num_res_blocks",
    "latent_channels",
    "num_groups",
    "mid_attention",
)
_CONVERTERS: dict[str, Callable[..., Converted]] = {
    "unet": _unet,
    "autoencoder": _autoencoder,
    "dit": _dit,
}
