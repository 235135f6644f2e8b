"""A masked autoencoder (He et al., CVPR 2022) that guesses hidden squares from visible ones.

Squares of `patch` pixels become tokens with fixed 2-D sine-cosine positions. The encoder's
blocks let every token attend to visible tokens alone; then the hidden ones are replaced by one
learned token, and the decoder's blocks and a linear map give the pixels of all squares. He et
al. cut hidden tokens out; here they stay in place, unread, so that shapes do not depend on
how many are hidden. Pre-norm blocks with GELU; no class token.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from madad_jax.core import errors
from madad_jax.models.layers import basic, initialize
from madad_jax.models.networks import dit


class Block(nn.Module):
    """Pre-norm attention over the tokens that `visible` admits, and an MLP of ratio 4."""

    num_heads: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Shaped[jax.Array, "b n d"], visible: Shaped[jax.Array, "b n"]
    ) -> Shaped[jax.Array, "b n d"]:
        """Where nothing is visible, every token counts."""
        b, n, width = x.shape

        def linear(features: int, name: str) -> basic.Linear:
            return basic.Linear(features, init_scheme="xavier", dtype=self.dtype, name=name)

        qkv = basic.ParallelLinear(3, width, dtype=self.dtype, name="qkv")
        parts = qkv(basic.layer_norm(x, self.dtype)).reshape(b, n, 3, self.num_heads, -1)
        q, k, v = jnp.moveaxis(parts, 2, 0)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        hidden = (visible < 0.5) & (visible > 0.5).any(-1, keepdims=True)
        # Not -inf: a row of -inf alone would make the softmax NaN.
        logits = jnp.where(hidden[:, None, None], -1e9, logits / math.sqrt(q.shape[-1]))
        weights = jax.nn.softmax(logits).astype(v.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, n, width)
        x = x + linear(width, "proj")(mixed)
        h = nn.gelu(linear(4 * width, "fc1")(basic.layer_norm(x, self.dtype)))
        return x + linear(width, "fc2")(h)


class MaskedEncoder(nn.Module):
    """Image and visible squares -> a guess of the whole image."""

    patch: int = 8
    hidden_size: int = 128
    depth: int = 4
    decoder_depth: int = 1
    num_heads: int = 4
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "b H W c"],
        visible: Float[jax.Array, "b h w"],
        features: bool = False,
        keep: int = 0,
    ) -> Float[jax.Array, "b H2 W2 c2"]:
        """`visible` [b, H/patch, W/patch] is 1 where the square may be read.

        `features` gives the encoder's normalised tokens [b, H/patch, W/patch, hidden_size] in
        place of the image. `keep` says how many squares of each image are visible: the encoder
        then computes those alone, as He et al. do, with the same result. 0: it computes all.
        """
        _, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise errors.UserError(
                f"masked encoder: its patch of {self.patch} pixels does not divide images of "
                f"{height}x{width}"
            )
        table = dit.position_embedding(self.hidden_size, height // self.patch, width // self.patch)
        seen = visible.reshape(x.shape[0], -1)
        embed = basic.Linear(self.hidden_size, init_scheme="xavier", name="embed")
        # Times 0, so that a hidden square cannot reach the network even through its own token.
        h = embed(dit.patchify(x, self.patch)) * seen[..., None] + jnp.asarray(table)
        everything = jnp.ones_like(seen)
        whole, chosen, read = h, None, seen
        if keep:
            # Nobody reads a hidden token here, and the decoder gets another in its place.
            order = jnp.argsort(-seen, axis=1)[:, :keep]
            chosen = jnp.arange(len(order))[:, None], order
            h, read = h[chosen], everything[:, :keep]
        for i in range(self.depth):
            h = Block(self.num_heads, self.dtype, name=f"blocks_{i}")(h, read)
        if keep:
            h = whole.at[chosen].set(h)
        if features:
            h = basic.layer_norm(h, "float32")
            return h.reshape(*visible.shape, self.hidden_size)
        token = self.param("mask_token", initialize.normal(0.02), (self.hidden_size,))
        # With positions: the one learned token does not know where it stands.
        h = jnp.where(seen[..., None] > 0.5, h, token + jnp.asarray(table))
        for i in range(self.decoder_depth):
            h = Block(self.num_heads, self.dtype, name=f"decoder_{i}")(h, everything)
        pixels = basic.Linear(self.patch**2 * channels, init_scheme="xavier", name="pixels")
        return dit.unpatchify(pixels(basic.layer_norm(h, "float32")), self.patch, height, width)
