"""A share of training samples with a synthetic anomaly, for every method that trains on some."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from madad_jax.core import errors
from madad_jax.core.types import Batch, Params
from madad_jax.synthesis import learned, shapes


def replace_share(
    key: jax.Array | tuple[jax.Array, jax.Array],
    batch: Batch,
    options: shapes.Options,
    plain: Any,
    with_anomaly: Callable[[jax.Array], Any],
    frozen: Params = None,
) -> Any:
    """`plain`, where a random share of the samples comes from images with an anomaly drawn in.

    Args:
      key: split into two, one that chooses the samples and one that draws the anomalies; or
        these two, from methods that split further keys beside them.
      batch: `image` [b,H,W,1] and `brain_mask` [b,H,W] are read.
      options: `share` of the samples, 0 to 1, and what is drawn.
      plain: an array [b, ...] or a pytree of them.
      with_anomaly: images with anomalies [b,H,W,1] -> what stands in for `plain`, of its shapes.
      frozen: may hold a bank of lesions (`learned.py`).

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
    bank = learned.find(frozen)
    corrupted = shapes.corrupt(key_anomaly, images, batch["brain_mask"], options, bank)
    chosen = choose_share(key_choice, options.share, len(images))
    return take_chosen(chosen, with_anomaly(corrupted), plain)


def choose_share(key: jax.Array, share: float, count: int) -> Bool[jax.Array, " b"]:
    """A random share of the samples."""
    return jax.random.bernoulli(key, share, (count,))


def take_chosen(chosen: Bool[jax.Array, " b"], anomalous: Any, usual: Any) -> Any:
    """Pytrees of [b, ...]: `anomalous` where a sample is chosen, else `usual`."""

    def take(a: jax.Array, b: jax.Array) -> jax.Array:
        # Both are computed for every sample: shapes must not depend on the draw.
        return jnp.where(chosen.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    return jax.tree.map(take, anomalous, usual)
