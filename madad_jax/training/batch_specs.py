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


def image_spec(batch_size: int, image_size: int) -> Batch:
    """Shapes of a training batch of images."""
    side = (batch_size, image_size, image_size)
    return {
        "image": jax.ShapeDtypeStruct((*side, 1), jnp.float32),
        "brain_mask": jax.ShapeDtypeStruct(side, jnp.bool_),
    }
