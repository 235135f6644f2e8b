"""Small vision transformers of transformers' kinds with weights by formula (fixtures/README.md)."""

import pathlib
import re
import zlib

import numpy as np

from madad_jax.models import image_networks
from madad_jax.models.networks import vit

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
SIZE = {"hidden_size": 64, "depth": 2, "num_heads": 4}
# {name: (published network, pixels of its patch, image with other sides than its table)}
KINDS = {
    "dinov2": ("dinov2_s14", 14, (70, 112)),
    "dinov2_reg": ("dinov2_reg_s14", 14, (70, 112)),
    "dinov3": ("dinov3_s16", 16, (80, 128)),
}
TABLE_SIDE = 8


def encoder(kind, **options):
    """The published network at a small size."""
    settings = vit.NETWORKS[KINDS[kind][0]] | SIZE | {"table_side": TABLE_SIDE} | options
    return image_networks.VisionTransformer(_module=vit.VisionTransformer(**settings))


def _normal(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def weight(key, shape):
    """The tensor of a published name, all of which matter to the result."""
    n = _normal(key, shape)
    if re.search(r"(norm\d?\.weight|lambda1)$", key):
        n = 1 + 0.2 * n
    elif key.startswith("embeddings.") and not key.endswith(("weight", "bias")):
        n = 0.5 * n
    else:
        n = 0.05 * n if key.endswith("bias") else n / np.sqrt(np.prod(shape[1:]))
    return n.astype(np.float32)


def state(kind):
    """A state dict as transformers names it; names and shapes are those that it saved."""
    found = {}
    for line in (FIXTURES / "vit_keys.txt").read_text().splitlines():
        name, key, *shape = line.split()
        if name == kind:
            found[key] = weight(key, tuple(int(n) for n in shape))
    return found


def image(kind):
    """[1, H, W, 3]."""
    return _normal(f"image {kind}", (1, *KINDS[kind][2], 3)).astype(np.float32)
