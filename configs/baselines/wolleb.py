"""Classifier-guided DDIM, with synthetic labels (methods/wolleb.py).

    python -m madad_jax.main --config=configs/baselines/wolleb.py --workdir=runs/wolleb

The argument is a cohort of parts/protocols.py. Published:
256 pixels, batch of 10, about 80,000 steps.
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.WYATT | {
    "optim.name": "adam",
    "train.steps": 80000,
    "train.batch_size": 10,
}
SMALL = pixels.SMALL | {
    "methods.wolleb.classifier.channel_mult": (1, 2),
    "methods.wolleb.classifier.patch": 4,
    "methods.wolleb.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("wolleb", argument, PUBLISHED, SMALL)
