"""DPMM: a Dirichlet-process mixture of tokens of a frozen network (methods/dpmm.py).

    python -m madad_jax.main --config=configs/baselines/dpmm.py --workdir=runs/dpmm

The argument is a cohort of parts/protocols.py. Published (arXiv 2509.19997): at most 500
components, 40 epochs, rate 0.2, bilinear map without smoothing. The network and its weights are
those of memory_bank.py.
"""

from configs.parts import pixels, protocols

# `config.methods.dpmm`.
SETTINGS = dict(
    pooling=1,  # side of the neighbourhood that a token is the mean of, odd
    most_tokens=300_000,  # that are looked at; of more slices, as many of each
    mixture=dict(
        components=500,  # at most; the mixture leaves out those that it does not need
        epochs=40,  # over the tokens
        rate=0.2,  # of the moving averages of its sums
        batch=8192,  # tokens of an update (ours)
    ),
    inference=dict(),
)

PUBLISHED = pixels.TOKENS | {"map.sigma": 0.0}
SMALL = pixels.SMALL_TOKENS | {
    "methods.dpmm.mixture.components": 200,
    "methods.dpmm.mixture.epochs": 10,
    "methods.dpmm.most_tokens": 60_000,
}


def get_config(argument: str = "demo"):
    return protocols.config("dpmm", argument, SETTINGS, PUBLISHED, SMALL)
