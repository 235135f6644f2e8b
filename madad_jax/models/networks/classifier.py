"""A classifier of noised images: the downward half of the U-Net, time step and all.

As the guiding classifiers of Dhariwal & Nichol 2021 (residual blocks with the embedded level,
strided convolutions), with a mean over space at the end where theirs pool by attention.
"""

import flax.linen as nn
import jax
from jaxtyping import Float, Int

from madad_jax.models.layers import basic
from madad_jax.models.networks import unet


class Classifier(nn.Module):
    """Image and raw step index -> one logit."""

    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 2, 4)
    num_res_blocks: int = 2
    num_groups: int = 8
    patch: int = 1
    dropout: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "b h w c"], t: Int[jax.Array, " b"], train: bool = False
    ) -> Float[jax.Array, " b"]:
        """[b, h, w, c], [b] -> [b], float32."""
        width = self.model_channels
        emb = basic.timestep_embedding(t, width)
        emb = basic.Linear(4 * width, dtype=self.dtype, name="time_embed_0")(emb)
        emb = basic.Linear(4 * width, dtype=self.dtype, name="time_embed_2")(nn.silu(emb))
        h = basic.space_to_depth(x, self.patch)
        h = basic.Conv(width, dtype=self.dtype, name="conv_in")(h)
        for level, mult in enumerate(self.channel_mult):
            if level:
                h = unet.Downsample(self.dtype, name=f"down_{level}")(h)
            for block in range(self.num_res_blocks):
                name = f"block_{level}_{block}"
                settings = (width * mult, self.num_groups, self.dropout, "plain", self.dtype)
                h = unet.ResBlock(*settings, name=name)(h, emb, train)
        h = nn.silu(basic.GroupNorm(self.num_groups, unet.NORM_EPSILON, name="norm")(h))
        return basic.Linear(1, name="out")(h.mean((1, 2)))[:, 0]
