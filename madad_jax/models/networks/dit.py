"""Masked DiT: a diffusion transformer with two heads, clean latent and mask logit.

Peebles & Xie 2023 (arXiv 2212.09748) as published: patchify, fixed 2-D sine-cosine positions,
blocks with adaLN-Zero conditioned on the time step, zero-initialised last layers. Departures:
no class label; a second final linear map gives one mask logit per latent cell (MAD-AD, arXiv
2502.16943: the network also predicts which cells are untouched). Both final maps stand behind
the same adaLN norm, so that a published `final_layer` can initialise the first.

At initialisation both heads are exactly zero: x0 = 0 and p(visible) = 1/2 everywhere.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import attention as attention_lib
from madad_jax.models.layers import basic, moments

# name: (hidden_size, depth, num_heads). S to XL are the published sizes, Ti is the field's tiny
# ViT; T and Mi are ours, for CPUs (1.9M and 5.5M parameters). Written "S/2" with a patch size.
SIZES = {
    "T": (128, 6, 4),
    "Mi": (192, 8, 3),
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
FREQUENCIES = 256  # width of the sinusoid of the time step


def patchify(x: Shaped[jax.Array, "b h w c"], patch: int) -> Shaped[jax.Array, "b n d"]:
    """Cuts into `patch`-sided squares: [b, h/p * w/p, p*p*c], rows first, channels last."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(
    x: Shaped[jax.Array, "b n d"], patch: int, height: int, width: int
) -> Shaped[jax.Array, "b h w c"]:
    """Undoes `patchify` for an array of `height` x `width` cells."""
    rows, columns = height // patch, width // patch
    x = x.reshape(x.shape[0], rows, columns, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], height, width, -1)


def position_embedding(dim: int, rows: int, columns: int) -> Float[np.ndarray, "n dim"]:
    """Fixed 2-D sine-cosine table, [rows * columns, dim] float32; `dim` divisible by 4.

    The first half of the channels encodes the column and the second the row, each as
    [sin, cos] of position / 10000^(k / (dim/4)): the published order.
    """
    omega = 1.0 / 10000.0 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [axis.reshape(-1, 1) * omega for axis in (column, row)]
    parts = [f(angle) for angle in angles for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    return x * (1 + scale[:, None]) + shift[:, None]


def _of_time(features: int, name: str, scheme: str | float, dtype: str) -> basic.Linear:
    """A map of the embedded time step, which is the same in all data."""
    return basic.Linear(features, init_scheme=scheme, dtype=dtype, moments=False, name=name)


class Block(nn.Module):
    """Transformer block with adaLN-Zero: both branches are gated by the time step."""

    num_heads: int
    mlp_ratio: float
    dropout: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, x: Shaped[jax.Array, "b n d"], c: Shaped[jax.Array, "b d"], train: bool
    ) -> Shaped[jax.Array, "b n d"]:
        """Tokens `x` conditioned on `c`, the embedded time step."""
        b, n, width = x.shape

        def linear(features: int, name: str) -> basic.Linear:
            return basic.Linear(features, init_scheme="xavier", dtype=self.dtype, name=name)

        drop = nn.Dropout(self.dropout, deterministic=not train)
        modulation = _of_time(6 * width, "adaLN_modulation_1", "zero", self.dtype)(nn.silu(c))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

        h = _modulate(basic.layer_norm(x, self.dtype), shift1, scale1)
        qkv = basic.ParallelLinear(3, width, dtype=self.dtype, name="attn_qkv")(h)
        qkv = qkv.reshape(b, n, 3, self.num_heads, -1)
        h = attention_lib.attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], self.attention)
        h = drop(linear(width, "attn_proj")(h.reshape(b, n, width)))
        x = x + gate1[:, None] * h

        h = _modulate(basic.layer_norm(x, self.dtype), shift2, scale2)
        h = drop(nn.gelu(linear(int(width * self.mlp_ratio), "mlp_fc1")(h), approximate=True))
        h = drop(linear(width, "mlp_fc2")(h))
        return x + gate2[:, None] * h


class DiT(nn.Module):
    """The whole network. Latent sides must be multiples of `patch_size`.

    `remat` recomputes each block in the backward pass. `scan` compiles one block and runs it
    `depth` times: the same parameters and numbers (draws of dropout aside), a program whose size
    does not grow with the depth, and in which no compiler can undo `remat`.
    """

    hidden_size: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    attention: str = "chunked"
    remat: bool = False
    scan: bool = False
    residual_x0: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "b h w c"],
        t: Int[jax.Array, " b"],
        train: bool = False,
        condition: Float[jax.Array, "b d"] | None = None,
        tokens: Float[jax.Array, "b n d"] | None = None,
    ) -> tuple[Float[jax.Array, "b h w c"], Float[jax.Array, "b h w 1"]]:
        """Noised latent and raw step index -> (clean latent, logit of "untouched"), float32.

        `condition` is added to the embedded time step and `tokens` to the embedded patches
        (`models/adapters.py`).
        """
        _, height, width, channels = x.shape
        patch, dim = self.patch_size, self.hidden_size
        if height % patch or width % patch:
            raise errors.UserError(
                f"denoiser.patch_size: latent of {height}x{width} cells does not divide into "
                f"patches of {patch}"
            )

        def linear(
            features: int, name: str, scheme: str | float, dtype: str = self.dtype
        ) -> basic.Linear:
            return basic.Linear(features, init_scheme=scheme, dtype=dtype, name=name)

        # The raw step index, not t / T: so the published weights were trained.
        c = basic.timestep_embedding(t, FREQUENCIES)
        c = nn.silu(_of_time(dim, "t_embedder_mlp_0", 0.02, self.dtype)(c))
        c = _of_time(dim, "t_embedder_mlp_2", 0.02, self.dtype)(c)
        h = linear(dim, "x_embedder", "xavier")(patchify(x, patch))
        # Without them the program is the one of before.
        c = c if condition is None else c + condition.astype(c.dtype)
        h = h if tokens is None else h + tokens.astype(h.dtype)
        # A constant of the program, no parameter: checkpoints fit any latent size.
        table = position_embedding(dim, height // patch, width // patch)
        h = h + jnp.asarray(table, dtype=h.dtype)
        h = self._blocks(h, c, train)
        name = "final_layer_adaLN_modulation_1"
        modulation = _of_time(2 * dim, name, "zero", self.dtype)(nn.silu(c))
        shift, scale = jnp.split(modulation, 2, axis=-1)
        h = _modulate(basic.layer_norm(h, self.dtype), shift, scale)
        # The two heads in float32: they are small, and losses and thresholds read them.
        cells = patch * patch
        x0 = linear(cells * channels, "final_layer_linear", "zero", "float32")(h)
        logit = linear(cells, "final_layer_mask", "zero", "float32")(h)
        x0 = unpatchify(x0, patch, height, width)
        if self.residual_x0:
            x0 = x.astype(jnp.float32) + x0
        return x0, unpatchify(logit, patch, height, width)

    def _blocks(self, h: jax.Array, c: jax.Array, train: bool) -> jax.Array:
        settings = {
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
            "dropout": self.dropout,
            "attention": self.attention,
            "dtype": self.dtype,
        }
        names = [f"blocks_{i}" for i in range(self.depth)]
        # Initialisation names every block, so that checkpoints do not know of the loop; so do the
        # moments of what its layers read.
        if not self.scan or self.is_initializing() or moments.recording(self):
            block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
            for name in names:
                h = block(**settings, name=name)(h, c, train)
            return h
        # Parameters are those of blocks by name, stacked here: a checkpoint knows no difference.
        params = [self.variables["params"][name] for name in names]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        drops = train and self.dropout > 0
        keys = jax.random.split(self.make_rng("dropout"), self.depth) if drops else None
        block = Block(**settings, parent=None)

        def one(h: jax.Array, entry: tuple[Any, Any]) -> tuple[jax.Array, None]:
            weights, key = entry
            rngs = {"dropout": key} if drops else None
            return block.apply({"params": weights}, h, c, train, rngs=rngs), None

        return jax.lax.scan(jax.checkpoint(one) if self.remat else one, h, (stacked, keys))[0]
