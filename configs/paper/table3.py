"""Table 3 of the paper: which of the three signals is scored. One training a modality.

    python -m madad_jax.main --config=configs/paper/table3.py --workdir=runs/table3 \
        --config.data_root=data/brats21

The argument picks rows, modalities and a preset: `:FLAIR`, `:official`; `demo` is the embedded
cohort at small scale (T1, or the modality named beside it), minutes on two CPU cores.
"""

from configs.parts import table_variants

# What the detector calls its maps.
SIGNALS = {
    "average of predicted masks": "mask_map",
    "latent difference": "latent_map",
    "image difference": "map",
}


def get_config(argument: str = ""):
    return table_variants.table(
        3,
        "Which signal is scored: S2, max Dice",
        argument,
        SIGNALS,
        lambda config, row: SIGNALS[row],
    )
