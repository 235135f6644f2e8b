"""DDPM on images with partial noising (methods/ddpm.py).

    python -m madad_jax.main --config=configs/baselines/ddpm.py --workdir=runs/ddpm

The argument is a cohort of parts/protocols.py. Published:
AnoDDPM's repository, its Gaussian run (256 pixels, batch of 1, 3,000 epochs).
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.WYATT
SMALL = pixels.SMALL | {
    "methods.ddpm.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("ddpm", argument, PUBLISHED, SMALL)
