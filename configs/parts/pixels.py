"""Shared settings of methods that work on images, as flat tables for configs/parts/protocols.py."""

# The U-Net, optimiser and diffusion of AnoDDPM (Wyatt et al. 2022).
WYATT = {
    "data.image_size": 256,
    "denoiser.name": "unet",
    "denoiser.size": "S",  # a name is needed; the numbers below say all
    "denoiser.hidden_size": 0,  # what the demo sets for its DiT
    "denoiser.depth": 0,
    "denoiser.residual_x0": False,
    "denoiser.model_channels": 128,
    "denoiser.channel_mult": (1, 1, 2, 3, 4),
    "denoiser.num_res_blocks": 2,
    "denoiser.attention_rates": (16, 32),  # maps of 16 and 8 pixels
    "denoiser.num_heads": 2,
    "denoiser.dropout": 0.0,
    "synthesis.share": 0.0,  # what the demo sets for MAD-AD
    "diffusion.timesteps": 1000,
    "diffusion.schedule": "linear",
    "diffusion.noise": "gaussian",
    "train.epochs": 3000,
    "train.batch_size": 1,
    "train.ema_decay": 0.9999,
    "optim.name": "adamw",
    "optim.lr": 1e-4,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.0,
    "optim.weight_decay": 0.0,
    "optim.final_lr_ratio": 1.0,
}

# Those of THOR and AutoDDPM (Bercea et al. 2023, 2024); the schedule is not said there.
THOR = WYATT | {
    "data.image_size": 128,
    "denoiser.channel_mult": (1, 2, 2),
    "denoiser.num_res_blocks": 1,
    "denoiser.attention_rates": (2, 4),
    "denoiser.num_heads": 1,
    "train.batch_size": 16,
    "train.ema_decay": 0.0,
    "optim.name": "adam",
}

# What lets a network learn in a few hundred steps.
_MINUTES = {
    "train.ema_decay": 0.98,
    "optim.name": "muon",
    "optim.lr": 2e-3,
    "optim.schedule": "warmup_cosine",
    "optim.warmup_epochs": 0.2,
    "optim.final_lr_ratio": 0.03,
    "optim.grad_clip_norm": 1.0,
    "log.every_steps": 20,
}

# For two CPU cores: a small network whose maps are a quarter of the image.
SMALL = _MINUTES | {
    "data.image_size": 64,
    "denoiser.model_channels": 48,
    "denoiser.channel_mult": (1, 2),
    "denoiser.patch": 4,
    "denoiser.num_res_blocks": 1,
    "denoiser.attention_rates": (),
    "denoiser.num_heads": 1,
    "denoiser.num_groups": 8,
    "denoiser.dropout": 0.0,
    "train.steps": 250,
    "train.batch_size": 16,
    "log.validate_every_steps": 125,
    "checkpoint.every_steps": 125,
    "eval.batch_size": 24,
}

# The training of the autoencoders of Baur et al. 2021. Their network is no denoiser.
BAUR = {
    "data.image_size": 128,
    "train.epochs": 100,
    "train.batch_size": 8,
    "train.ema_decay": 0.0,
    "optim.name": "adam",
    "optim.lr": 1e-4,
    "optim.beta1": 0.5,
    "optim.schedule": "constant",
    "optim.warmup_epochs": 0.0,
    "optim.weight_decay": 0.0,
    "optim.final_lr_ratio": 1.0,
    "map.sigma": 0.0,  # a median filter does the smoothing
    "synthesis.share": 0.0,
}

# For two CPU cores; the smoothing is that of every other row of the cohort.
SMALL_BAUR = {
    "data.image_size": 64,
    "train.steps": 1200,
    "train.batch_size": 16,
    "train.ema_decay": 0.98,
    "optim.name": "adam",
    "optim.lr": 1e-3,
    "optim.beta1": 0.9,
    "optim.schedule": "warmup_cosine",
    "optim.final_lr_ratio": 0.03,
    "log.every_steps": 20,
    "log.validate_every_steps": 200,
    "checkpoint.every_steps": 400,
    "eval.batch_size": 24,
    "map.sigma": 5.0,
}

# Methods on tokens of a frozen network: AnomalyDINO's (Damm et al. 2024). Nothing is trained.
TOKENS = {
    "data.image_size": 256,
    "features.network": "dinov2_s14",
    "features.image_size": 448,
    "features.position_resize": "size",
    "map.inside_brain": True,
    "synthesis.share": 0.0,
}

# For two CPU cores, without public weights: a masked autoencoder of 0.9 M weights, trained on the
# healthy slices.
SMALL_TOKENS = _MINUTES | {
    "data.image_size": 96,
    "features.network": "masked",
    "features.image_size": 96,
    "features.masked.patch": 6,
    "features.masked.hidden_size": 128,
    "features.masked.depth": 4,
    "features.masked.num_heads": 4,
    "train.steps": 200,
    "train.batch_size": 8,
    "log.validate_every_steps": 100,
    "checkpoint.every_steps": 100,
    "eval.batch_size": 24,
    "map.sigma": 5.0,
}
