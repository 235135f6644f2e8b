"""Key names of diffusers' `AutoencoderKL` -> LDM's, which everything else here speaks.

Differences: `down_blocks.i.resnets.j` is `down.i.block.j`; `up_blocks` count from the lowest
resolution while `up` counts from the highest; the shortcut is called `conv_shortcut`; attention
is linear there ([C, C]; older files say query, key, value, proj_attn) and a 1x1 convolution
here ([C, C, 1, 1]).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from madad_jax.core import errors, messages

_ATTENTION = {
    "group_norm": "norm",
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
_RULES = (
    (re.compile(r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\."), r"encoder.down.\1.block.\2."),
    (
        re.compile(r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0\."),
        r"encoder.down.\1.downsample.",
    ),
    (re.compile(r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\."), r"decoder.up.\1.block.\2."),
    (re.compile(r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0\."), r"decoder.up.\1.upsample."),
    (re.compile(r"^(encoder|decoder)\.conv_norm_out\."), r"\1.norm_out."),
    (re.compile(r"\.conv_shortcut\."), r".nin_shortcut."),
)
_MIDDLE = re.compile(r"^(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)$")


def is_one(keys: Any) -> bool:
    """Whether the names are diffusers'."""
    return any(key.startswith(("encoder.down_blocks.", "decoder.up_blocks.")) for key in keys)


def to_ldm(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with LDM's names and shapes. Unknown names stay, to be listed later.

    Raises:
        UserError: two names that stand for one tensor.
    """
    levels = [
        int(key.split(".")[2])
        for key in state
        if key.startswith("decoder.up_blocks.") and key.split(".")[2].isdecimal()
    ]
    top = max(levels, default=0)
    renamed = {}
    for key, value in state.items():
        new = _rename(key, top)
        if re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", new) and np.ndim(value) == 2:
            value = value[:, :, None, None]
        if new in renamed:
            raise errors.UserError(
                f"{messages.shorten(key)}: stands for {new}, as another name does"
            )
        renamed[new] = value
    return renamed


def _rename(key: str, top: int) -> str:
    if middle := _MIDDLE.match(key):
        side, kind, number, rest = middle.groups()
        if kind == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{rest}".replace(
                "conv_shortcut", "nin_shortcut"
            )
        layer, _, leaf = rest.rpartition(".")
        return f"{side}.mid.attn_{int(number) + 1}.{_ATTENTION.get(layer, layer)}.{leaf}"
    for pattern, replacement in _RULES:
        key = pattern.sub(replacement, key)
    # Theirs run from the lowest resolution up.
    return re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up.{top - int(m[1])}.", key)
