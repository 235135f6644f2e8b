"""Healthy training alone, on IXI: autoencoder and denoiser, nothing is scored.

    python -m madad_jax.main --config=configs/ixi.py --workdir=runs/ixi --mode=train

Argument: a modality (T1 | T2) and a preset after a comma. Data: the PNG layout of the README
under `data.root`, splits train and val.
"""

from configs import default


def get_config(argument: str = "T1"):
    modality, _, preset = argument.partition(",")
    c = default.get_config(preset or "paper")
    c.name = f"ixi-{modality.lower()}"
    c.data.root = "data/ixi"
    c.data.modality = modality
    c.eval.sets = ()
    return c
