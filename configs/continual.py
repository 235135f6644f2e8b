"""One contrast after another on the embedded cohort, T1 then FLAIR: what is forgotten.

    python -m madad_jax.main --config=configs/continual.py --workdir=runs/continual

After the first task three trainings go on from it: with the update projected onto what T1 leaves
free, plain fine-tuning, and a joint training on both contrasts from fresh weights. The network is
MAD-AD's small DiT without the mask head at image resolution, whose inputs are not recorded.
Sites of a study: --config.data.source=png_folder
--config.train.tasks="('A data.root=data/a','B data.root=data/b')".
"""

from configs import default, demo


def get_config(argument: str = ""):
    if argument:
        raise ValueError(f"argument: found {argument!r}; accepted: none")
    c = default.get_config("paper")
    c.name = "continual"
    c.data.source = "cohort"
    c.data.image_size = 64  # 3 mm pixels
    c.data.cohort.update(field_of_view=192.0, train=48, val=12, test=16, test_healthy=6)
    demo.small_autoencoder(c, crop=32)
    c.autoencoder.train.update(steps=300, batch_size=6)
    demo.small_dit(c)
    c.denoiser.scan = True  # quicker to compile
    c.map.sigma = 2.0
    c.train.update(steps=400, batch_size=16, ema_decay=0.99)
    c.train.tasks = ("T1 data.modality=T1", "FLAIR data.modality=FLAIR")
    # 0.99 forgot two thirds of what fine-tuning forgets in AP (benchmarks/results/continual.md).
    c.train.continual.update(energy=0.996, compare=("none", "joint"))
    c.log.update(every_steps=20, validate_every_steps=400)
    c.checkpoint.update(every_steps=120, every_minutes=2.0)
    c.eval.update(batch_size=24, panels=0, bootstrap=50)
    return c
