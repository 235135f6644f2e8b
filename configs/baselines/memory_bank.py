"""Memory bank of tokens of a frozen network (methods/memory_bank.py): AnomalyDINO, PatchCore.

    python -m madad_jax.main --config=configs/baselines/memory_bank.py --workdir=runs/memory_bank

The argument is a cohort of parts/protocols.py. Published (AnomalyDINO): DINOv2 ViT-S/14 at 448
pixels, cosine distance, Gaussian of 4 pixels. PatchCore's neighbourhoods are
`--config.methods.memory_bank.pooling=3`. Weights are yours (docs/methods.md): without
`--config.features.weights=FILE` the published network is an untrained backbone, and the rows say
so. `demo` and `slices` train a small masked autoencoder on the healthy slices in its place.
"""

from configs.parts import pixels, protocols

# `config.methods.memory_bank`.
SETTINGS = dict(
    pooling=1,  # side of the neighbourhood that a token is the mean of, odd; PatchCore: 3
    size=3000,  # rows of the bank; PatchCore takes 1 % of all tokens, some 3,000 of 600 slices
    coreset="greedy",  # greedy (PatchCore) | random | none (AnomalyDINO; `size` must hold all)
    projection=128,  # numbers that the greedy coreset projects a token to; 0: it does not
    most_tokens=300_000,  # that are looked at; of more slices, as many of each
    inference=dict(),
)

PUBLISHED = pixels.TOKENS | {"map.sigma": 4 * 256 / 448}
SMALL = pixels.SMALL_TOKENS | {
    "methods.memory_bank.size": 1000,
    "methods.memory_bank.most_tokens": 60_000,
}


def get_config(argument: str = "demo"):
    return protocols.config("memory_bank", argument, SETTINGS, PUBLISHED, SMALL)
