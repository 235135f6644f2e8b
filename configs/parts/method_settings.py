"""Sections of methods' settings, `config.methods.<name>`: MAD-AD's, and parts that several share.

A section's `inference` part may change after training; everything else in it is part of what was
trained. The other methods' sections stand in configs/baselines/<name>.py with their published
values. What methods share (network, diffusion, optimiser, budget, image size) are the shared
sections, set to each method's published values there too.
"""


def pixel_mask(widths=(24, 64, 128, 192)):
    """Keys of a mask network at image resolution, and of what is drawn for it (ours)."""
    return dict(
        network=dict(
            widths=widths,  # channels of its levels
            patch=2,  # squares of so many pixels are folded into channels first
            num_groups=8,
        ),
        contralateral=False,  # whether it sees the other half of the head too
        dice_weight=0.5,  # of soft Dice beside the cross-entropy
        drawn=dict(  # anomalies
            healthy=0.2,  # share of the slices that get none
            max_shapes=3,  # others have 1 to so many
            min_radius=0.0125,  # of the shapes, shares of the side
            max_radius=0.2,
            small=1.0,  # above 1 draws more small shapes; 1: as many in each octave
            kinds=("shift", "constant", "foreign", "blur", "warp", "swap", "mass"),
        ),
        appearance=dict(  # of the healthy slices, before
            gamma=0.2,  # deviation of the logarithm of the exponent
            field=0.08,  # largest deviation of a smooth factor from 1
            blur=0.3,  # share of the slices blurred by up to a pixel
            noise=0.03,  # largest deviation of white noise, of the range [0, 1]
            flip=0.5,  # share of the slices mirrored, left for right
        ),
    )


def madad():
    """MAD-AD's own section, at the paper's values."""
    return dict(
        # A mask head at image resolution (ours): `pixel_mask(...)` with widths; none: off.
        pixel_head=dict(weight=1.0, **pixel_mask(widths=())),
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
            join=dict(  # weights of log-odds in the map; for a mask head at image resolution
                pixels=1.0,  # that head
                atlas=0.3,  # deviation from the atlas of healthy slices
                cells=0.15,  # mask head at latent resolution
            ),
        ),
    )


def residual(difference="l1", gamma=0.0):
    """Keys of a map that is a difference."""
    return dict(
        difference=difference,  # l1 | l2
        gamma=gamma,  # clip of the difference, which becomes 1; 0: the widest there can be
    )


def reverse(start):
    """Keys of partial noising."""
    return dict(
        start=start,  # level that images are noised to, of diffusion.timesteps
        steps=0,  # from there to 0; 0: every level
        eta=1.0,  # 0 DDIM .. 1 DDPM
    )


def adaptive():
    """Per-image stops after GLAD (diffusion/partial.py), off as published."""
    return dict(
        adaptive_limit=0.0,  # patch difference that stops an image, of [-1, 1]; 0: never
        adaptive_first=0,  # levels below stop every image
    )


def filtered(median, erosion):
    """Keys of methods that filter their map and erode the brain mask (pixels of the image)."""
    return dict(
        median=median,  # side of a median filter, odd; 0: none
        erosion=erosion,  # side of the squares that the brain mask is eroded by; 0: not
        **residual(),
    )


def fused(latent_gamma, fusion):
    return dict(
        image_gamma=0.4,  # clip of the image difference
        image_sigma=3.0,  # pixels of the image
        latent_gamma=latent_gamma,  # clip of the latent difference, in scaled latents
        latent_sigma=1.0,  # latent cells
        fusion=fusion,  # geometric | arithmetic
        reference="autoencoded",  # input | autoencoded
    )
