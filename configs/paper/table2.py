"""Table 2 of the paper: S2, BraTS'21, healthy slices train, the largest-lesion slice is scored.

    python -m madad_jax.main --config=configs/paper/table2.py --workdir=runs/table2 \
        --config.data_root=data/brats21

The argument picks rows, modalities and a preset: `:madad,FLAIR`, `:T2,official`; `demo` is the
embedded cohort at small scale (T1, or the modality named beside it). The published "max Dice"
does not say over what: the mean over slices at one threshold, and the Dice of all pixels pooled
stand side by side.
"""

from configs import brats
from configs.paper import table1
from configs.parts import table_cells

ROWS = ("AE", "DDPM", "AutoDDPM", "Cycl. UNet", "DAE", "IterMask2", "MAD-AD")
MODALITIES = ("FLAIR", "T1CE", "T2", "T1")


def get_config(argument: str = ""):
    preset, small, rows, modalities = table_cells.parse(argument, ROWS, MODALITIES)
    modalities = table_cells.small_columns(small, modalities)
    c = table_cells.table(
        2,
        "S2: tumours of BraTS'21, max Dice",
        columns=columns(modalities),
        rows=rows,
        data_root="" if small else "data/brats21",
        needs=NEEDS,
        demo=small,
    )
    for row in rows:
        for modality in modalities:
            config = config_of(row, modality, preset, small)
            if config is not None:
                table_cells.add(c, row, modality, config)
    return c


NEEDS = (
    "Put the slices of BraTS'21 there "
    "(python -m madad_jax prepare --cohort=brats --protocol=s2, all four modalities)"
)


def columns(modalities):
    """Each modality and their mean, in both definitions of max Dice."""
    out = []
    for label, figure in (("", "max_dice"), (", pooled", "pooled_max_dice")):
        out += [(m + label, m, figure, m) for m in modalities]
        if len(modalities) > 1:
            # The published mean is one over all four.
            out.append(("Avg" + label, "Avg", figure, "Avg" if len(modalities) == 4 else "-"))
    return out


def config_of(row, modality, preset, small):
    """The config of a row, or None where nothing makes it."""
    if row == "MAD-AD":
        if small:
            return table1.small_madad(modality)
        return brats.get_config(f"{modality},{preset}")
    return table_cells.baseline(row, f"{'demo' if small else 'brats'}:{modality}")
