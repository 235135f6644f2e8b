"""A small U-Net that segments drawn anomalies (methods/drawn_unet.py): the simplest strong rival.

    python -m madad_jax.main --config=configs/baselines/drawn_unet.py --workdir=runs/drawn_unet

The argument is a cohort of parts/protocols.py. Ours: no publication has these values.
"""

from configs.parts import method_settings, protocols

# `config.methods.drawn_unet`.
SETTINGS = method_settings.pixel_mask()

PUBLISHED = {
    "data.image_size": 128,
    "denoiser.name": "unet",
    "denoiser.size": "S",  # not used: the network is that of the method's own section
    "denoiser.hidden_size": 0,
    "denoiser.depth": 0,
    "denoiser.residual_x0": False,
    "denoiser.dropout": 0.0,
    "train.steps": 1400,
    "train.batch_size": 16,
    "train.ema_decay": 0.99,
    "optim.name": "muon",
    "optim.lr": 1e-3,
    "optim.schedule": "warmup_cosine",
    "optim.warmup_epochs": 0.3,
    "optim.final_lr_ratio": 0.02,
    "optim.beta2": 0.99,
    "optim.weight_decay": 1e-3,
    "optim.grad_clip_norm": 1.0,
    "map.sigma": 2.0,  # one pixel of 128
    "map.inside_brain": True,
    "synthesis.share": 0.0,  # what the demo sets for MAD-AD
}
SMALL = {"data.image_size": 96, "train.steps": 400, "eval.batch_size": 24}


def get_config(argument: str = "demo"):
    return protocols.config("drawn_unet", argument, SETTINGS, PUBLISHED, SMALL)
