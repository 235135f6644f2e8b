"""A Dirichlet-process mixture of diagonal Gaussians, cut at K components, fitted by streaming EM.

    pi_k = v_k prod_{j<k} (1 - v_j),  v_k ~ Beta(1, alpha),  x ~ sum_k pi_k N(m_k, diag(s_k))

With N_k the weight of the tokens of component k (Blei and Jordan 2006, the mean-field update):

    q(v_k) = Beta(1 + N_k, alpha + sum_{j>k} N_j)           E log pi from digamma functions
    alpha  = K / (1 - sum_{k<K} E log(1 - v_k))              its mean under a Gamma(1, 1) prior
    m_k = X_k / N_k,  s_k = Q_k / N_k - m_k^2 + 1e-6

N_k, X_k, Q_k are sums of responsibilities r, of r x and of r x^2. They are moving averages over
batches, scaled to all tokens (Cappe and Moulines 2009): S <- (1 - rate) S + rate * S_batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jaxtyping import Float, Float32

from madad_jax.core import errors

_FLOOR = 1e-6  # of variances
_LEAST_COUNT = 1e-6  # below it, a component keeps the mean that it had


@dataclasses.dataclass(frozen=True)
class Options:
    """`components` K, `epochs` over the tokens, `rate` of the moving averages, and how many tokens
    a batch has."""

    components: int = 500
    epochs: int = 40
    rate: float = 0.2
    batch: int = 8192

    def __post_init__(self):
        if not (self.components > 1 and self.epochs > 0 and 0 < self.rate <= 1 and self.batch > 0):
            raise errors.UserError(
                f"methods.dpmm.mixture: found {dataclasses.asdict(self)}, accepted: at least 2 "
                "components, 1 epoch, a batch of 1, and a rate above 0 and at most 1"
            )


def fit(
    tokens: Float32[np.ndarray, "n d"],
    options: Options,
    key: jax.Array,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Float32[np.ndarray, "k d"], Float32[np.ndarray, " k"]]:
    """(means, shares of the tokens) of the components.

    The first means are tokens drawn at random, the first variances those of all tokens.

    Raises:
      UserError: fewer tokens than components.
    """
    count = len(tokens)
    if count < options.components:
        raise errors.UserError(
            f"methods.dpmm.mixture.components: found {options.components} with {count} tokens of "
            "healthy brain, accepted: at most as many"
        )
    size = min(options.batch, count)
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    means = jnp.asarray(tokens[draw.choice(count, options.components, replace=False)])
    variance = jnp.broadcast_to(jnp.asarray(tokens.var(0)) + _FLOOR, means.shape)
    # As if each component had seen as many tokens.
    number = jnp.full(options.components, count / options.components)
    sums = {
        "number": number,
        "first": number[:, None] * means,
        "second": number[:, None] * (jnp.square(means) + variance),
    }
    state = {"means": means, "variance": variance, "alpha": jnp.float32(1.0), "sums": sums}
    for epoch in range(options.epochs):
        order = draw.permutation(count)
        # The rest of an epoch is left out: a batch of another size would be another program.
        for begin in range(0, count - size + 1, size):
            progress(f"mixture: epoch {epoch} of {options.epochs}")
            batch = jnp.asarray(tokens[order[begin : begin + size]])
            state = _update(state, batch, count / size, options.rate)
    share = state["sums"]["number"] / count
    return np.asarray(state["means"]), np.asarray(share)


def expected_log_weights(
    number: Float[jax.Array, " k"], alpha: Float[jax.Array, ""]
) -> tuple[Float[jax.Array, " k"], Float[jax.Array, " k-1"]]:
    """(E log pi_k, E log(1 - v_k) of all but the last, whose v is 1)."""
    later = jnp.cumsum(number[::-1])[::-1] - number
    a, b = 1.0 + number[:-1], alpha + later[:-1]
    both = special.digamma(a + b)
    log_v, log_rest = special.digamma(a) - both, special.digamma(b) - both
    before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(log_rest)])
    return jnp.concatenate([log_v, jnp.zeros(1)]) + before, log_rest


def responsibilities(
    batch: Float[jax.Array, "n d"],
    log_weights: Float[jax.Array, " k"],
    means: Float[jax.Array, "k d"],
    variance: Float[jax.Array, "k d"],
) -> Float[jax.Array, "n k"]:
    """Of each component for each token; they sum to 1."""
    precision = 1.0 / variance
    highest = jax.lax.Precision.HIGHEST

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.matmul(x, y.T, precision=highest)

    # Around the middle of all means: squares of far values would lose the differences.
    middle = means.mean(0)
    batch, means = batch - middle, means - middle
    distance = product(jnp.square(batch), precision) - 2 * product(batch, means * precision)
    distance += (jnp.square(means) * precision).sum(-1)
    logits = log_weights - 0.5 * (distance + jnp.log(variance).sum(-1))
    return jax.nn.softmax(logits, axis=-1)


@jax.jit
def _update(state: dict[str, Any], batch: jax.Array, scale: Any, rate: Any) -> dict[str, Any]:
    """One batch: responsibilities, moving averages, then means, variances and alpha."""
    sums = state["sums"]
    log_weights, _ = expected_log_weights(sums["number"], state["alpha"])
    r = responsibilities(batch, log_weights, state["means"], state["variance"])
    found = {"number": r.sum(0), "first": r.T @ batch, "second": r.T @ jnp.square(batch)}
    sums = {k: (1 - rate) * sums[k] + rate * scale * found[k] for k in sums}
    number = sums["number"]
    used, safe = number[:, None] > _LEAST_COUNT, jnp.maximum(number, _LEAST_COUNT)[:, None]
    means = jnp.where(used, sums["first"] / safe, state["means"])
    spread = jnp.maximum(sums["second"] / safe - jnp.square(means), 0.0) + _FLOOR
    _, log_rest = expected_log_weights(number, state["alpha"])
    return {
        "means": means,
        "variance": jnp.where(used, spread, state["variance"]),
        "alpha": len(number) / (1.0 - log_rest.sum()),
        "sums": sums,
    }
