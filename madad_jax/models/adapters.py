"""Small weights that teach a frozen denoiser something new, from a few examples.

    W' = W + A B          qkv, proj, fc1 and fc2 of every block; A [in, rank], B [rank, out]
    c' = c + e_k          the embedded time step; k the type of a sample, 0 "none"
    h' = h + P(m) U       the embedded patches; P(m) the patches of a soft mask, U their kernel

LoRA (Hu et al., arXiv 2106.09685) and one more input channel; U is that channel's rows of the
patch embedding. B, e and U are 0 at first: the network then is the frozen one, to the bit.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from madad_jax.core import errors
from madad_jax.models import interfaces
from madad_jax.models.networks import dit

Params = Any
ADAPTED = ("attn_qkv", "attn_proj", "mlp_fc1", "mlp_fc2")


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Adapters of a DiT.

    Attributes:
      denoiser: the network, whose weights stay as they are.
      types: number of types beside "none".
      rank: of each A B.

    Raises:
      UserError: another network than a DiT, or a rank below 1.
    """

    denoiser: interfaces.Denoiser
    types: int
    rank: int = 8

    def __post_init__(self):
        if self.denoiser.name != "dit":
            raise errors.UserError(
                f"denoiser.name: found {self.denoiser.name!r}, accepted: dit; lesions are learned "
                "by adapters of a transformer's blocks, which this network has not"
            )
        if self.rank < 1:
            raise errors.UserError(f"--rank: found {self.rank}, accepted: 1 or more")

    def init(self, key: jax.Array, weights: Params) -> Params:
        """Fresh adapters for `weights`, the denoiser's; only A is drawn."""
        s = self.denoiser.settings
        low_rank: dict[str, Any] = {}
        for block in (f"blocks_{n}" for n in range(s["depth"])):
            for name in ADAPTED:
                key, k = jax.random.split(key)
                inputs, *outputs = weights[block][name]["kernel"].shape
                down = jax.random.normal(k, (inputs, self.rank)) / np.sqrt(inputs)
                up = jnp.zeros((self.rank, *outputs))
                low_rank.setdefault(block, {})[name] = {"down": down, "up": up}
        return {
            "low_rank": low_rank,
            "types": jnp.zeros((self.types + 1, s["hidden_size"])),
            "mask_channel": jnp.zeros((s["patch_size"] ** 2, s["hidden_size"])),
        }

    def apply(
        self,
        weights: Params,
        adapters: Params,
        x: Float[jax.Array, "b h w c"],
        t: Int[jax.Array, " b"],
        types: Int[jax.Array, " b"],
        mask: Float[jax.Array, "b h w"],
    ) -> Float[jax.Array, "b h w c"]:
        """The clean latent, as the adapted network has it.

        Args:
          weights: of the denoiser.
          adapters: from `init`.
          x, t: as the denoiser takes them.
          types: 0 for "none".
          mask: soft, in latent cells.
        """
        patches = dit.patchify(mask[..., None], self.denoiser.settings["patch_size"])
        return self.denoiser.apply(
            merge(weights, adapters["low_rank"]),
            x,
            t,
            condition=adapters["types"][types],
            tokens=patches @ adapters["mask_channel"],
        ).x0


def merge(weights: Params, low_rank: Params) -> Params:
    """`weights` with A B added to each adapted kernel."""
    merged = dict(weights)
    for block, parts in low_rank.items():
        merged[block] = dict(weights[block])
        for name, pair in parts.items():
            old = weights[block][name]
            # One product a step and not one a sample: all samples share the adapters.
            more = jnp.tensordot(pair["down"], pair["up"], 1)
            merged[block][name] = old | {"kernel": old["kernel"] + more}
    return merged
