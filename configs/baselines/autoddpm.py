"""AutoDDPM: mask, stitch, resample (methods/autoddpm.py).

    python -m madad_jax.main --config=configs/baselines/autoddpm.py --workdir=runs/autoddpm

The argument is a cohort of parts/protocols.py. Published: 128 pixels, batch of 16, 3,000 epochs.
"""

from configs.parts import pixels, protocols

PUBLISHED = pixels.THOR | {"train.epochs": 3000}
SMALL = pixels.SMALL | {
    "methods.autoddpm.inference.steps": 8,
    "methods.autoddpm.inference.inpaint_steps": 3,
    "methods.autoddpm.inference.resamplings": 2,
}


def get_config(argument: str = "demo"):
    return protocols.config("autoddpm", argument, PUBLISHED, SMALL)
