"""A share of training samples with a synthetic anomaly, for every method that trains on some."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from madad_jax.core import errors
from madad_jax.core.types import Batch
from madad_jax.synthesis import shapes


def replace_share(
    key: jax.Array | tuple[jax.Array, jax.Array],
    batch: Batch,
    options: shapes.Options,
    plain: Any,
    with_anomaly: Callable[[jax.Array], Any],
) -> Any:
    """`plain`, where a random share of the samples comes from images with an anomaly drawn in.

    Args:
      key: split into two, one that chooses the samples and one that draws the anomalies; or
        these two, from methods that split further keys beside them.
      batch: `image` [b,H,W,1] and `brain_mask` [b,H,W] are read.
      options: `share` of the samples, 0 to 1, and what is drawn.
      plain: an array [b, ...] or a pytree of them.
      with_anomaly: images with anomalies [b,H,W,1] -> what stands in for `plain`, of its shapes.

    Raises:
      UserError: a batch of cached latents alone, which holds no image to change.
    """
    # Decided while tracing: without a share the program holds nothing of the anomalies.
    if options.share <= 0:
        return plain
    if "image" not in batch:
        raise errors.UserError(
            f"synthesis.share: found {options.share}, but the batch has latents and no image to "
            "change; set synthesis.share=0 or data.latents=live"
        )
    key_choice, key_anomaly = key if isinstance(key, tuple) else jax.random.split(key)
    images = batch["image"]
    corrupted = shapes.corrupt(key_anomaly, images, batch["brain_mask"], options)
    chosen = jax.random.bernoulli(key_choice, options.share, (len(images),))

    def choose(anomalous: jax.Array, usual: jax.Array) -> jax.Array:
        # Both are computed for every sample: shapes must not depend on the draw.
        return jnp.where(chosen.reshape(-1, *[1] * (usual.ndim - 1)), anomalous, usual)

    return jax.tree.map(choose, with_anomaly(corrupted), plain)
