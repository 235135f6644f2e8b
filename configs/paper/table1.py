"""Table 1 of the paper: S1, IXI -> ATLAS 2.0, by size of lesion.

    python -m madad_jax.main --config=configs/paper/table1.py --workdir=runs/table1 \
        --config.data_root=data/ixi_atlas

The argument picks rows and a preset: `:madad`, `:thor,ddpm`, `:madad,official`; `demo` is the
embedded cohort at small scale. The published "Average" of the baselines is THOR's mean over
slices (small, medium and large weighted by their number); the published 51.6 of MAD-AD cannot
be that and is most likely the Dice of all pixels pooled. Both are reported, under their names.
"""

from configs import atlas, demo
from configs.parts import table_cells

ROWS = ("DDPM", "AnoDDPM", "AutoDDPM", "pDDPM", "THOR", "MAD-AD")
COLUMNS = (
    ("Average, pooled", "T1", "pooled_max_dice", "Average"),
    ("Average, weighted by size", "T1", "weighted.max_dice", "Average"),
    ("Small", "T1", "by_size.small.max_dice", ""),
    ("Medium", "T1", "by_size.medium.max_dice", ""),
    ("Large", "T1", "by_size.large.max_dice", ""),
    ("Small, pooled", "T1", "by_size.small.pooled_max_dice", "Small"),
    ("Medium, pooled", "T1", "by_size.medium.pooled_max_dice", "Medium"),
    ("Large, pooled", "T1", "by_size.large.pooled_max_dice", "Large"),
)


def get_config(argument: str = ""):
    preset, small, rows, _ = table_cells.parse(argument, ROWS, ())
    c = table_cells.table(
        1,
        "S1: lesions of ATLAS 2.0, healthy training on IXI, max Dice by size of lesion",
        columns=COLUMNS,
        rows=rows,
        data_root="" if small else "data/ixi_atlas",
        needs="Put middle T1 slices there, train and val of IXI, test of ATLAS 2.0 with "
        "segmentations (python -m madad_jax prepare --cohort=ixi and --cohort=atlas, "
        "--protocol=s1)",
        demo=small,
    )
    for row in rows:
        if row == "MAD-AD":
            config = small_madad("T1") if small else atlas.get_config(preset)
        else:
            config = table_cells.baseline(row, "demo:T1" if small else "atlas:T1")
        if config is not None:
            table_cells.add(c, row, "T1", config)
    return c


def small_madad(modality):
    """The demo's detector, a few minutes' worth."""
    c = demo.get_config(modality)
    c.data.image_size = 64  # the cohort of configs/baselines/*.py:demo
    c.autoencoder.crop = 32
    c.autoencoder.train.steps = 400
    c.train.steps = 400
    c.log.validate_every_steps = 200
    c.eval.panels = 4
    return c
