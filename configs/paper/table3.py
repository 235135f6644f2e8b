"""Table 3 of the paper: which of the three signals is scored. One training a modality.

    python -m madad_jax.main --config=configs/paper/table3.py --workdir=runs/table3 \
        --config.data_root=data/brats21

The argument picks rows, modalities and a preset: `:FLAIR`, `:official`; `demo` is the embedded
cohort at small scale (T1, or the modality named beside it), minutes on two CPU cores.
"""

from configs.paper import cells, table2

# What the detector calls its maps.
SIGNALS = {
    "average of predicted masks": "mask_map",
    "latent difference": "latent_map",
    "image difference": "map",
}


def get_config(argument: str = ""):
    preset, small, rows, modalities = cells.parse(argument, tuple(SIGNALS), table2.MODALITIES)
    modalities = cells.small_columns(small, modalities)
    c = cells.table(
        3,
        "Which signal is scored: S2, max Dice",
        columns=table2.columns(modalities),
        rows=rows,
        data_root="" if small else "data/brats21",
        needs=table2.NEEDS,
        demo=small,
    )
    for modality in modalities:
        first = ""
        for row in rows:
            config = table2.config_of("MAD-AD", modality, preset, small)
            key = cells.add(c, row, modality, config, signal=SIGNALS[row], trained=first)
            first = first or key
    return c
