"""Denoising autoencoder with coarse noise (methods/dae.py).

    python -m madad_jax.main --config=configs/baselines/dae.py --workdir=runs/dae

The argument is a cohort of parts/protocols.py. Published settings: Kascenas et al. 2022 and its
repository (128 pixels, 2,100 epochs of 32 batches of 16).
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.dae`; its `inference` part may change after training.
SETTINGS = dict(
    resolution=16,  # cells of noise a side
    sigma=0.2,  # of the noise, for intensities in [0, 1]
    inference=method_settings.filtered(median=5, erosion=5),
)

PUBLISHED = {
    "data.image_size": 128,
    "denoiser.name": "unet",
    "denoiser.size": "S",  # a name is needed; the numbers below say all
    "denoiser.hidden_size": 0,  # what the demo sets for its DiT
    "denoiser.depth": 0,
    "denoiser.residual_x0": False,
    "denoiser.model_channels": 64,
    "denoiser.channel_mult": (1, 2, 4, 8),
    "denoiser.num_res_blocks": 1,  # two convolutions a level
    "denoiser.attention_rates": (16,),  # none of the levels has that rate
    "denoiser.num_heads": 1,
    "denoiser.num_groups": 8,
    "denoiser.dropout": 0.0,
    "train.steps": 67200,
    "train.batch_size": 16,
    "train.ema_decay": 0.0,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.schedule": "warmup_cosine",
    "optim.warmup_epochs": 0.0,
    "optim.weight_decay": 1e-5,
    "optim.final_lr_ratio": 0.0,
    "map.sigma": 0.0,  # a median filter does the smoothing
    "synthesis.share": 0.0,  # what the demo sets for MAD-AD
}
SMALL = pixels.SMALL | {
    "methods.dae.inference.median": 3,
    "methods.dae.inference.erosion": 0,
    "map.sigma": 5.0,  # as for every other row of the cohort
}


def get_config(argument: str = "demo"):
    return protocols.config("dae", argument, SETTINGS, PUBLISHED, SMALL)
