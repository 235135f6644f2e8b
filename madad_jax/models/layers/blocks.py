"""Blocks that the U-Net and the KL autoencoder share.

Only `Upsample` is the same in both. Blocks of one name in `unet.py` and `autoencoder_kl.py` differ
in what a checkpoint holds or a number depends on, and stay apart:

- ResBlock: the U-Net's adds the embedded time step, has dropout and ends in a convolution that
  starts from zero. Parameters bear other names, and the eps of GroupNorm is 1e-5 against 1e-6.
- AttentionBlock: several heads from one `qkv`, ordered head by head, against one head from three
  maps `q`, `k`, `v`.
- Downsample: one zero on every side (`op`) against zeros on the right and at the bottom (`conv`).
"""

import flax.linen as nn
import jax
from jaxtyping import Shaped

from madad_jax.models.layers import basic


class Upsample(nn.Module):
    """Nearest doubling, then a 3x3 convolution."""

    convolution: str
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b hh ww c"]:
        """Doubles both sides."""
        # `conv` is the published name in both networks: checkpoints are read by it.
        return basic.Conv(
            x.shape[-1], upsample=True, convolution=self.convolution, dtype=self.dtype, name="conv"
        )(x)
