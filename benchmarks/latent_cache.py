"""How much faster a training step is when latents come from the cache.

    python -m benchmarks.latent_cache --preset=demo --steps=20
    python -m benchmarks.latent_cache --preset=brats --batch_size=8 --steps=6

Random weights and random slices: time does not depend on them. Rounds of both ways alternate, so
that another load on the machine falls on both; the median of a round's steps counts, waiting for
data included. Live batches are augmented while they are read, as in a run.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np
from etils import epath

from configs import brats, demo
from madad_jax import build, build_networks, rng, runtime, sharding, train
from madad_jax.data import latents

_SLICES = 64


class _Noise:
    """Random slices in an elliptic brain."""

    def __init__(self, side: int):
        rows, columns = np.mgrid[:side, :side] / side - 0.5
        self._brain = (rows / 0.42) ** 2 + (columns / 0.34) ** 2 < 1
        self._image = np.random.default_rng(0).uniform(-1, 1, (_SLICES, side, side, 1))

    def __len__(self) -> int:
        return _SLICES

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = np.where(self._brain[..., None], self._image[index], -1.0).astype(np.float32)
        return {"image": image, "brain_mask": self._brain.copy()}


class _Way:
    """Steps of the denoiser by one of the two ways."""

    def __init__(self, config: Any, kind: str, data: Any, frozen: Any):
        config = config.copy_and_resolve_references()
        config.data.latents = kind
        c = config.train
        self._mesh = sharding.make_mesh()
        planned = build.Budget(steps=1000, steps_per_epoch=1, epochs=1000.0)
        tx, _ = build.optimizer(config.optim, planned)
        self._trainer = train.Trainer(
            build.detector(config),
            tx,
            build.train_options(config, c, "denoiser", planned.steps),
            batch_spec=build.detector_spec(config, c.batch_size),
            mesh=self._mesh,
            seed=0,
        )
        self._frozen = jax.device_put(frozen, sharding.replicated(self._mesh))
        self._state = self._trainer.initial_state()
        self._key = rng.root_key(0)
        self._batches = build.train_iterator(config, c, data, self._mesh)

    def step(self) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        batch = sharding.global_batch(self._mesh, next(self._batches))
        self._state, metrics = self._trainer.step_fn(self._state, self._frozen, batch, self._key)
        jax.block_until_ready(metrics)
        return time.perf_counter() - start


def _fill(folder: epath.Path, images: _Noise, layout: latents.Layout) -> latents.CachedLatents:
    moments = np.random.default_rng(1).integers(0, 0x3F80, layout.latent, np.uint16)

    def encode(part: latents.Part):
        for i in range(part.start, part.stop):
            yield layout.pack(moments, moments, images[i]["brain_mask"])

    latents.fill(folder, latents.parts("train", _SLICES), encode)
    return latents.CachedLatents(folder, "train", draws=1, layout=layout)


def _config(preset: str) -> Any:
    if preset == "brats":
        return brats.get_config("T1")
    config = demo.get_config()
    config.synthesis.share = 0.0  # needs images, hence live latents
    return config


def main() -> None:
    """Prints seconds a step of both ways and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=("demo", "brats"), default="demo")
    parser.add_argument("--batch_size", type=int, default=0, help="0: the config's")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each way")
    arguments = parser.parse_args()
    runtime.start()
    config = _config(arguments.preset)
    config.train.batch_size = arguments.batch_size or config.train.batch_size
    network = build_networks.autoencoder(config)
    size = config.data.image_size
    images = _Noise(size)
    params = jax.jit(lambda k: network.init(k, (1, size, size, 1)))(jax.random.key(0))
    scale = np.float32(1.0)
    side = size // network.factor
    with tempfile.TemporaryDirectory() as folder:
        layout = latents.Layout(size, (side, side, network.latent_channels))
        cached = _fill(epath.Path(folder), images, layout)
        ways = {
            "live": _Way(config, "live", images, {"autoencoder": params, "scaling_factor": scale}),
            "cached": _Way(config, "cached", cached, {"scaling_factor": scale}),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(arguments.steps + 2):
            for name, way in ways.items():
                seconds = way.step()
                if i >= 2:  # the first compiles, the second may still fill buffers
                    times[name].append(seconds)
    print(
        f"{runtime.device_line()}; {arguments.preset}, {size} px, batch {config.train.batch_size}"
    )
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:8} {seconds:8.3f} s a step (median of {arguments.steps})")
    print(f"a step from the cache takes {medians['cached'] / medians['live']:.2f} of a live one")


if __name__ == "__main__":
    main()
