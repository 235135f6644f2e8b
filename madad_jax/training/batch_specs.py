"""Shapes of training batches."""

import jax
import jax.numpy as jnp

from madad_jax.core.types import Batch


def latent_spec(batch_size: int, image_size: int, latent: tuple[int, int, int]) -> Batch:
    """Shapes of a training batch of cached latents (h, w, c)."""
    # Mean and log-variance, from which every step draws anew.
    moments = jax.ShapeDtypeStruct((batch_size, *latent), jnp.float32)
    spec = image_spec(batch_size, image_size)
    return {"latent_mean": moments, "latent_logvar": moments, "brain_mask": spec["brain_mask"]}


def image_spec(batch_size: int, image_size: int, channels: int = 0) -> Batch:
    """Shapes of a training batch of images.

    With `channels` above 0 an image is a stack of contrasts and neighbours, and the batch says
    which of them are there (`data.sources.stacked`).
    """
    side = (batch_size, image_size, image_size)
    spec = {
        "image": jax.ShapeDtypeStruct((*side, channels or 1), jnp.float32),
        "brain_mask": jax.ShapeDtypeStruct(side, jnp.bool_),
    }
    if channels:
        spec["available"] = jax.ShapeDtypeStruct((batch_size, channels), jnp.bool_)
    return spec
