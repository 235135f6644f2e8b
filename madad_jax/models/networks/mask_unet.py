"""A light U-Net from an image to a mask: additive skips, one residual block a level.

Squares of `patch` pixels are folded into channels first; each further level halves the sides. A
level's features come back up by a 1x1 convolution and nearest doubling, and are added to the
skip. The logit starts at `PRIOR` everywhere, about the share of pixels that are drawn upon.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import basic, convolution

PRIOR = -3.0
_EPSILON = 1e-5


class _Block(nn.Module):
    """x + norm(conv(silu(norm(conv(x))))), then SiLU."""

    num_groups: int
    convolution: str
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b h w c"]) -> Shaped[jax.Array, "b h w c"]:
        """[b, h, w, c] -> the same shape."""
        h = x
        for n in (1, 2):
            h = basic.Conv(
                x.shape[-1],
                use_bias=False,
                convolution=self.convolution,
                dtype=self.dtype,
                name=f"conv_{n}",
            )(h)
            h = basic.GroupNorm(self.num_groups, _EPSILON, self.dtype, name=f"norm_{n}")(h)
            h = nn.silu(h) if n == 1 else h
        return nn.silu(x + h)


class MaskUNet(nn.Module):
    """The whole network. Raises UserError for sides that are no multiples of
    patch * 2**(levels - 1)."""

    widths: tuple[int, ...] = (24, 64, 128, 192)
    patch: int = 2
    num_groups: int = 8
    convolution: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "b H W c"]) -> Float[jax.Array, "b H W"]:
        """Image and further channels -> logit, float32."""
        self._check_sides(x.shape)
        h = basic.Conv(self.widths[0], use_bias=False, dtype=self.dtype, name="stem")(
            basic.space_to_depth(x, self.patch)
        )
        h = nn.silu(basic.GroupNorm(self.num_groups, _EPSILON, self.dtype, name="stem_norm")(h))
        skips = []
        for level, width in enumerate(self.widths):
            if level:
                h = basic.Linear(width, dtype=self.dtype, name=f"down_{level}")(
                    basic.space_to_depth(h, 2)
                )
            h = self._block(f"encoder_{level}")(h)
            skips.append(h)
        for level in reversed(range(len(self.widths) - 1)):
            h = basic.Linear(self.widths[level], dtype=self.dtype, name=f"up_{level}")(h)
            h = self._block(f"decoder_{level}")(skips[level] + convolution.upsample_nearest(h))
        logit = basic.Conv(self.patch**2, name="out")(h.astype(jnp.float32))
        return basic.depth_to_space(logit, self.patch)[..., 0] + PRIOR

    def _block(self, name: str) -> _Block:
        return _Block(self.num_groups, self.convolution, self.dtype, name=name)

    def _check_sides(self, shape: tuple[int, ...]) -> None:
        multiple = self.patch * 2 ** (len(self.widths) - 1)
        if shape[1] % multiple or shape[2] % multiple:
            raise errors.UserError(
                f"pixel_mask.widths: {len(self.widths)} levels and patch={self.patch} need image "
                f"sides that are multiples of {multiple}, found {shape[1]}x{shape[2]}"
            )
