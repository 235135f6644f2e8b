"""IterMask2: a mask that shrinks (methods/itermask2.py).

    python -m madad_jax.main --config=configs/baselines/itermask2.py --workdir=runs/itermask2

The argument is a cohort of parts/protocols.py. Published: 128 pixels, batch of 32, 150,000 steps.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.itermask2`; its `inference` part may change after training.
SETTINGS = dict(
    radius=15.0,  # cycles per image below which amplitudes are hidden
    sides=(4, 8, 16),  # of the masks' squares, pixels
    squares=60,  # of a mask at most (ours: the public code's count could not be read)
    exceeded=0.2,  # share of masked healthy pixels above the threshold
    inference=dict(
        start=0.6,  # share of the brain in the first mask
        least=0.01,  # a mask that loses a smaller share is the last
        rounds=50,  # at most
        **method_settings.residual("l2", 1.0),
    ),
)

PUBLISHED = pixels.WYATT | {
    "data.image_size": 128,
    "denoiser.model_channels": 32,
    "denoiser.attention_rates": (4, 8, 16),
    "denoiser.num_heads": 1,
    "denoiser.dropout": 0.1,
    "optim.name": "adam",
    "train.steps": 150000,
    "train.batch_size": 32,
}
SMALL = pixels.SMALL | {
    "methods.itermask2.sides": (2, 4, 8),
}


def get_config(argument: str = "demo"):
    return protocols.config("itermask2", argument, SETTINGS, PUBLISHED, SMALL)
