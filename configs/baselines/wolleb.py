"""Classifier-guided DDIM, with synthetic labels (methods/wolleb.py).

    python -m madad_jax.main --config=configs/baselines/wolleb.py --workdir=runs/wolleb

The argument is a cohort of parts/protocols.py. Published:
256 pixels, batch of 10, about 80,000 steps.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.wolleb`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",
    # synthetic: anomalies are drawn, no label of a person is used | split: slices of the split
    # `train_lesion` are abnormal, those of `train` are not; the row says which.
    labels="synthetic",
    classifier=dict(
        model_channels=32,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        num_groups=8,
        patch=1,
    ),
    inference=dict(
        start=500,  # level of the deterministic encoding
        steps=0,  # there, and as many back; 0: every level
        scale=100.0,  # of the classifier's gradient
        **method_settings.residual(),
    ),
)

PUBLISHED = pixels.WYATT | {
    "optim.name": "adam",
    "train.steps": 80000,
    "train.batch_size": 10,
}
SMALL = pixels.SMALL | {
    "methods.wolleb.classifier.channel_mult": (1, 2),
    "methods.wolleb.classifier.patch": 4,
    "methods.wolleb.inference.steps": 10,
}


def get_config(argument: str = "demo"):
    return protocols.config("wolleb", argument, SETTINGS, PUBLISHED, SMALL)
