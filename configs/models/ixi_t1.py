"""The model that comes with the package, ixi-t1: whole T1 heads, slices of 96 pixels of 2 mm.

    python -m benchmarks.make_model --heads=IXI_T1 --segmentation=PARCELLATIONS --out=build/ixi-t1

That command prepares the heads by `PREPARATION`, trains this config, scores painted validation
heads and packages the weights. docs/shipped_model.md says more. Networks and options start from
those of configs/demo.py, which says what of them is ours and not the paper's.
"""

from configs import default, demo

# How heads are cut; `make_model` gives it to `madad-jax prepare`.
PREPARATION = {
    "modality": "T1",
    "image_size": 96,  # pixels
    "field_of_view": 192,  # mm, so that a pixel is 2 mm
    "slice_step": 2,  # mm
    "registration": "affine",
    "brain_mask": "builtin",
}

# What is tuned, in one place; chosen on `val_painted`, never on `test`.
AUTOENCODER = {"crop": 48, "steps": 1200, "batch_size": 6}
TRAINING = {"steps": 3000, "batch_size": 16, "ema_decay": 0.997}
GROUPS = 64  # of the atlas: levels of the head and sizes of ventricles
DRAWN = {"min_radius": 0.016, "max_radius": 0.25}  # 3 to 48 mm, the small ones more often


def get_config():
    c = default.get_config("paper")
    c.name = "model-ixi-t1"
    c.data.root = "data/ixi_heads"
    c.data.modality = PREPARATION["modality"]
    c.data.image_size = PREPARATION["image_size"]
    demo.small_autoencoder(c, crop=AUTOENCODER["crop"])
    c.autoencoder.train.update(steps=AUTOENCODER["steps"], batch_size=AUTOENCODER["batch_size"])
    demo.small_dit(c)
    demo.pixel_head(c, groups=GROUPS)
    c.methods.madad.pixel_head.drawn.update(**DRAWN)
    c.train.update(**TRAINING)
    c.log.update(every_steps=20, validate_every_steps=400)
    c.checkpoint.update(every_steps=200, every_minutes=5.0)
    # `test` is asked for by name, once, when nothing is left to choose.
    c.eval.sets = ("val_painted",)
    c.eval.update(protocol="both", mean_image_band=4, batch_size=24)
    return c
