"""Any folder of healthy slices at 128 pixels, on two CPU cores in about an hour.

    python -m madad_jax.main --config=configs/slices_cpu.py:T1 --workdir=runs/slices \
        --config.data.root=data/my_slices

The argument is the modality. Networks and options are those of configs/demo.py, which says what
of them is ours and not the paper's.
"""

from configs import default, demo


def get_config(modality: str = "T1"):
    c = default.get_config("paper")
    c.name = f"slices-cpu-{modality.lower()}"
    c.data.root = "data/slices"
    c.data.modality = modality
    c.data.image_size = 128
    demo.small_autoencoder(c, crop=64)
    c.autoencoder.train.update(steps=1500, batch_size=6)
    demo.small_dit(c)
    demo.pixel_head(c, groups=48)
    c.train.update(steps=1600, batch_size=16, ema_decay=0.997)
    c.log.update(every_steps=20, validate_every_steps=400)
    c.checkpoint.update(every_steps=200, every_minutes=5.0)
    return c
