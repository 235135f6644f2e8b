"""The published DiT's state dict <-> our parameters, and its sizes read from the tensors.

Peebles & Xie 2023 (`DiT-XL-2-256x256.pt` and kin). Their patch embedding is a convolution,
ours a linear map over (row, column, channel); the last map's outputs are (row, column, channel)
in both. Published checkpoints learn the noise and its variance for ImageNet classes over 1,000
steps, ours the clean latent of a brain over 10: the weights are a beginning, not a detector.
Hence, on the way in,

- the label embedding is dropped and the position table, which is a formula, too;
- of a last layer with learned variance the first half of the channels is kept;
- the mask head, which they lack, is zero.

The way out adds the mask head as `final_layer.mask`, which the way in reads again.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from madad_jax.convert import state_dict
from madad_jax.core import errors
from madad_jax.models import registry
from madad_jax.models.networks import dit

KIND = "DiT"
DROPPED = re.compile(r"^(y_embedder\.|pos_embed$)")
_PATCH, _LAST = "x_embedder.proj.weight", "final_layer.linear"
_PARTS = (
    (re.compile(r"^blocks_(\d+)$"), r"blocks.\1"),
    (re.compile(r"^(attn|mlp)_(\w+)$"), r"\1.\2"),
    (re.compile(r"^adaLN_modulation_1$"), r"adaLN_modulation.1"),
    (re.compile(r"^t_embedder_mlp_(\d)$"), r"t_embedder.mlp.\1"),
    (re.compile(r"^x_embedder$"), r"x_embedder.proj"),
    (re.compile(r"^final_layer_adaLN_modulation_1$"), r"final_layer.adaLN_modulation.1"),
    (re.compile(r"^final_layer_(linear|mask)$"), r"final_layer.\1"),
)


def _module_name(path: tuple[str, ...]) -> str:
    """("blocks_3", "attn_qkv") -> "blocks.3.attn.qkv"."""
    parts = []
    for part in path:
        for pattern, replacement in _PARTS:
            part = pattern.sub(replacement, part)
        parts.append(part)
    return ".".join(parts)


# The patch embedding is brought to a matrix before and after.
NAMING = state_dict.Naming(kind=KIND, module_name=_module_name, unit_axes=lambda path: 0)


def infer_config(state: Mapping[str, Any], num_heads: int | None = None) -> dict[str, Any]:
    """Keyword arguments of `registry.denoiser("dit", ...)` that fit the tensors.

    The number of heads leaves no trace in the tensors. Unless given it is that of the published
    size of this width and depth, else one head per 64 channels.

    Raises:
        UserError: a tensor that sizes are read from is missing.
    """
    hidden = state_dict.size(state, _PATCH, 0, KIND)
    depth = state_dict.count(state, "blocks.{}.")
    known = {(w, d): (name, heads) for name, (w, d, heads) in dit.SIZES.items()}
    name, heads = known.get((hidden, depth), (None, max(1, hidden // 64)))
    patch = state_dict.size(state, _PATCH, 2, KIND)
    fc1 = state_dict.size(state, "blocks.0.mlp.fc1.weight", 0, KIND)
    return {
        "size": name and f"{name}/{patch}",
        "hidden_size": hidden,
        "depth": depth,
        "num_heads": num_heads or heads,
        "patch_size": patch,
        "mlp_ratio": fc1 / hidden,
    }


def latent_channels(state: Mapping[str, Any]) -> int:
    """Depth of the latent that the network reads."""
    return state_dict.size(state, _PATCH, 1, KIND)


def template(config: Mapping[str, Any], channels: int) -> Any:
    """Our parameter tree as shapes for a configuration."""
    denoiser = registry.denoiser("dit", **config)
    side = config["patch_size"]
    shape = (1, side, side, channels)
    return jax.eval_shape(lambda key: denoiser.init(key, shape), jax.random.key(0))


def notes(state: Mapping[str, Any]) -> list[str]:
    """What `to_ours` leaves out or makes up, in words."""
    said = []
    labels = [key for key in state if key.startswith("y_embedder.")]
    if labels:
        said.append(f"label embedding dropped ({len(labels)} tensors)")
    if "pos_embed" in state:
        said.append("position table dropped (it is a formula)")
    if _learns_variance(state):
        said.append("learned variance dropped: the first half of the output channels is kept")
    if "final_layer.mask.weight" not in state:
        said.append(
            "mask head: zero, as before training; this is an initialisation, not a detector"
        )
    return said


def to_ours(state: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Published state dict -> our parameters (numpy, float32).

    Raises:
        UserError: tensors missing, unexpected or misshapen, listed.
    """
    config = infer_config(state) if config is None else config
    channels, patch = latent_channels(state), config["patch_size"]
    kept = {key: value for key, value in state.items() if not DROPPED.match(key)}
    kernel = np.asarray(kept[_PATCH])
    if kernel.ndim != 4 or kernel.shape[2:] != (patch, patch):
        raise errors.UserError(f"{KIND} weights do not fit: {_PATCH} {kernel.shape}")
    kept[_PATCH] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    if _learns_variance(state):
        for leaf in ("weight", "bias"):
            value = np.asarray(kept[f"{_LAST}.{leaf}"])
            cells = value.reshape(patch * patch, 2, channels, *value.shape[1:])
            kept[f"{_LAST}.{leaf}"] = cells[:, 0].reshape(-1, *value.shape[1:])
    if not any(key.startswith("final_layer.mask.") for key in kept):
        kept["final_layer.mask.weight"] = np.zeros((patch * patch, len(kernel)), np.float32)
        kept["final_layer.mask.bias"] = np.zeros(patch * patch, np.float32)
    return state_dict.to_ours(kept, template(config, channels), NAMING)


def to_official(params: Any) -> dict[str, np.ndarray]:
    """Our parameters -> the published names, with the mask head as `final_layer.mask`."""
    state = state_dict.to_official(params, NAMING)
    cells = len(state["final_layer.mask.bias"])
    patch = round(cells**0.5)
    flat = state[_PATCH]
    kernel = flat.reshape(len(flat), patch, patch, -1).transpose(0, 3, 1, 2)
    return state | {_PATCH: np.ascontiguousarray(kernel)}


def _learns_variance(state: Mapping[str, Any]) -> bool:
    """Whether the last layer has twice the latent's channels, with a whole number of cells."""
    bias = state.get(f"{_LAST}.bias")
    weight = state.get(f"{_LAST}.weight")
    patch = state_dict.size(state, _PATCH, 2, KIND)
    doubled = 2 * latent_channels(state) * patch * patch
    return all(v is not None and np.shape(v)[:1] == (doubled,) for v in (bias, weight))
