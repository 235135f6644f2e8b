"""The embedded cohort, small networks: the whole job in minutes on two CPU cores.

    python -m madad_jax.main --config=configs/demo.py --workdir=runs/demo

Everything is synthetic: the figures say that the program works, nothing of patients. The
argument is a modality (T1 | T2 | FLAIR), or several as T1,FLAIR.

What is ours and not the paper's, because minutes are
not GPU-days: a light f4 autoencoder with 8 channels that folds 4 x 4 pixels into channels first,
trained on squares inside the brain; pyramid noise; most training samples with a synthetic anomaly
in place of noise (synthesis/shapes.py); a clean latent predicted as a change of the input; the
Muon optimiser in both; 2 DDIM steps that rewrite every cell by the probability that it is
abnormal. Options were chosen on `val_lesion`, a split of the cohort that is never reported.
"""

from configs import default


def get_config(modality: str = "T1"):
    c = default.get_config("paper")
    c.name = f"demo-{modality.lower()}".replace(",", "-")
    c.data.source = "cohort"
    c.data.modality = modality
    c.data.image_size = 96  # 2 mm pixels
    c.data.cohort.update(field_of_view=192.0, train=120, val=48, test=40, test_healthy=12)
    small_autoencoder(c, crop=48)
    c.autoencoder.train.update(steps=600, batch_size=6)
    small_dit(c)
    pixel_head(c, groups=32)
    c.train.update(steps=500, batch_size=16, ema_decay=0.99)
    c.log.update(every_steps=20, validate_every_steps=500)
    c.checkpoint.update(every_steps=250, every_minutes=2.0)
    c.eval.update(mean_image_band=4, batch_size=24)
    return c


def small_autoencoder(c, crop: int):
    """f4 with 8 channels, 0.55 M weights, no adversary. All its maps are small and 64 wide."""
    c.autoencoder.update(
        patch=4,
        channels=64,
        channel_mult=(1,),
        num_res_blocks=1,
        num_groups=8,
        latent_channels=8,
        mid_attention=False,
        discriminator=False,
        scaling_factor=0.0,
        crop=crop,
    )
    c.autoencoder.optim.update(
        name="muon",
        lr=2e-3,
        schedule="warmup_cosine",
        warmup_epochs=0.3,
        final_lr_ratio=0.03,
        beta1=0.9,
        beta2=0.99,
        grad_clip_norm=1.0,
    )


def small_dit(c):
    """A masked DiT of 1.3 M weights, and what lets it learn in minutes."""
    c.denoiser.update(
        name="dit", size="T/2", hidden_size=128, depth=4, num_heads=4, dropout=0.0, residual_x0=True
    )
    c.diffusion.noise = "pyramid"
    c.synthesis.share = 0.6
    c.methods.madad.masking.update(per="sample", brain_cells=1, brain_min_fraction=0.5)
    c.methods.madad.loss.mask_weight = 0.5
    c.optim.update(name="muon", lr=2e-3, warmup_epochs=1.0, grad_clip_norm=1.0)
    c.methods.madad.inference.sampler.update(steps=2, rewrite="probability", inside_brain=True)
    c.methods.madad.inference.score.update(difference="l1", reference="autoencoded", gamma=0.5)
    c.map.inside_brain = True


def pixel_head(c, groups: int):
    """A mask head at image resolution, of 1.6 M weights, and an atlas for it."""
    c.atlas.groups = groups
    c.methods.madad.pixel_head.network.widths = (24, 64, 128, 192)
    # Soft Dice made probabilities of 0 and 1, which rank badly and leave small lesions out.
    c.methods.madad.pixel_head.dice_weight = 0.0
    c.methods.madad.pixel_head.drawn.update(max_shapes=5, small=1.4)
    c.synthesis.share = 0.7
    c.optim.lr = 1.2e-3
    c.map.sigma = 2.0
    # Pixels of the map: 1 % of a healthy brain is more than what most lesions cover.
    c.eval.false_positive_rate = 0.003
