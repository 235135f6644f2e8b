"""The embedded cohort, small networks: the whole job in minutes on two CPU cores.

    python -m madad_jax.main --config=configs/demo.py --workdir=runs/demo

Everything is synthetic: the figures say that the program works, nothing of patients.
"""

from configs import default


def get_config(modality: str = "T1"):
    c = default.get_config("paper")
    c.name = f"demo-{modality}"
    c.data.source = "cohort"
    c.data.modality = modality
    c.data.image_size = 128
    c.autoencoder.update(
        channels=16,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        num_groups=8,
        discriminator=False,
        scaling_factor=0.0,
    )
    c.autoencoder.optim.update(
        lr=2e-3,
        schedule="warmup_cosine",
        warmup_epochs=0.5,
        final_lr_ratio=0.05,
        beta1=0.9,
        beta2=0.99,
        grad_clip_norm=1.0,
    )
    c.autoencoder.train.update(steps=600, batch_size=8)
    c.denoiser.update(name="dit", size="T/2", dropout=0.0)
    c.masking.update(per="sample", brain_cells=1, brain_min_fraction=0.5)
    c.optim.update(lr=1e-3, warmup_epochs=1.0, grad_clip_norm=1.0)
    c.train.update(steps=1500, batch_size=16, ema_decay=0.995)
    return c
