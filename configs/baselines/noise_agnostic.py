"""Inpainting at several noise levels, none of them chosen (methods/noise_agnostic.py).

    python -m madad_jax.main --config=configs/baselines/noise_agnostic.py --workdir=runs/noise

The argument is a cohort of parts/protocols.py. After the abstract of iNAAD, which gives no values:
network and training are AnoDDPM's, the rest is our choice. `--config.diffusion.noise=simplex` or
`pyramid` trains and paints with other noise.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.noise_agnostic`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",  # eps | x0
    inference=dict(
        levels=(50, 107, 164, 221, 279, 336, 393, 450),  # of diffusion.timesteps
        steps=25,  # from each level down to 0, evenly spread
        eta=1.0,  # 0 DDIM .. 1 DDPM
        masks="checkerboard",  # checkerboard | random: cells that are painted together
        cell=16,  # side of a cell, pixels
        draws=1,  # masks a level
        resamplings=1,  # of each step (RePaint); 1: none
        standard="slice",  # slice (median and spread of a level's differences in the brain) | none
        **method_settings.residual(),
    ),
)

PUBLISHED = pixels.WYATT
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.noise_agnostic.inference.levels": (100, 200, 300, 400),
    "methods.noise_agnostic.inference.steps": 6,
    "methods.noise_agnostic.inference.cell": 8,
}


def get_config(argument: str = "demo"):
    return protocols.config("noise_agnostic", argument, SETTINGS, PUBLISHED, SMALL)
