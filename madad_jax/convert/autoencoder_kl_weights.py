"""LDM's `AutoencoderKL` state dict <-> our parameters, and its sizes read from the tensors."""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from madad_jax.convert import state_dict
from madad_jax.models import registry

KIND = "autoencoder"
# Our module name -> the published one; what no line matches keeps its name.
RENAMES = (
    (re.compile(r"^(down|up)_(\d+)_block_(\d+)$"), r"\1.\2.block.\3"),
    (re.compile(r"^(down|up)_(\d+)_(downsample|upsample)$"), r"\1.\2.\3"),
    (re.compile(r"^mid_(block|attn)_(\d+)$"), r"mid.\1_\2"),
)


def _module_name(path: tuple[str, ...]) -> str:
    """("encoder", "down_0_block_1", "conv2") -> "encoder.down.0.block.1.conv2"."""
    parts = []
    for part in path:
        for pattern, replacement in RENAMES:
            part = pattern.sub(replacement, part)
        parts.append(part)
    return ".".join(parts)


# Every matrix of this network is a 1x1 Conv2d there.
NAMING = state_dict.Naming(kind=KIND, module_name=_module_name, unit_axes=lambda path: 2)


def infer_config(state: Mapping[str, np.ndarray], num_groups: int = 32) -> dict[str, Any]:
    """Keyword arguments of `registry.autoencoder(...)` that fit the tensors.

    The number of GroupNorm groups leaves no trace in the tensors; LDM has 32.

    Raises:
        UserError: a tensor that sizes are read from is missing.
    """

    def size(key: str, axis: int) -> int:
        return state_dict.size(state, key, axis, KIND)

    levels = state_dict.count(state, "encoder.down.{}.")
    channels = size("encoder.conv_in.weight", 0)
    widths = [size(f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels)]
    decoder_levels = state_dict.count(state, "decoder.up.{}.")
    decoder_widths = [
        size(f"decoder.up.{i}.block.0.conv1.weight", 0) for i in range(decoder_levels)
    ]
    # The decoder has no layer of its base width alone, only of its multiples.
    base = channels if all(w % channels == 0 for w in decoder_widths) else 0
    base = base or math.gcd(*decoder_widths)
    return {
        "in_channels": size("encoder.conv_in.weight", 1),
        "out_channels": size("decoder.conv_out.weight", 0),
        "channels": channels,
        "channel_mult": tuple(w // channels for w in widths),
        "num_res_blocks": state_dict.count(state, "encoder.down.0.block.{}."),
        "latent_channels": size("decoder.conv_in.weight", 1),
        "embed_dim": size("post_quant_conv.weight", 1),
        "decoder_channels": base,
        "decoder_channel_mult": tuple(w // base for w in decoder_widths),
        "decoder_num_res_blocks": state_dict.count(state, "decoder.up.0.block.{}.") - 1,
        "num_groups": num_groups,
        "mid_attention": "encoder.mid.attn_1.q.weight" in state,
    }


def template(config: Mapping[str, Any]) -> Any:
    """Our parameter tree as shapes for a configuration."""
    autoencoder = registry.autoencoder(**config)
    side = autoencoder.factor
    shape = (1, side, side, config.get("in_channels", 1))
    return jax.eval_shape(lambda key: autoencoder.init(key, shape), jax.random.key(0))


def to_ours(
    state: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """LDM state dict -> our parameters (numpy, float32).

    Args:
        state: {key: array}, without prefixes and without `loss.*`.
        config: of `registry.autoencoder(...)`; inferred when None.

    Raises:
        UserError: tensors missing, unexpected or misshapen, listed.
    """
    config = infer_config(state) if config is None else config
    return state_dict.to_ours(state, template(config), NAMING)


def to_official(params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> a state dict that LDM's `AutoencoderKL` loads."""
    return state_dict.to_official(params, NAMING)
