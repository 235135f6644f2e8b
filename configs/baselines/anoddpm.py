"""AnoDDPM: partial diffusion with simplex noise (methods/anoddpm.py).

    python -m madad_jax.main --config=configs/baselines/anoddpm.py --workdir=runs/anoddpm

The argument is a cohort of parts/protocols.py. Published: 256 pixels, batch of 1, 3,000 epochs.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.anoddpm`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",
    inference=dict(
        **method_settings.reverse(250),
        **method_settings.adaptive(),
        **method_settings.residual("l2", 1.0),
    ),
)

PUBLISHED = pixels.WYATT | {"diffusion.noise": "simplex"}
SMALL = pixels.SMALL | {
    "diffusion.frequency": 16.0,
    "methods.anoddpm.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("anoddpm", argument, SETTINGS, PUBLISHED, SMALL)
