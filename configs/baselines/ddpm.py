"""DDPM on images with partial noising (methods/ddpm.py).

    python -m madad_jax.main --config=configs/baselines/ddpm.py --workdir=runs/ddpm

The argument is a cohort of parts/protocols.py. Published:
AnoDDPM's repository, its Gaussian run (256 pixels, batch of 1, 3,000 epochs).
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.ddpm`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",  # eps | x0
    inference=dict(
        **method_settings.reverse(250), **method_settings.adaptive(), **method_settings.residual()
    ),
)

PUBLISHED = pixels.WYATT
SMALL = pixels.SMALL | {
    "methods.ddpm.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("ddpm", argument, SETTINGS, PUBLISHED, SMALL)
