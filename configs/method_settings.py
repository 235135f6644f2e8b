"""The own sections of all methods but MAD-AD, with their published values: `config.methods.<name>`.

A section's `inference` part may change after training; everything else in it is part of what was
trained. What methods share (network, diffusion, optimiser, budget, image size) are the shared
sections, set to each method's published values by configs/baselines/<name>.py.
"""

from ml_collections import config_dict


def sections():
    """One section a method."""
    return config_dict.create(ddpm=_ddpm())


def _residual(difference="l1", gamma=0.0):
    """Keys that build_methods.residual reads."""
    return dict(
        difference=difference,  # l1 | l2
        gamma=gamma,  # clip of the difference, which becomes 1; 0: the widest there can be
    )


def _ddpm():
    return dict(
        predicts="eps",  # eps | x0
        inference=dict(
            start=250,  # level that images are noised to, of diffusion.timesteps
            steps=0,  # from there to 0; 0: every level
            eta=1.0,  # 0 DDIM .. 1 DDPM
            **_residual(),
        ),
    )
