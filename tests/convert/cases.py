"""Small official networks with formula weights, shared by the tests of this folder."""

import functools

import jax
import numpy as np

from madad_jax.convert import autoencoder_kl_weights, dit_weights, unet_weights
from tests.models import official

UNET = {
    "size": None,
    "model_channels": 32,
    "num_heads": 4,
    "channel_mult": (1,),
    "num_res_blocks": 1,
    "attention_rates": (1,),
}
VAE = {"channels": 32, "channel_mult": (1, 1), "num_res_blocks": 1, "latent_channels": 2}
DIT = {"size": None, "hidden_size": 64, "depth": 2, "num_heads": 1, "patch_size": 2}


def _draw(module, template):
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), template)
    shapes = {key: array.shape for key, array in module.to_official(zeros).items()}
    return official.state(shapes)


@functools.cache
def unet_state():
    return _draw(unet_weights, unet_weights.template(UNET, 4))


@functools.cache
def vae_state(channels=1):
    config = VAE | {"in_channels": channels, "out_channels": channels}
    return _draw(autoencoder_kl_weights, autoencoder_kl_weights.template(config))


@functools.cache
def dit_state():
    return _draw(dit_weights, dit_weights.template(DIT, 4))


def imagenet_dit():
    """A published DiT: labels, position table, variance; no mask head."""
    state = {k: v for k, v in dit_state().items() if not k.startswith("final_layer.mask.")}
    for leaf, shape in (("weight", (32, 64)), ("bias", (32,))):
        state[f"final_layer.linear.{leaf}"] = official.weight(f"final_layer.linear.{leaf}", shape)
    state["y_embedder.embedding_table.weight"] = np.ones((11, 64), np.float32)
    state["pos_embed"] = np.ones((1, 16, 64), np.float32)
    return state


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
