"""The official U-Net's state dict <-> our parameters, and its sizes read from the tensors."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from madad_jax.convert import state_dict
from madad_jax.core import errors
from madad_jax.models import registry

KIND = "U-Net"
# Unit axes of the matrices: Conv1d for attention, Conv2d for the skips, none for linear maps.
UNIT_AXES = {"qkv": 1, "proj_out": 1, "skip_connection": 2}


def _module_name(path: tuple[str, ...]) -> str:
    """("input_blocks_1_0", "in_layers_2") -> "input_blocks.1.0.in_layers.2"."""
    return ".".join(re.sub(r"_(\d+)(?=_\d|$)", r".\1", part) for part in path)


NAMING = state_dict.Naming(
    kind=KIND, module_name=_module_name, unit_axes=lambda path: UNIT_AXES.get(path[-1], 0)
)


def infer_config(state: Mapping[str, np.ndarray], num_heads: int | None = None) -> dict[str, Any]:
    """Keyword arguments of `registry.denoiser("unet", ...)` that fit the tensors.

    The number of heads leaves no trace in the tensors. Unless given it is max(4, width // 32):
    4, 4, 6, 8, 10 for the official XS, S, M, L, XL.

    Raises:
        UserError: a tensor that sizes are read from is missing.
    """
    width = state_dict.size(state, "input_blocks.0.0.weight", 0, KIND)
    mults: list[int] = []
    rates: list[int] = []
    per_level: list[int] = [0]
    for block in range(1, state_dict.count(state, "input_blocks.{}.")):
        if f"input_blocks.{block}.0.op.weight" in state:
            per_level.append(0)
            continue
        features = state_dict.size(state, f"input_blocks.{block}.0.out_layers.3.weight", 0, KIND)
        rate = 2 ** (len(per_level) - 1)
        if per_level[-1] == 0:
            mults.append(features // width)
        per_level[-1] += 1
        if f"input_blocks.{block}.1.qkv.weight" in state and rate not in rates:
            rates.append(rate)
    if len(set(per_level)) != 1 or per_level[0] == 0:
        raise errors.UserError(
            f"not a {KIND} state dict: its levels have {per_level} blocks, accepted is one "
            "and the same number for all"
        )
    return {
        "size": None,
        "model_channels": width,
        "num_heads": num_heads or max(4, width // 32),
        "channel_mult": tuple(mults),
        "num_res_blocks": per_level[0],
        "attention_rates": tuple(rates),
    }


def template(config: Mapping[str, Any], latent_channels: int) -> Any:
    """Our parameter tree as shapes for a configuration."""
    denoiser = registry.denoiser("unet", **config)
    side = 2 ** len(config.get("channel_mult", (1, 2, 4)))
    shape = (1, side, side, latent_channels)
    return jax.eval_shape(lambda key: denoiser.init(key, shape), jax.random.key(0))


def to_ours(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Official state dict -> our parameters (numpy, float32).

    Args:
        state: {key: array}, without prefixes.
        config: of `registry.denoiser("unet", ...)`; inferred when None.

    Raises:
        UserError: tensors missing, unexpected or misshapen, listed.
    """
    config = infer_config(state) if config is None else config
    channels = state_dict.size(state, "input_blocks.0.0.weight", 1, KIND)
    return state_dict.to_ours(state, template(config, channels), NAMING)


def to_official(params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> a state dict that the official U-Net loads."""
    return state_dict.to_official(params, NAMING)
