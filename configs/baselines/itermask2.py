"""IterMask2: a mask that shrinks (methods/itermask2.py).

    python -m madad_jax.main --config=configs/baselines/itermask2.py --workdir=runs/itermask2

The argument is a cohort of parts/protocols.py. Published: 128 pixels, batch of 32, 150,000 steps.
"""

from configs.parts import pixels, protocols

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
    return protocols.config("itermask2", argument, PUBLISHED, SMALL)
