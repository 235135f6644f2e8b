"""AnoDDPM: partial diffusion with simplex noise (methods/anoddpm.py).

    python -m madad_jax.main --config=configs/baselines/anoddpm.py --workdir=runs/anoddpm

The argument is a cohort of parts/protocols.py. Published: 256 pixels, batch of 1, 3,000 epochs.
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.WYATT | {"diffusion.noise": "simplex"}
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.anoddpm.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("anoddpm", argument, PUBLISHED, SMALL)
