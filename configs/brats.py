"""S2: healthy slices of BraTS'21 train, the largest-lesion slice of each test subject is scored.

    python -m madad_jax.main --config=configs/brats.py:FLAIR --workdir=runs/brats-flair

Argument: FLAIR | T1 | T1CE | T2, and a preset after a comma: `:T2,official`. Data: the PNG
layout of the README under `data.root`, slices 70 to 89, subjects 990 / 128 / 133. Published
max Dice (paper, table 2): FLAIR 76.2, T1CE 68.5, T2 73.2, T1 63.4. One 24 GB GPU.
"""

from configs import default


def get_config(argument: str = "FLAIR"):
    modality, _, preset = argument.partition(",")
    c = default.get_config(preset or "paper")
    c.name = f"brats-{modality.lower()}"
    c.data.root = "data/brats21"
    c.data.modality = modality
    c.eval.mean_image_band = 4
    return c
