"""REFLECT: a rectified flow on the latents of this repository's autoencoder (methods/reflect.py).

    python -m madad_jax.main --config=configs/baselines/reflect.py --workdir=runs/reflect

The argument is a cohort of parts/protocols.py. Published settings: Beizaee et al., MICCAI 2025
(256 pixels, U-Net L, batch of 96, 200 epochs, learning rate 5e-4 in the paper).
"""

from configs.parts import latents, method_settings, protocols

# `config.methods.reflect`; its `inference` part may change after training.
SETTINGS = dict(
    corruption=dict(
        max_objects=4,
        vertices=10,  # of a polygon
        min_radius=0.03,  # of objects, shares of the side
        max_radius=0.15,
        min_strength=0.2,  # strength ~ U(min_strength, 1) an object
        inside_brain=0.9,  # probability that objects end at the brain's rim
        texture=0.5,  # probability of a texture; else noise
        textures="drawn",  # drawn | shuffled (patches of other latents; cached latents too)
    ),
    inference=dict(steps=1, **method_settings.fused(0.4, "arithmetic")),  # steps of Euler's method
)

PUBLISHED = {
    "train.epochs": 200,
    "train.batch_size": 96,
    "train.accum_steps": 2,
    "optim.lr": 5e-4,
    "synthesis.share": 0.0,
}
SMALL = latents.SMALL | {"methods.reflect.inference.image_sigma": 1.5}


def get_config(argument: str = "demo"):
    return protocols.config("reflect", argument, SETTINGS, PUBLISHED, SMALL)
