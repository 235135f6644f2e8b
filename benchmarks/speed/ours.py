"""This package's programs as timed jobs: compiled once, run on one device, their costs read.

Random weights and slices: time does not depend on them.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import timing
from madad_jax.assembly import networks
from madad_jax.assembly import parts as parts_lib
from madad_jax.assembly import training as training_lib
from madad_jax.core import random_keys
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches, jaxpr_flops
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import compile_report, frozen_weights
from madad_jax.training import batch_specs
from madad_jax.training import trainer as trainer_lib


@dataclasses.dataclass(frozen=True)
class Job:
    """A compiled program, ready to run.

    Attributes:
      run: one run, to the end of its work.
      costs: FLOPs, bytes and memory of the compiled program.
      flops: of one run as the networks are written, with plain convolutions: what every
        implementation is asked for, whatever short cuts it takes.
      compile_seconds: lowering and compiling; no compile cache is asked.
      samples: slices that one run takes.
      parameters: {network: count}.
      text: of the compiled program.
    """

    run: Callable[[], Any]
    costs: compile_report.Costs
    flops: float
    compile_seconds: float
    samples: int
    parameters: dict[str, int]
    text: str = dataclasses.field(default="", repr=False)

    def timed(self) -> timing.Sample:
        """One timed run."""
        return timing.timed(self.run)


def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device: figures are of one."""
    return mesh_lib.make_mesh(devices=jax.devices()[:1])


def count(params: Params) -> int:
    """Numbers in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def image_batch(size: int, batch: int) -> Batch:
    """Noise in an elliptic brain, -1 outside."""
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    brain = (rows / 0.42) ** 2 + (columns / 0.34) ** 2 < 1
    noise = np.random.default_rng(0).uniform(-1, 1, (batch, size, size, 1))
    image = np.where(brain[..., None], noise, -1.0).astype(np.float32)
    return {"image": image, "brain_mask": np.repeat(brain[None], batch, axis=0)}


def train_batch(config: Any, batch: int) -> Batch:
    """A batch of the denoiser's training: noise in an ellipse, and latents where it reads them."""
    parts = parts_lib.assemble(config)
    spec = parts.train_spec(batch)
    made = image_batch(parts.data.image_size, batch)
    if "latent_mean" in spec:
        draw = np.random.default_rng(1).normal(size=spec["latent_mean"].shape)
        made["latent_mean"] = draw.astype(np.float32)
        made["latent_logvar"] = np.full_like(made["latent_mean"], -2.0)
    return {name: made[name] for name in spec}


def frozen(config: Any) -> Params:
    """What the detector reads and does not train, drawn at random."""
    return dict(frozen_weights.FrozenWeights.random(parts_lib.assemble(config)).values)


def plain(config: Any) -> Any:
    """The config with convolutions and attention as they are written in papers."""
    config = config.copy_and_resolve_references()
    config.denoiser.update(attention="xla", convolution="plain")
    config.autoencoder.update(attention="xla", convolution="plain")
    return config


def awake(params: Params) -> Params:
    """Fresh weights in which kernels that start as zeros are small noise, so that the mask head
    flags some cells and nothing is skipped because nothing is flagged."""
    draw = np.random.default_rng(2)

    def wake(leaf: Any) -> Any:
        if leaf.ndim < 2 or np.any(np.asarray(leaf)):
            return leaf
        return jnp.asarray(0.05 * draw.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(wake, params)


def _compile(name: str, lower: Callable[[], Any]) -> tuple[Any, compile_report.Costs, float]:
    """(executable, costs, seconds) of the program that `lower()` lowers."""
    start = time.perf_counter()
    program = lower().compile()
    seconds = time.perf_counter() - start
    return program, compile_report.costs_of(name, program), seconds


def _trainer(config: Any, batch: int, mesh: jax.sharding.Mesh) -> trainer_lib.Trainer:
    parts = parts_lib.assemble(config)
    tx, _ = parts.plan.optimizer(training_lib.ANY_BUDGET)
    options = dataclasses.replace(parts.plan.options(training_lib.ANY_BUDGET), batch_size=batch)
    return trainer_lib.Trainer(
        parts.method, tx, options, batch_spec=parts.train_spec(batch), mesh=mesh, seed=0
    )


def train_step(config: Any, batch: int) -> Job:
    """The denoiser's optimiser step of `config`, live or from cached latents."""
    mesh = one_device()
    trainer, weights = _trainer(config, batch, mesh), frozen(config)
    parameters = {"denoiser": count(trainer.abstract.params)}
    if config.data.latents == "cached":
        weights.pop("autoencoder", None)
    elif "autoencoder" in weights:
        parameters["autoencoder"] = count(weights["autoencoder"])
    weights = jax.device_put(weights, mesh_lib.replicated(mesh))
    inputs = batches.global_batch(mesh, train_batch(config, batch))
    held = {"state": trainer.initial_state()}
    key = random_keys.root_key(0)

    program, costs, seconds = _compile(
        "denoiser step", lambda: trainer.step_fn.lower(held["state"], weights, inputs, key)
    )
    written = _trainer(plain(config), batch, mesh)
    arguments = (written.abstract, weights, inputs, key)
    asked = jaxpr_flops.of(written.step_fn, *arguments)

    def run() -> None:
        # The state is donated: each run takes what the last one gave.
        held["state"], metrics = program(held["state"], weights, inputs, key)
        jax.block_until_ready(metrics)

    return Job(run, costs, asked, seconds, batch, parameters, program.as_text())


def _call(
    name: str,
    make: Callable[[Any], Callable[..., Any]],
    config: Any,
    arguments: tuple[Any, ...],
    samples: int,
    sizes: dict[str, int],
) -> Job:
    """A plain compiled function `make(config)` of arrays; `sizes` are its parameter counts."""
    arguments = jax.device_put(arguments, jax.devices()[0])
    program, costs, seconds = _compile(name, lambda: jax.jit(make(config)).lower(*arguments))

    def run() -> None:
        jax.block_until_ready(program(*arguments))

    asked = jaxpr_flops.of(make(plain(config)), *arguments)
    return Job(run, costs, asked, seconds, samples, sizes, program.as_text())


def anomaly_map(config: Any, batch: int) -> Job:
    """Image to anomaly map, as evaluation runs it."""
    parts = parts_lib.assemble(config)
    detector, size = parts.method, parts.data.image_size
    key = random_keys.root_key(0)
    params = awake(detector.init(key, batch_specs.image_spec(1, size)))
    weights = frozen(config)
    inputs = {name: jnp.asarray(value) for name, value in image_batch(size, batch).items()}
    sizes = {"denoiser": count(params)}
    if "autoencoder" in weights:
        sizes["autoencoder"] = count(weights["autoencoder"])
    arguments = (params, weights, inputs, key)

    def make(c: Any) -> Callable[..., Any]:
        return parts_lib.assemble(c).method.anomaly_map

    return _call("image to anomaly map", make, config, arguments, batch, sizes)


def autoencoder(config: Any, part: str, batch: int) -> Job:
    """`part` "encode" (image to posterior) or "decode" (latent to image)."""
    network, size = networks.autoencoder(config), config.data.image_size
    params = network.init(jax.random.key(0), (1, size, size, 1))
    side = size // network.factor
    x = image_batch(size, batch)["image"]
    if part == "decode":
        shape = (batch, side, side, network.latent_channels)
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    def make(c: Any) -> Callable[..., Any]:
        return getattr(networks.autoencoder(c), part)

    return _call(part, make, config, (params, x), batch, {"autoencoder": count(params)})
