"""Disyre v2: cold diffusion whose noise is synthetic anomalies (methods/disyre.py).

    python -m madad_jax.main --config=configs/baselines/disyre.py --workdir=runs/disyre

The argument is a cohort of parts/protocols.py. Published: crops of 128 pixels of 1 mm, batches of
96, 100,000 steps. Centres of the classes follow the modality where some are published.
"""

from configs.parts import method_settings, pixels, protocols

# Centres of the intensity classes: the published default, and for T1 and T2 those of UAD-IMAG.
CENTRES = (0.0057, 0.383, 0.612, 0.769, 0.939)
CENTRES_OF = {
    "T1": (0.0795, 0.311, 0.465, 0.608, 0.781),
    "T2": (0.0492, 0.257, 0.378, 0.507, 0.715),
}

# `config.methods.disyre`; its `inference` part may change after training.
SETTINGS = dict(
    window=128,  # side of training crops and of sliding windows, pixels; larger: whole slices
    anomalies=dict(  # what is drawn; lengths in pixels (synthesis/disentangled.py)
        box=64,  # side of the square that a shape lies in
        sides=(10, 44),  # smallest and largest side or diameter of a shape
        angle=15.0,  # largest turn of a rectangle, degrees
        blur=5.0,  # largest deviation of a shape's blur
        texture="minmax",  # minmax | mean | plain: how foreign tissue is fitted
        bias=True,  # classes of intensity are made brighter or darker
        centres=CENTRES,  # of these classes, in [0, 1]; (): k-means of each slice
    ),
    inference=dict(
        score="ensemble",  # ensemble (v2) | multistep (v1)
        steps=4,  # levels
        weight="window",  # share of brain that multiplies a map, in the: window | slice; or none
        window_step=0.25,  # between sliding windows, share of the window
        window_sigma=0.125,  # of their Gaussian weights, share of the window
        **method_settings.residual(),
    ),
)

PUBLISHED = pixels.WYATT | {
    "denoiser.model_channels": 32,
    "denoiser.channel_mult": (1, 2, 3, 4, 8, 8),
    "denoiser.num_res_blocks": 2,
    "denoiser.attention_rates": (16,),  # the fifth level
    "denoiser.num_heads": 32,  # of 8 channels
    "denoiser.num_groups": 32,
    "denoiser.dtype": "bfloat16",
    "diffusion.timesteps": 100,  # beta from 0.001 to 0.2
    "train.steps": 100000,
    "train.batch_size": 96,
    "train.ema_decay": 0.0,
    "optim.beta1": 0.95,
    "optim.weight_decay": 1e-6,
    "optim.schedule": "warmup_cosine",
    "optim.warmup_epochs": 2.5,  # published: 500 steps
    "optim.final_lr_ratio": 0.0,
    "optim.grad_clip_norm": 1.0,
}
SMALL = pixels.SMALL | {
    "denoiser.dtype": "float32",
    "denoiser.residual_x0": True,  # a change of what it sees: minutes are enough to learn that
    "optim.beta1": 0.9,
    "methods.disyre.window": 64,
    "methods.disyre.anomalies.box": 32,
    "methods.disyre.anomalies.sides": (5, 22),
    "methods.disyre.anomalies.blur": 2.5,
}


def get_config(argument: str = "demo"):
    c = protocols.config("disyre", argument, SETTINGS, PUBLISHED, SMALL)
    c.methods.disyre.anomalies.centres = CENTRES_OF.get(c.data.modality, CENTRES)
    return c
