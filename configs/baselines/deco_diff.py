"""DeCo-Diff on the latents of this repository's autoencoder (methods/deco_diff.py).

    python -m madad_jax.main --config=configs/baselines/deco_diff.py --workdir=runs/deco_diff

The argument is a cohort of parts/protocols.py. Published settings: Beizaee et al., CVPR 2025
(256 pixels, batch of 128, 800 epochs).
"""

from configs.parts import latents, protocols

PUBLISHED = {
    "train.epochs": 800,
    "train.batch_size": 128,
    "optim.lr": 1e-4,
    "optim.weight_decay": 1e-4,
    "diffusion.noise": "gaussian",
    "synthesis.share": 0.0,
}
SMALL = latents.SMALL | {
    "methods.deco_diff.corruption.sides": (1, 2, 4, 8),
    "methods.deco_diff.corruption.probabilities": (0.3, 0.3, 0.2, 0.2),
    "methods.deco_diff.inference.image_sigma": 1.5,
}


def get_config(argument: str = "demo"):
    return protocols.config("deco_diff", argument, PUBLISHED, SMALL)
