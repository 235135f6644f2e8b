"""The own sections of all methods, with their published values: `config.methods.<name>`.

A section's `inference` part may change after training; everything else in it is part of what was
trained. What methods share (network, diffusion, optimiser, budget, image size) are the shared
sections, set to each method's published values by configs/baselines/<name>.py.
"""

from ml_collections import config_dict


def sections():
    """One section a method."""
    return config_dict.create(
        madad=_madad(),
        ddpm=_ddpm(),
        anoddpm=_anoddpm(),
        pddpm=_pddpm(),
        autoddpm=_autoddpm(),
        thor=_thor(),
        itermask2=_itermask2(),
        wolleb=_wolleb(),
        ae=_ae(),
        vae=_ae() | dict(kl_weight=1.0),
        dae=_dae(),
        maediff=_maediff(),
        deco_diff=_deco_diff(),
        reflect=_reflect(),
    )


def _madad():
    return dict(
        masking=dict(
            max_ratio=0.4,  # share of noised blocks ~ U(0, max_ratio)
            sides=(1, 2, 4, 8),  # block sides in latent cells
            probabilities=(0.2, 0.3, 0.3, 0.2),
            per="batch",  # batch | sample: how often the block sides are drawn
            brain_cells=2,  # squares of so many latent cells are gated together
            brain_min_fraction=0.9,  # never noised below this share of brain; 0 gates nothing
        ),
        loss=dict(
            mask="bce",  # bce | mse
            mask_weight=1e-3,  # lambda
            region="all",  # all | noised: where the clean latent's error is taken
        ),
        inference=dict(
            sampler=dict(
                steps=10,  # 1 .. diffusion.timesteps
                spacing="official",  # official | trailing
                eta=0.0,  # 0 deterministic .. 1
                threshold=0.5,  # rewritten where P(visible) is below
                rewrite="threshold",  # threshold | probability
                inside_brain=False,  # never rewrite a cell that training never noised
            ),
            score=dict(
                difference="l2",  # l1 | l2
                reference="input",  # input | autoencoded
                gamma=0.2,  # clip of the difference; 0 leaves it
                latent_gamma=1.0,  # clip of the latent difference, above 0
            ),
        ),
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
        # synthetic: anomalies are drawn, no label of a person is used | split: slices of the split
        # `train_lesion` are abnormal, those of `train` are not; the row says which.
        labels="synthetic",
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


def _filtered(median, erosion):
    """Keys of methods that filter their map and erode the brain mask (pixels of the image)."""
    return dict(
        median=median,  # side of a median filter, odd; 0: none
        erosion=erosion,  # side of the squares that the brain mask is eroded by; 0: not
        **_residual(),
    )


def _ae():
    return dict(
        network=dict(
            kind="dense",  # dense | spatial (ae alone)
            levels=4,  # halvings; 128 pixels -> 8
            channels=32,  # of the first level, doubled up to max_channels
            max_channels=128,
            latent=128,  # numbers of the dense bottleneck
            dropout=0.1,
            num_groups=8,  # of GroupNorm
        ),
        inference=_filtered(median=5, erosion=25),
    )


def _dae():
    return dict(
        resolution=16,  # cells of noise a side
        sigma=0.2,  # of the noise, for intensities in [0, 1]
        inference=_filtered(median=5, erosion=5),
    )


def _maediff():
    return dict(
        box=48,  # side of upper-level patches, pixels
        stride=24,  # between them
        mae_weight=1.0,
        network=dict(  # the masked autoencoder
            patch=8,  # side of sub-level patches, pixels
            hidden_size=128,
            depth=4,
            decoder_depth=1,
            num_heads=4,
        ),
        inference=dict(start=500, **_filtered(median=5, erosion=0)),
    )


def _fused(latent_gamma, fusion):
    return dict(
        image_gamma=0.4,  # clip of the image difference
        image_sigma=3.0,  # pixels of the image
        latent_gamma=latent_gamma,  # clip of the latent difference, in scaled latents
        latent_sigma=1.0,  # latent cells
        fusion=fusion,  # geometric | arithmetic
        reference="autoencoded",  # input | autoencoded
    )


def _deco_diff():
    return dict(
        corruption=dict(
            max_ratio=0.7,  # share of noised patches ~ U(0, max_ratio)
            sides=(1, 2, 4, 8, 16),  # of patches in latent cells
            probabilities=(0.3, 0.25, 0.2, 0.15, 0.1),
            per="sample",  # batch | sample
            foreign=0.3,  # share of patches with another latent's content ~ U(0, foreign)
            brain_cells=1,  # as masking.brain_cells
            brain_min_fraction=0.5,
        ),
        inference=dict(start=5, **_fused(0.2, "geometric")),
    )


def _reflect():
    return dict(
        corruption=dict(
            max_objects=4,
            vertices=10,  # of a polygon
            min_radius=0.03,  # of objects, shares of the side
            max_radius=0.15,
            min_strength=0.2,  # strength ~ U(min_strength, 1) an object
            inside_brain=0.9,  # probability that objects end at the brain's rim
            texture=0.5,  # probability of a texture; else noise
            textures="drawn",  # drawn | shuffled (patches of other latents; cached latents too)
        ),
        inference=dict(steps=1, **_fused(0.4, "arithmetic")),  # steps of Euler's method
    )
