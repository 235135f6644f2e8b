"""Autoencoder with a dense bottleneck (methods/ae.py).

    python -m madad_jax.main --config=configs/baselines/ae.py --workdir=runs/ae

The argument is a cohort of parts/protocols.py. Published settings: Baur et al. 2021 and its
repository (128 pixels, batch of 8; epochs until the validation loss stops falling, here 100).
`--config.methods.ae.network.kind=spatial` is their other bottleneck.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.ae`; its `inference` part may change after training.
SETTINGS = dict(
    network=dict(
        kind="dense",  # dense | spatial (ae alone)
        levels=4,  # halvings; 128 pixels -> 8
        channels=32,  # of the first level, doubled up to max_channels
        max_channels=128,
        latent=128,  # numbers of the dense bottleneck
        dropout=0.1,
        num_groups=8,  # of GroupNorm
    ),
    inference=method_settings.filtered(median=5, erosion=25),
)

PUBLISHED = pixels.BAUR
SMALL = pixels.SMALL_BAUR | {
    "methods.ae.network.latent": 64,
    "methods.ae.network.levels": 3,
    "methods.ae.inference.median": 3,
    "methods.ae.inference.erosion": 5,
}


def get_config(argument: str = "demo"):
    return protocols.config("ae", argument, SETTINGS, PUBLISHED, SMALL)
