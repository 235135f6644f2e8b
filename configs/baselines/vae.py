"""Variational autoencoder (methods/vae.py).

    python -m madad_jax.main --config=configs/baselines/vae.py --workdir=runs/vae

The argument is a cohort of parts/protocols.py. Published settings: Baur et al. 2021 and its
repository (128 pixels, batch of 8; epochs until the validation loss stops falling, here 100).
"""

from configs.baselines import ae
from configs.parts import pixels, protocols

# `config.methods.vae`; its `inference` part may change after training.
SETTINGS = ae.SETTINGS | dict(kl_weight=1.0)

PUBLISHED = pixels.BAUR
SMALL = pixels.SMALL_BAUR | {
    "methods.vae.network.latent": 64,
    "methods.vae.network.levels": 3,
    "methods.vae.inference.median": 3,
    "methods.vae.inference.erosion": 5,
}


def get_config(argument: str = "demo"):
    return protocols.config("vae", argument, SETTINGS, PUBLISHED, SMALL)
