"""S1: middle slices of IXI train, middle slices of ATLAS 2.0 (stroke) are scored.

    python -m madad_jax.main --config=configs/atlas.py --workdir=runs/atlas

Argument: a preset (paper | official). Data: the PNG layout of the README under `data.root`,
train and val from IXI, test from ATLAS, one slice a subject (index 95 at 1 mm MNI). Published
(paper, table 1): 51.6, a pooled max Dice that stands beside slice-weighted means of other
methods there; by size 15.5 / 50.1 / 64.1. One 24 GB GPU.
"""

from configs import default


def get_config(preset: str = "paper"):
    c = default.get_config(preset)
    c.name = "atlas-t1"
    c.data.root = "data/ixi_atlas"
    c.data.modality = "T1"
    return c
