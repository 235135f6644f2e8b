"""pDDPM: patches noised one at a time (methods/pddpm.py).

    python -m madad_jax.main --config=configs/baselines/pddpm.py --workdir=runs/pddpm

The argument is a cohort of parts/protocols.py. Published: 96 pixels, batch of 32, 1,600 epochs.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.pddpm`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="x0",
    box=48,  # pixels a side of what is noised
    stride=48,  # pixels from box to box; smaller: overlapping
    inference=dict(start=500, **method_settings.residual()),
)

PUBLISHED = pixels.WYATT | {
    "data.image_size": 96,
    "denoiser.channel_mult": (1, 2, 2),
    "denoiser.num_res_blocks": 3,
    "denoiser.attention_rates": (2, 4),
    "diffusion.noise": "simplex",
    "optim.name": "adam",
    "train.epochs": 1600,
    "train.batch_size": 32,
    "train.ema_decay": 0.0,
}
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.pddpm.box": 32,
    "methods.pddpm.stride": 16,
}


def get_config(argument: str = "demo"):
    return protocols.config("pddpm", argument, SETTINGS, PUBLISHED, SMALL)
