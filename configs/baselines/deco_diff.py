"""DeCo-Diff on the latents of this repository's autoencoder (methods/deco_diff.py).

    python -m madad_jax.main --config=configs/baselines/deco_diff.py --workdir=runs/deco_diff

The argument is a cohort of parts/protocols.py. Published settings: Beizaee et al., CVPR 2025
(256 pixels, batch of 128, 800 epochs).
"""

from configs.parts import latents, method_settings, protocols

# `config.methods.deco_diff`; its `inference` part may change after training.
SETTINGS = dict(
    corruption=dict(
        max_ratio=0.7,  # share of noised patches ~ U(0, max_ratio)
        sides=(1, 2, 4, 8, 16),  # of patches in latent cells
        probabilities=(0.3, 0.25, 0.2, 0.15, 0.1),
        per="sample",  # batch | sample
        foreign=0.3,  # share of patches with another latent's content ~ U(0, foreign)
        brain_cells=1,  # as masking.brain_cells
        brain_min_fraction=0.5,
    ),
    inference=dict(start=5, **method_settings.fused(0.2, "geometric")),
)

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
    return protocols.config("deco_diff", argument, SETTINGS, PUBLISHED, SMALL)
