"""Every method at one budget, on any folder of healthy slices: two CPU cores, a few hours.

    python -m madad_jax.main --config=configs/paper/all_methods.py --workdir=runs/all_methods \
        --config.data_root=data/my_slices

Alike for all: data, 64 pixels, 300 steps of 16 slices, three seeds; the grid that is worked on
(16 x 16: an f4 latent, or 4 x 4 pixels folded into channels), and one DiT for all that work on
latents, one U-Net for all on pixels; the rest is each method's own (configs/baselines). It is the
same budget, not the best of each: what needs longer looks worse here than in its paper.
The argument picks rows (`:dae,mad_ad`); `demo` is the embedded cohort with one seed.
"""

from configs import slices_cpu
from configs.baselines import (
    ae,
    anoddpm,
    autoddpm,
    dae,
    ddpm,
    deco_diff,
    disyre,
    dpmm,
    drawn_unet,
    itermask2,
    maediff,
    memory_bank,
    noise_agnostic,
    pddpm,
    reflect,
    thor,
    vae,
    wolleb,
)
from configs.paper import table1
from configs.parts import table_cells

ON_PIXELS = {
    "AE": ae,
    "VAE": vae,
    "DAE": dae,
    "DDPM": ddpm,
    "AnoDDPM": anoddpm,
    "pDDPM": pddpm,
    "MAEDiff": maediff,
    "AutoDDPM": autoddpm,
    "THOR": thor,
    "IterMask2": itermask2,
    "Wolleb (synthetic labels)": wolleb,
    # The last three have networks of their own.
    "Noise-agnostic": noise_agnostic,
    "Disyre": disyre,
    "U-Net on drawn anomalies": drawn_unet,
    "Memory bank (self-trained)": memory_bank,
    "DPMM (self-trained)": dpmm,
}
ON_LATENTS = {"DeCo-Diff": deco_diff, "REFLECT": reflect}
NOISE_ALONE = "MAD-AD, noise alone"
MADAD = "MAD-AD, with synthetic anomalies"
COMBINED = "MAD-AD, signals combined"
ROWS = (*ON_PIXELS, *ON_LATENTS, NOISE_ALONE, MADAD, COMBINED)

COLUMNS = (
    ("AP", "T1", "ap", ""),
    ("Pooled max Dice†", "T1", "pooled_max_dice", ""),
    ("Max Dice per slice†", "T1", "max_dice", ""),
    ("AUROC", "T1", "auroc", ""),
    ("Pooled Dice, healthy threshold", "T1", "pooled_dice_healthy", ""),
    ("Dice per slice, healthy threshold", "T1", "dice_healthy", ""),
    ("Healthy slices alarmed", "T1", "false_alarm_slices_healthy", "", "low"),
    ("Healthy brain pixels above", "T1", "false_alarm_pixels_healthy", "", "low"),
    ("Slice AUROC", "T1", "image_auroc_max", ""),
    ("AP, small", "T1", "by_size.small.ap", ""),
    ("AP, medium", "T1", "by_size.medium.ap", ""),
    ("AP, large", "T1", "by_size.large.ap", ""),
    ("Max Dice per slice†, small", "T1", "by_size.small.max_dice", ""),
    ("Max Dice per slice†, medium", "T1", "by_size.medium.max_dice", ""),
    ("Max Dice per slice†, large", "T1", "by_size.large.max_dice", ""),
    # Of whole scans, with `override="eval.protocol=both eval.spacing_mm=(SLICES,ROWS,COLUMNS)"`.
    ("Scan Dice, healthy threshold", "T1", "volumes.dice_healthy", ""),
    ("Scan Dice†", "T1", "volumes.dice_oracle", ""),
    ("Lesions found at 2 false positives a healthy scan", "T1", "volumes.at.2.sensitivity", ""),
    ("Lesions found at 2 false positives a scan†", "T1", "volumes.sensitivity_at_2", ""),
)

BUDGET = {
    "data.image_size": 64,
    "train.steps": 300,
    "train.batch_size": 16,
    "train.accum_steps": 1,
    "train.ema_decay": 0.98,
    "log.every_steps": 20,
    "log.validate_every_steps": 150,
    "checkpoint.every_steps": 150,
    "eval.batch_size": 26,
    "eval.panels": 4,
}
PIXELS = {"denoiser.model_channels": 32}  # nearer to what a step of the DiT costs
LATENTS = {
    "autoencoder.crop": 32,
    "autoencoder.train.steps": 800,
    "denoiser.hidden_size": 128,
    "denoiser.depth": 4,
    "denoiser.num_heads": 4,
}


def get_config(argument: str = ""):
    preset, small, rows, _ = table_cells.parse(argument, ROWS, ())
    if preset != "paper":
        raise ValueError(
            f"argument: found {preset!r}; this table is made of one preset, the paper's"
        )
    c = table_cells.table(
        0,
        "Every method at one budget",
        name="all_methods",
        columns=COLUMNS,
        rows=rows,
        data_root="" if small else "data/slices",
        needs="Put T1 slices there: train and val of healthy people, test with segmentations",
        thresholds="† chosen with the truth (oracle); other thresholds on healthy validation "
        "slices alone.",
        judged=2,
        demo=small,
    )
    trained = ""
    for row in rows:
        config = _config("demo" if small else "slices", row)
        of_madad = {"trained": trained, "signal": "combined_map"} if row == COMBINED else {}
        key = table_cells.add(c, row, "T1", config, **of_madad)
        trained = key if row == MADAD else trained
    return c


def _config(cohort, row):
    if row in ON_PIXELS:
        config = ON_PIXELS[row].get_config(f"{cohort}:T1")
        return _at(config, BUDGET | PIXELS)
    if row in ON_LATENTS:
        return _at(ON_LATENTS[row].get_config(f"{cohort}:T1"), BUDGET | LATENTS)
    config = table1.small_madad("T1") if cohort == "demo" else slices_cpu.get_config("T1")
    config = _at(config, BUDGET | LATENTS)
    if row == NOISE_ALONE:
        config.synthesis.share = 0.0
        # A mask head at image resolution would learn from drawn anomalies all the same.
        config.methods.madad.pixel_head.network.widths = ()
        config.atlas.groups = 0
    if row == COMBINED:
        _at(config, {"ensemble.flips": True, "ensemble.combine": "geometric"})
    return config


def _at(config, values):
    config.lock()  # a mistyped key is an error and not a new key
    config.update_from_flattened_dict(values)
    config.unlock()
    return config
