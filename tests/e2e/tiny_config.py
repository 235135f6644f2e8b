"""The whole job in seconds: 32-pixel slices, networks of a few thousand weights."""

from configs import default


def get_config(preset: str = "paper"):
    c = default.get_config(preset)
    c.name = "tiny"
    c.data.image_size = 32
    c.data.augment = "paper"
    c.autoencoder.update(
        channels=8,
        channel_mult=(1, 2),
        num_res_blocks=1,
        num_groups=4,
        mid_attention=False,
        disc_channels=8,
        disc_layers=2,
        scaling_factor=0.0,
    )
    c.autoencoder.loss.disc_start = 4
    c.autoencoder.train.update(steps=8, batch_size=8)
    c.autoencoder.optim.lr = 1e-3
    c.denoiser.update(name="dit", size="T/2", hidden_size=32, depth=1, num_heads=2, dropout=0.1)
    c.methods.madad.masking.update(brain_cells=1, brain_min_fraction=0.5)
    c.train.update(steps=12, batch_size=8, ema_decay=0.9)
    c.optim.update(lr=1e-3, warmup_epochs=1.0)
    c.methods.madad.inference.sampler.steps = 2
    c.log.update(every_steps=2, validate_every_steps=4)
    c.checkpoint.update(every_steps=4, every_minutes=0.0)
    c.eval.update(batch_size=8, bootstrap=20, panels=2)
    return c
