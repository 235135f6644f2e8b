"""Memory bank: a token far from all tokens of healthy slices is an anomaly.

    fit     bank = tokens of healthy brain, or a coreset of them
    test    d = min_b ||t - b||^2 / 2 = 1 - max_b cos(t, b),  t and b of length 1
            map = d, bilinear to the image, smoothed; 0 for patches that are less than half brain

AnomalyDINO (Damm et al., arXiv 2405.14529): tokens of DINOv2 after its last norm, no coreset, its
references few. PatchCore (Roth et al., 2106.08265): neighbourhoods of 3 x 3 tokens, a greedy
coreset on a random projection. Departures: the bank has a number of rows and no share of the
tokens, so that its shape is known before the slices are; PatchCore's distances are those of its
own network's unnormalised features; AnomalyDINO turns its references by 45 degrees where the
pose is free, and slices here are registered.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from madad_jax.anomaly_maps import coreset as coreset_lib
from madad_jax.anomaly_maps import tokens as tokens_lib
from madad_jax.core import errors
from madad_jax.core.types import Params
from madad_jax.methods import base, families
from madad_jax.methods import shared as shared_lib

CORESETS = ("greedy", "random", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryBank(families.OnTokens):
    """The method; `frozen` is empty, parameters are {"encoder", "bank"}.

    Attributes:
      size: rows of the bank. Fewer tokens are repeated, which moves no distance.
      coreset: how more tokens become that many: greedy | random | none (refused).
      projection: numbers that the greedy coreset projects a token to; 0: it does not.
    """

    size: int = 3000
    coreset: str = "greedy"
    projection: int = coreset_lib.PROJECTION

    def __post_init__(self):
        super().__post_init__()
        if self.size < 1:
            raise errors.UserError(
                f"methods.memory_bank.size: found {self.size}, accepted: at least 1"
            )

    def empty(self) -> Params:
        """{"bank": 0}."""
        return {"bank": jnp.zeros((self.size, self.encoder.width))}

    def fit(
        self,
        params: Params,
        slices: base.HealthySlices,
        key: jax.Array,
        progress: Callable[[str], None],
    ) -> Params:
        """The bank.

        Raises UserError where there are more tokens than `size` and no coreset is made.
        """
        k_tokens, k_rows = jax.random.split(key)
        found = self.healthy_tokens(params, slices, k_tokens)
        return {"encoder": params["encoder"], "bank": self._choose(found, k_rows, progress)}

    def _choose(
        self, found: Float32[np.ndarray, "n d"], key: jax.Array, progress: Callable[[str], None]
    ) -> Float32[np.ndarray, "m d"]:
        if len(found) <= self.size:
            return found[np.arange(self.size) % len(found)]
        if self.coreset == "none":
            raise errors.UserError(
                f"methods.memory_bank.coreset: found 'none' with {len(found)} tokens of healthy "
                f"brain for a bank of {self.size}; accepted: methods.memory_bank.size of at least "
                "as many, or coreset=greedy or random"
            )
        if self.coreset == "random":
            rows = np.asarray(jax.random.choice(key, len(found), (self.size,), replace=False))
        else:
            rows = coreset_lib.greedy(
                found, self.size, key, projection=self.projection, progress=progress
            )
        return found[rows]

    def distance(self, params: Params, tokens: Float[jax.Array, "n d"]) -> Float[jax.Array, " n"]:
        """1 - the largest cosine with a row of the bank."""
        return tokens_lib.nearest_distance(tokens, params["bank"])


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> MemoryBank:
    """From `config.methods.memory_bank`."""
    return MemoryBank(
        **shared_lib.token_parts(shared, "memory_bank"),
        pooling=settings.pooling,
        most_tokens=settings.most_tokens,
        size=settings.size,
        coreset=settings.choose("coreset", CORESETS),
        projection=settings.projection,
    )
