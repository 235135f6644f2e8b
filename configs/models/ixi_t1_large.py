"""A larger sibling of ixi_t1 for one GPU: the same slices and options, wider and deeper networks.

    python -m madad_jax.main --config=configs/models/ixi_t1_large.py --workdir=runs/ixi-t1-large

No model of it has been trained to its end; benchmarks/gpu trains it for the minutes that are left.
"""

from configs.models import ixi_t1


def get_config():
    c = ixi_t1.get_config()
    c.name = "model-ixi-t1-large"
    c.autoencoder.channels = 2 * c.autoencoder.channels
    c.autoencoder.train.update(steps=4000, batch_size=32)
    # Sizes of DiT-B, at the patch of the small one.
    c.denoiser.update(hidden_size=768, depth=12, num_heads=12)
    c.train.update(steps=20000, batch_size=64)
    c.log.update(every_steps=50, validate_every_steps=1000)
    c.checkpoint.update(every_steps=1000, every_minutes=5.0)
    return c
