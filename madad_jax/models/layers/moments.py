"""Second moments of what layers multiply, for continual training (`training/input_bases.py`).

A layer y = W x + b adds sum_n xi_n xi_n^T of the rows of its input, xi = [x; 1], to the collection
`moments` where that is mutable; a convolution adds the moment of its channels, sum of x x^T over
pixels. Elsewhere nothing is computed, so that the program of a plain forward pass is unchanged.

The channel moment has (k * k)^2 times fewer numbers than that of whole patches. A patch whose
pixels all lie in a span lies in the span's k * k copies, so that a kernel which keeps its answer on
that span at every tap keeps it on the patch: zeros of the padding lie in any span.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from madad_jax.core import trees

COLLECTION = "moments"
NAME = "inputs"  # of the variable in each layer


def recording(module: nn.Module) -> bool:
    """Whether the layers of `module` are asked for their moments."""
    # Initialisation makes every collection mutable, and wants parameters alone.
    return module.is_mutable_collection(COLLECTION) and not module.is_initializing()


def record(module: nn.Module, x: Shaped[jax.Array, "*batch c"], *, constant: bool) -> None:
    """Adds the moment of the rows of `x`, float32, if somebody asked.

    Args:
      module: the layer, called once or several times.
      x: what it multiplies, in its own type.
      constant: rows end in a 1, which stands for the bias: [c + 1, c + 1] in place of [c, c].
    """
    if not recording(module):
        return
    rows = x.astype(jnp.float32).reshape(-1, x.shape[-1])
    if constant:
        rows = jnp.concatenate([rows, jnp.ones((len(rows), 1), jnp.float32)], axis=1)
    # Full float32 on an accelerator too: small eigenvalues decide what is kept.
    moment = jnp.matmul(rows.T, rows, precision="highest")
    module.sow(COLLECTION, NAME, moment, reduce_fn=jnp.add, init_fn=lambda: jnp.zeros_like(moment))


def by_layer(sown: Any) -> dict[str, jax.Array]:
    """{path of the layer, as `blocks_0/attn_qkv`: its moment} of what a pass has recorded."""
    found = trees.flatten(sown[COLLECTION])
    return {path.removesuffix(f"/{NAME}"): moment for path, moment in found.items()}
