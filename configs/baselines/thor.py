"""THOR: harmonisation during the reverse process (methods/thor.py).

    python -m madad_jax.main --config=configs/baselines/thor.py --workdir=runs/thor

The argument is a cohort of parts/protocols.py. Published:
128 pixels, batch of 16, 1,500 epochs, its simplex row.
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.THOR | {"diffusion.noise": "simplex", "train.epochs": 1500}
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.thor.inference.steps": 10,
    "methods.thor.inference.window": 7,
}


def get_config(argument: str = "demo"):
    return protocols.config("thor", argument, PUBLISHED, SMALL)
