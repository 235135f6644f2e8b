"""Vision transformers of DINOv2 and DINOv3: an image to one vector a patch.

Published: Oquab et al. 2023 (arXiv 2304.07193), Darcet et al. 2023 (registers, 2309.16588), Simeoni
et al. 2025 (DINOv3, 2508.10104). Pre-norm blocks with a learned scale of each branch, exact GELU:

    x <- x + s1 * proj(attention(norm1(x)))      x <- x + s2 * fc2(gelu(fc1(norm2(x))))

In front of the patches stand a class token and, by network, registers. DINOv2 adds a learned table
of positions, resized to the image's patches. Its registers get none. DINOv3 turns queries and keys
of the patches by angles of their place (RoPE), and has no bias on its keys.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import attention as attention_lib
from madad_jax.models.layers import basic, initialize
from madad_jax.models.networks import dit

_SMALL = {"hidden_size": 384, "num_heads": 6}
_BASE = {"hidden_size": 768, "num_heads": 12}
_DINOV2 = {"patch": 14, "positions": "table"}
_REGISTERS = _DINOV2 | {"registers": 4, "position_resize": "antialias"}
_DINOV3 = {"patch": 16, "positions": "rope", "registers": 4, "epsilon": 1e-5, "key_bias": False}
NETWORKS: dict[str, dict[str, Any]] = {
    "dinov2_s14": _SMALL | _DINOV2,
    "dinov2_b14": _BASE | _DINOV2,
    "dinov2_reg_s14": _SMALL | _REGISTERS,
    "dinov2_reg_b14": _BASE | _REGISTERS,
    "dinov3_s16": _SMALL | _DINOV3,
    "dinov3_b16": _BASE | _DINOV3,
}
RESIZES = ("size", "offset")  # of a table without registers
_ROPE_BASE = 100.0
_SHARPNESS = -0.75  # PyTorch's cubic kernel; JAX has -0.5 alone


class Norm(nn.Module):
    """LayerNorm with scale and bias; statistics in float32."""

    epsilon: float
    dtype: str

    @nn.compact
    def __call__(self, x: Shaped[jax.Array, "b n d"]) -> Shaped[jax.Array, "b n d"]:
        """The same shape, in `dtype`."""
        scale = self.param("scale", initialize.ones, (x.shape[-1],))
        bias = self.param("bias", initialize.zeros, (x.shape[-1],))
        return (basic.layer_norm(x, "float32", self.epsilon) * scale + bias).astype(self.dtype)


class Block(nn.Module):
    """One block; `rotation` is (cos, sin) [n, d / heads], or None."""

    num_heads: int
    epsilon: float
    key_bias: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: Shaped[jax.Array, "b n d"],
        rotation: tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e"]] | None,
    ) -> Shaped[jax.Array, "b n d"]:
        """Tokens to tokens."""
        b, n, width = x.shape

        def linear(features: int, name: str, use_bias: bool = True) -> basic.Linear:
            return basic.Linear(features, 0.02, self.dtype, use_bias, name=name)

        def norm(name: str) -> Norm:
            return Norm(self.epsilon, self.dtype, name=name)

        def scaled(h: jax.Array, name: str) -> jax.Array:
            return h * self.param(name, initialize.ones, (width,)).astype(self.dtype)

        h = norm("norm1")(x)
        heads = (b, n, self.num_heads, -1)
        query = linear(width, "query")(h).reshape(heads)
        key = linear(width, "key", self.key_bias)(h).reshape(heads)
        value = linear(width, "value")(h).reshape(heads)
        if rotation is not None:
            query, key = _rotate(query, *rotation), _rotate(key, *rotation)
        h = attention_lib.attend(query, key, value, self.attention)
        x = x + scaled(linear(width, "proj")(h.reshape(b, n, width)), "scale1")
        h = nn.gelu(linear(4 * width, "fc1")(norm("norm2")(x)), approximate=False)
        return x + scaled(linear(width, "fc2")(h), "scale2")


class VisionTransformer(nn.Module):
    """The whole network without a head; image sides must be multiples of `patch`.

    `positions` is "table" or "rope". `table_side` is that of the learned table (518 / 14).
    `position_resize` says how it is brought to other sides: "size" (transformers), "offset" (the
    authors' code, whose factor is (side + 0.1) / table_side) or "antialias" (both, with registers).
    """

    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    patch: int = 14
    positions: str = "table"
    registers: int = 0
    table_side: int = 37
    position_resize: str = "size"
    epsilon: float = 1e-6
    key_bias: bool = True
    attention: str = "chunked"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[jax.Array, "b H W 3"]) -> Float[jax.Array, "b h w d"]:
        """Normalised colour images to the last block's tokens after the last norm, float32."""
        b, height, width, _ = x.shape
        if height % self.patch or width % self.patch:
            raise errors.UserError(
                f"features.image_size: found {height}x{width} pixels, accepted: multiples of "
                f"{self.patch} with this network"
            )
        rows, columns, dim = height // self.patch, width // self.patch, self.hidden_size
        embed = basic.Linear(dim, init_scheme=0.02, dtype=self.dtype, name="embed")
        h = embed(dit.patchify(x, self.patch))
        first = self.param("class_token", initialize.normal(0.02), (dim,))[None]
        rotation = None
        if self.positions == "table":
            shape = (1 + self.table_side**2, dim)
            table = self.param("position_table", initialize.normal(0.02), shape)
            first = first + table[:1]
            h = h + self._resized(jnp.asarray(table[1:]), rows, columns).astype(self.dtype)
        else:
            rotation = rotations(dim // self.num_heads, rows, columns, 1 + self.registers)
        if self.registers:
            tokens = self.param("registers", initialize.normal(0.02), (self.registers, dim))
            first = jnp.concatenate([first, tokens])
        first = jnp.broadcast_to(first.astype(self.dtype), (b, *first.shape))
        h = jnp.concatenate([first, h], axis=1)
        settings = (self.num_heads, self.epsilon, self.key_bias, self.attention, self.dtype)
        for i in range(self.depth):
            h = Block(*settings, name=f"blocks_{i}")(h, rotation)
        h = Norm(self.epsilon, "float32", name="norm")(h)
        return h[:, 1 + self.registers :].reshape(b, rows, columns, dim)

    def _resized(self, table: jax.Array, rows: int, columns: int) -> jax.Array:
        """[table_side^2, d] -> [rows * columns, d]."""
        side = self.table_side
        if (rows, columns) != (side, side):
            grid = table.reshape(side, side, -1)
            if self.position_resize == "antialias":
                shape = (rows, columns, grid.shape[-1])
                grid = jax.image.resize(grid, shape, "cubic", precision=jax.lax.Precision.HIGHEST)
            else:
                offset = 0.1 if self.position_resize == "offset" else 0.0
                across = (cubic_matrix(side, n, offset) for n in (rows, columns))
                grid = jnp.einsum(
                    "hr,wc,rcd->hwd", *across, grid, precision=jax.lax.Precision.HIGHEST
                )
            table = grid.reshape(rows * columns, -1)
        return table


def rotations(
    head_size: int, rows: int, columns: int, unturned: int
) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e"]]:
    """(cos, sin) of RoPE's angles, float32; the first `unturned` tokens stay as they are.

    Angles are 2 pi y / p_i and 2 pi x / p_i, p_i = 100^(4i / head_size), for centres of patches
    in [-1, 1] of each axis by itself; the table stands twice, for both halves of a head.
    """
    periods = _ROPE_BASE ** (4 * np.arange(head_size // 4) / head_size)
    centres = [2 * (np.arange(n) + 0.5) / n - 1 for n in (rows, columns)]
    grid = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = np.tile((2 * np.pi * grid / periods).reshape(len(grid), -1), 2)
    angles = np.concatenate([np.zeros((unturned, head_size)), angles])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: jax.Array, cos: np.ndarray, sin: np.ndarray) -> jax.Array:
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos[:, None] + turned * sin[:, None]).astype(x.dtype)


def cubic_matrix(before: int, after: int, offset: float) -> Float[np.ndarray, "after before"]:
    """Weights of PyTorch's bicubic resize without antialiasing, float32.

    `offset` is added to the side of the result where the scale is computed.
    """
    place = (np.arange(after) + 0.5) * before / (after + offset) - 0.5
    low = np.floor(place).astype(int)
    matrix = np.zeros((after, before))
    for tap in range(-1, 3):
        d, a = np.abs(place - (low + tap)), _SHARPNESS
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        # Beyond the edge PyTorch reads the edge once more.
        column = np.clip(low + tap, 0, before - 1)
        np.add.at(matrix, (np.arange(after), column), np.where(d <= 1, near, far))
    return matrix.astype(np.float32)
