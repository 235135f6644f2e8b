"""Patched diffusion conditioned by a masked autoencoder (methods/maediff.py).

    python -m madad_jax.main --config=configs/baselines/maediff.py --workdir=runs/maediff

The argument is a cohort of parts/protocols.py. Published settings as far as they are known: those
of pDDPM (96 pixels, batch of 32, 1,600 epochs, dim 128, simplex noise); methods/maediff.py says
what was chosen here.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.maediff`; its `inference` part may change after training.
SETTINGS = dict(
    box=48,  # side of upper-level patches, pixels
    stride=24,  # between them
    mae_weight=1.0,
    network=dict(  # the masked autoencoder
        patch=8,  # side of sub-level patches, pixels
        hidden_size=128,
        depth=4,
        decoder_depth=1,
        num_heads=4,
    ),
    inference=dict(start=500, **method_settings.filtered(median=5, erosion=0)),
)

PUBLISHED = pixels.WYATT | {
    "data.image_size": 96,
    "denoiser.channel_mult": (1, 2, 2),
    "denoiser.num_res_blocks": 3,
    "denoiser.attention_rates": (4,),
    "diffusion.noise": "simplex",
    "train.epochs": 1600,
    "train.batch_size": 32,
    "train.ema_decay": 0.0,
    "optim.name": "adam",
    "synthesis.share": 0.0,
}
SMALL = pixels.SMALL | {
    "diffusion.noise": "gaussian",
    "methods.maediff.box": 32,
    "methods.maediff.stride": 16,
    "methods.maediff.network.hidden_size": 64,
    "methods.maediff.network.depth": 2,
    "methods.maediff.inference.median": 3,
}


def get_config(argument: str = "demo"):
    return protocols.config("maediff", argument, SETTINGS, PUBLISHED, SMALL)
