"""Autoencoder with a dense bottleneck (methods/ae.py).

    python -m madad_jax.main --config=configs/baselines/ae.py --workdir=runs/ae

The argument is a cohort of parts/protocols.py. Published settings: Baur et al. 2021 and its
repository (128 pixels, batch of 8; epochs until the validation loss stops falling, here 100).
`--config.methods.ae.network.kind=spatial` is their other bottleneck.
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.BAUR
SMALL = pixels.SMALL_BAUR | {
    "methods.ae.network.latent": 64,
    "methods.ae.network.levels": 3,
    "methods.ae.inference.median": 3,
    "methods.ae.inference.erosion": 5,
}


def get_config(argument: str = "demo"):
    return protocols.config("ae", argument, PUBLISHED, SMALL)
