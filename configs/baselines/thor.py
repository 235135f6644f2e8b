"""THOR: harmonisation during the reverse process (methods/thor.py).

    python -m madad_jax.main --config=configs/baselines/thor.py --workdir=runs/thor

The argument is a cohort of parts/protocols.py. Published:
128 pixels, batch of 16, 1,500 epochs, its simplex row.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.thor`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",
    inference=dict(
        **method_settings.reverse(250),
        harmonise=(200, 150, 100, 50),  # levels; with Gaussian noise 300, 150, 50 from 350
        window=13,  # of the morphology, pixels, odd
        lpips="",  # as autoddpm's
        **method_settings.residual(),
    ),
)

PUBLISHED = pixels.THOR | {"diffusion.noise": "simplex", "train.epochs": 1500}
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.thor.inference.steps": 10,
    "methods.thor.inference.window": 7,
}


def get_config(argument: str = "demo"):
    return protocols.config("thor", argument, SETTINGS, PUBLISHED, SMALL)
