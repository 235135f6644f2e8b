"""DPMM: a mixture of healthy tokens in place of a bank, one mean for each kind of tissue.

    fit     Dirichlet-process mixture of tokens of healthy brain (anomaly_maps/stick_breaking.py)
    test    d = 1 - max_k cos(t, m_k) over the components that hold a share of the tokens
            map = d, bilinear to the image; 0 for patches that are less than half brain

After arXiv 2509.19997: DINOv2 tokens of length 1, at most 500 components, 40 epochs, moving
averages with a rate of 0.2, components above 1e-6. Its code (CC BY-NC) was not used; the mixture
is written from the formulas. Ours, as not known: the batch, the first means (drawn tokens), the
prior of the concentration, and a component's share where the paper says weight.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from madad_jax.anomaly_maps import stick_breaking
from madad_jax.anomaly_maps import tokens as tokens_lib
from madad_jax.core.types import Params
from madad_jax.methods import base, families
from madad_jax.methods import shared as shared_lib

_LEAST_SHARE = 1e-6
_DEFAULT = stick_breaking.Options()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dpmm(families.OnTokens):
    """The method; `frozen` is empty, parameters are {"encoder", "means" [k,d], "shares" [k]}."""

    mixture: stick_breaking.Options = _DEFAULT

    def empty(self) -> Params:
        """{"means": 0, "shares": 0}."""
        count = self.mixture.components
        return {"means": jnp.zeros((count, self.encoder.width)), "shares": jnp.zeros(count)}

    def fit(
        self,
        params: Params,
        slices: base.HealthySlices,
        key: jax.Array,
        progress: Callable[[str], None],
    ) -> Params:
        """Means and shares of the components."""
        k_tokens, k_mixture = jax.random.split(key)
        found = self.healthy_tokens(params, slices, k_tokens)
        means, shares = stick_breaking.fit(found, self.mixture, k_mixture, progress)
        return {"encoder": params["encoder"], "means": means, "shares": shares}

    def distance(self, params: Params, tokens: Float[jax.Array, "n d"]) -> Float[jax.Array, " n"]:
        """1 - the largest cosine with the mean of a component that holds tokens."""
        means = tokens_lib.unit(params["means"])
        cosine = jnp.matmul(tokens, means.T, precision=jax.lax.Precision.HIGHEST)
        # -1 is the smallest cosine there is: an empty component is nobody's nearest.
        return 1.0 - jnp.where(params["shares"] > _LEAST_SHARE, cosine, -1.0).max(-1)


def build(shared: shared_lib.Shared, settings: shared_lib.Settings) -> Dpmm:
    """From `config.methods.dpmm`."""
    return Dpmm(
        **shared_lib.token_parts(shared, "dpmm"),
        pooling=settings.pooling,
        most_tokens=settings.most_tokens,
        mixture=stick_breaking.Options(**settings.mixture.table()),
    )
