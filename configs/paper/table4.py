"""Table 4 of the paper: DDIM steps and the clip gamma. One training a modality, many evaluations.

    python -m madad_jax.main --config=configs/paper/table4.py --workdir=runs/table4 \
        --config.data_root=data/brats21

The argument picks rows, modalities and a preset: `:FLAIR`, `:official`; `demo` is the embedded
cohort at small scale (T1).
"""

from configs.parts import table_variants

VARIANTS = {
    "10 steps": {"methods.madad.inference.sampler.steps": 10},
    "5 steps": {"methods.madad.inference.sampler.steps": 5},
    "2 steps": {"methods.madad.inference.sampler.steps": 2},
    "gamma 0.2": {"methods.madad.inference.score.gamma": 0.2},
    "gamma 0.4": {"methods.madad.inference.score.gamma": 0.4},
    "no clipping": {"methods.madad.inference.score.gamma": 0.0},
}


def get_config(argument: str = ""):
    return table_variants.table(
        4, "DDIM steps and clipping: S2, max Dice", argument, VARIANTS, _changed
    )


def _changed(config, row):
    config.methods.madad.inference.sampler.steps = 10
    config.update_from_flattened_dict(VARIANTS[row])
    return "map"
