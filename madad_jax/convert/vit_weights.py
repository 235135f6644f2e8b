"""Published weights of DINOv2 and DINOv3, by the names of transformers, as our parameters.

The files are `model.safetensors` of facebook/dinov2-small, -base, -with-registers-small, -base, and
facebook/dinov3-vits16-pretrain-lvd1689m, -vitb16-. The patch embedding is a convolution there and
a linear map over (row, column, channel) here. The mask token, which pretraining alone uses, is
dropped.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from madad_jax.convert import containers, state_dict
from madad_jax.core import errors, messages
from madad_jax.core.types import Params
from madad_jax.models import image_networks

_OPTION = "features.weights"
_DROPPED = "embeddings.mask_token"
_BLOCK = re.compile(r"^blocks_(\d+)$")
# {leaf of ours: (tensor there, its leading axes of length 1)}
_TABLES = {
    "class_token": ("embeddings.cls_token", 2),
    "registers": ("embeddings.register_tokens", 1),
    "position_table": ("embeddings.position_embeddings", 1),
    "scale1": ("layer_scale1.lambda1", 0),
    "scale2": ("layer_scale2.lambda1", 0),
}
_DINOV2 = {
    "embed": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "blocks": "encoder.layer",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "proj": "attention.output.dense",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
_DINOV3 = {
    "embed": "embeddings.patch_embeddings",
    "norm": "norm",
    "blocks": "layer",
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "proj": "attention.o_proj",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
}


def read(path: str, encoder: image_networks.VisionTransformer) -> Params:
    """The parameters of `encoder` from a file of its published weights.

    Raises:
        UserError: no such file, damaged, weights of another network (tensors that are missing,
            unexpected or misshapen are listed), or values that are not finite.
    """
    if not epath.Path(path).exists():
        raise errors.UserError(f"{_OPTION}: no file {path}; empty leaves the network untrained")
    arrays = containers.read_arrays(path, _OPTION)
    try:
        params = to_ours(arrays, encoder)
    except errors.UserError as error:
        raise errors.UserError(f"{_OPTION}: {path}: {error}") from error
    odd = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if odd:
        raise errors.UserError(
            f"{_OPTION}: {path}: {len(odd)} tensors hold NaN or infinity, as {odd[0]}"
        )
    return params


def to_ours(
    state: Mapping[str, np.ndarray], encoder: image_networks.VisionTransformer
) -> dict[str, Any]:
    """A published state dict as our parameters (numpy, float32).

    Raises:
        UserError: tensors missing, unexpected or misshapen, listed.
    """
    side = encoder.patch
    shape = (1, side, side, 1)
    template = jax.eval_shape(lambda key: encoder.init(key, shape), jax.random.key(0))
    # Both families share names of tensors, and a table of positions tells them apart.
    words = _DINOV2 if "position_table" in template else _DINOV3
    kind = "DINOv2" if words is _DINOV2 else "DINOv3"
    naming = state_dict.Naming(
        kind=kind,
        module_name=lambda path: _module_name(path, words),
        unit_axes=lambda path: 0,
        tables=_TABLES,
    )
    kept = {key: value for key, value in state.items() if key != _DROPPED}
    patches = f"{words['embed']}.weight"
    if patches in kept:
        kernel = np.asarray(kept[patches])
        if kernel.ndim != 4 or kernel.shape[1:] != (3, side, side):
            raise errors.UserError(
                f"{kind} weights do not fit: {patches} {messages.shorten(kernel.shape)} instead of "
                f"{(encoder.width, 3, side, side)}"
            )
        kept[patches] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    return state_dict.to_ours(kept, template, naming)


def _module_name(path: tuple[str, ...], words: Mapping[str, str]) -> str:
    """("blocks_3", "fc1") -> "encoder.layer.3.mlp.fc1"."""
    parts = []
    for part in path:
        block = _BLOCK.match(part)
        parts.append(f"{words['blocks']}.{block[1]}" if block else words.get(part, part))
    return ".".join(parts)
