"""The largest DiT, XL/2 (675 M weights), on one 80 GB device, batch 256: ours in size alone.

    python -m madad_jax.main --config=configs/dit_xl.py:FLAIR --workdir=runs/dit-xl

Argument and data as configs/brats.py. Computed in bfloat16 with float32 weights, every block
recomputed in the backward pass and compiled once (`denoiser.scan`), from cached latents; the
autoencoder encodes and decodes eight images at a time. `--mode=compile` gives the memory
(benchmarks/README.md); above 80 GB it fails.
"""

from configs import brats


def get_config(argument: str = "FLAIR"):
    c = brats.get_config(argument)
    c.name = c.name.replace("brats", "dit-xl")
    c.data.latents = "cached"
    c.denoiser.update(name="dit", size="XL/2", dropout=0.0, dtype="bfloat16", remat=True, scan=True)
    c.autoencoder.update(chunk=8, remat=True)
    c.train.update(batch_size=256, accum_steps=1)
    c.compile.memory_gib = 74.5  # 80 GB
    return c
