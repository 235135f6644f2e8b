"""REFLECT: a rectified flow on the latents of this repository's autoencoder (methods/reflect.py).

    python -m madad_jax.main --config=configs/baselines/reflect.py --workdir=runs/reflect

The argument is a cohort of parts/protocols.py. Published settings: Beizaee et al., MICCAI 2025
(256 pixels, U-Net L, batch of 96, 200 epochs, learning rate 5e-4 in the paper).
"""

from configs.parts import latents, protocols

PUBLISHED = {
    "train.epochs": 200,
    "train.batch_size": 96,
    "train.accum_steps": 2,
    "optim.lr": 5e-4,
    "synthesis.share": 0.0,
}
SMALL = latents.SMALL | {"methods.reflect.inference.image_sigma": 1.5}


def get_config(argument: str = "demo"):
    return protocols.config("reflect", argument, PUBLISHED, SMALL)
