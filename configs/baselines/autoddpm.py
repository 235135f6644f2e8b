"""AutoDDPM: mask, stitch, resample (methods/autoddpm.py).

    python -m madad_jax.main --config=configs/baselines/autoddpm.py --workdir=runs/autoddpm

The argument is a cohort of parts/protocols.py. Published: 128 pixels, batch of 16, 3,000 epochs.
"""

from configs.parts import method_settings, pixels, protocols

# `config.methods.autoddpm`; its `inference` part may change after training.
SETTINGS = dict(
    predicts="eps",
    inference=dict(
        **method_settings.reverse(200),
        inpaint_start=50,  # level that the stitched image is noised to
        inpaint_steps=0,  # 0: every level
        resamplings=5,  # of each level
        threshold=0.13,  # of the mask; 0: the 95th percentile of each image
        dilation=3,  # of the mask, pixels, odd; 1: none
        lpips="",  # weights of LPIPS-VGG (.npz or .safetensors); empty: 1 - SSIM
        **method_settings.residual(),
    ),
)

PUBLISHED = pixels.THOR | {"train.epochs": 3000}
SMALL = pixels.SMALL | {
    "methods.autoddpm.inference.steps": 8,
    "methods.autoddpm.inference.inpaint_steps": 3,
    "methods.autoddpm.inference.resamplings": 2,
}


def get_config(argument: str = "demo"):
    return protocols.config("autoddpm", argument, SETTINGS, PUBLISHED, SMALL)
