"""The own sections of all methods but MAD-AD, with their published values: `config.methods.<name>`.

A section's `inference` part may change after training; everything else in it is part of what was
trained. What methods share (network, diffusion, optimiser, budget, image size) are the shared
sections, set to each method's published values by configs/baselines/<name>.py.
"""

from ml_collections import config_dict


def sections():
    """One section a method."""
    return config_dict.create(
        ddpm=_ddpm(),
        anoddpm=_anoddpm(),
        pddpm=_pddpm(),
        autoddpm=_autoddpm(),
        thor=_thor(),
        itermask2=_itermask2(),
        wolleb=_wolleb(),
    )


def _residual(difference="l1", gamma=0.0):
    """Keys that build_methods.residual reads."""
    return dict(
        difference=difference,  # l1 | l2
        gamma=gamma,  # clip of the difference, which becomes 1; 0: the widest there can be
    )


def _reverse(start):
    """Keys of partial noising."""
    return dict(
        start=start,  # level that images are noised to, of diffusion.timesteps
        steps=0,  # from there to 0; 0: every level
        eta=1.0,  # 0 DDIM .. 1 DDPM
    )


def _adaptive():
    """Per-image stops after GLAD (diffusion/partial.py), off as published."""
    return dict(
        adaptive_limit=0.0,  # patch difference that stops an image, of [-1, 1]; 0: never
        adaptive_first=0,  # levels below stop every image
    )


def _ddpm():
    return dict(
        predicts="eps",  # eps | x0
        inference=dict(**_reverse(250), **_adaptive(), **_residual()),
    )


def _anoddpm():
    return dict(
        predicts="eps",
        inference=dict(**_reverse(250), **_adaptive(), **_residual("l2", 1.0)),
    )


def _pddpm():
    return dict(
        predicts="x0",
        box=48,  # pixels a side of what is noised
        stride=48,  # pixels from box to box; smaller: overlapping
        inference=dict(start=500, **_residual()),
    )


def _autoddpm():
    return dict(
        predicts="eps",
        inference=dict(
            **_reverse(200),
            inpaint_start=50,  # level that the stitched image is noised to
            inpaint_steps=0,  # 0: every level
            resamplings=5,  # of each level
            threshold=0.13,  # of the mask; 0: the 95th percentile of each image
            dilation=3,  # of the mask, pixels, odd; 1: none
            lpips="",  # weights of LPIPS-VGG (.npz or .safetensors); empty: 1 - SSIM
            **_residual(),
        ),
    )


def _thor():
    return dict(
        predicts="eps",
        inference=dict(
            **_reverse(250),
            harmonise=(200, 150, 100, 50),  # levels; with Gaussian noise 300, 150, 50 from 350
            window=13,  # of the morphology, pixels, odd
            lpips="",  # as autoddpm's
            **_residual(),
        ),
    )


def _itermask2():
    return dict(
        radius=15.0,  # cycles per image below which amplitudes are hidden
        sides=(4, 8, 16),  # of the masks' squares, pixels
        squares=60,  # of a mask at most (ours: the public code's count could not be read)
        exceeded=0.2,  # share of masked healthy pixels above the threshold
        inference=dict(
            start=0.6,  # share of the brain in the first mask
            least=0.01,  # a mask that loses a smaller share is the last
            rounds=50,  # at most
            **_residual("l2", 1.0),
        ),
    )


def _wolleb():
    return dict(
        predicts="eps",
        labels="synthetic",  # synthetic: no label of a person is used; the row says so
        classifier=dict(
            model_channels=32,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            num_groups=8,
            patch=1,
        ),
        inference=dict(
            start=500,  # level of the deterministic encoding
            steps=0,  # there, and as many back; 0: every level
            scale=100.0,  # of the classifier's gradient
            **_residual(),
        ),
    )
