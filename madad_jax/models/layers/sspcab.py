"""Self-supervised predictive convolutional attentive block (Ristea et al., CVPR 2022).

    z_p = relu( sum_i  K_i * x ),   K_i: k' x k' kernels in the four corners of a field of
                                    2k' + 2d + 1 cells whose centre row and column are empty
    y   = z_p * sigmoid( W_2 relu( W_1 mean_hw z_p ) )               squeeze-excite, ratio r
    L   = lambda mean( (y - x)^2 )

A cell's answer is predicted from its surroundings alone, and the extra loss asks that it be the
cell itself: what cannot be guessed from around it is passed on badly. Written from the formulas
of the paper; k' = d = 1 is its best setting, r = 8, lambda = 0.1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.models.layers import basic

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")


class SSPCAB(nn.Module):
    """The block; `side` is k', `dilation` d."""

    side: int = 1
    dilation: int = 1
    reduction: int = 8
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: Shaped[jax.Array, "b h w c"]
    ) -> tuple[Shaped[jax.Array, "b h w c"], Float[jax.Array, ""]]:
        """[b, h, w, c] -> (y of the same shape, mean((y - x)^2) in float32, without lambda)."""
        height, width, channels = x.shape[1:]
        reach = self.side + self.dilation
        padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
        # A corner is a plain convolution of the part of the padded input that it can see.
        span = self.side - 1
        # Corners begin at the field's first cell and behind its empty centre row.
        starts = (0, reach + self.dilation + 1)
        total = jnp.zeros(x.shape, self.dtype)
        places = [(row, column) for row in starts for column in starts]
        for name, (row, column) in zip(CORNERS, places, strict=True):
            part = padded[:, row : row + height + span, column : column + width + span]
            conv = basic.Conv(channels, self.side, padding=(0, 0), dtype=self.dtype, name=name)
            total = total + conv(part)
        y = self._attend(nn.relu(total))
        # Returned and not collected on the side: a returned value also leaves a scan or a remat.
        return y, jnp.square((y - x).astype(jnp.float32)).mean()

    def _attend(self, x: jax.Array) -> jax.Array:
        """Every channel weighed by what all channels average to."""
        channels = x.shape[-1]
        # A tiny network has fewer channels than the ratio.
        hidden = max(1, channels // self.reduction)
        # Means over all cells lose digits in bfloat16.
        squeezed = x.astype(jnp.float32).mean((1, 2))
        h = nn.relu(basic.Linear(hidden, name="excite_0")(squeezed))
        gate = nn.sigmoid(basic.Linear(channels, name="excite_2")(h))
        return x * gate[:, None, None].astype(x.dtype)
