"""`--mode=compile`: every program of a run, lowered and compiled without data or weights.

Shapes, shardings and options are those of the run, so that what does not fit together is
found here, and FLOPs, bytes, collectives and memory are known before a machine is paid for.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from madad_jax.assembly import methods, networks, parts
from madad_jax.core import errors, random_keys, units
from madad_jax.core.types import Params
from madad_jax.devices import batches, hlo_costs, machines, parameter_rules
from madad_jax.devices import mesh as mesh_lib
from madad_jax.training import batch_specs
from madad_jax.training import trainer as trainer_lib


@dataclasses.dataclass(frozen=True)
class Costs:
    """A compiled program: what one run does and what one device must hold, in bytes."""

    name: str
    program: hlo_costs.Program
    arguments: int
    outputs: int  # beyond those that take the place of donated arguments
    temp: int

    @property
    def memory(self) -> int:
        """Arguments, outputs and temporaries together."""
        return self.arguments + self.outputs + self.temp


def measure(name: str, lowered: Any) -> Costs:
    """Compiles a lowered program and reads what it costs."""
    return costs_of(name, lowered.compile())


def costs_of(name: str, compiled: Any) -> Costs:
    """What a compiled program costs."""
    memory = compiled.memory_analysis()
    return Costs(
        name=name,
        program=hlo_costs.read(compiled.as_text()),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temp=memory.temp_size_in_bytes,
    )


def report(config: Any, machine: machines.Topology | None = None) -> None:
    """Prints, of every program: costs, memory, collectives and, for a machine, the times.

    Raises:
      UserError: a program does not fit `compile.memory_gib`, or the machine's memory.
    """
    if machine:
        config = _for_machine(config)
    slices = machine.slices if machine else 0
    mesh = mesh_lib.make_mesh(**config.mesh.to_dict(), slices=slices)
    limit = config.compile.memory_gib * 2**30 or (machine.chip.memory if machine else 0)
    print("mesh " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items()), end="")
    print(f"; all figures are of one device of {mesh.size}, by the {_platform(mesh)} compiler")
    if machine:
        print(f"{machine.name}: {machine.chip.source}, read {machine.chip.read}")
        print("nothing is measured; memory times are upper bounds: other compilers fuse more")
    too_large = []
    for name, lowered in programs(config, mesh):
        costs = measure(name, lowered)
        _print_costs(costs)
        if machine:
            dtype = config.autoencoder.dtype if "autoencoder" in name else config.denoiser.dtype
            found = machines.plan(costs.program, machine, dtype, config.matmul_precision)
            _print_plan(found, mesh.size)
        if limit and costs.memory > limit:
            too_large.append(f"{name} needs {units.human(costs.memory)}")
    if limit and too_large:
        raise errors.UserError(
            f"{'; '.join(too_large)} per device, but there are {units.human(limit)} "
            f"({'compile.memory_gib' if config.compile.memory_gib else machine.name}); raise "
            "mesh.fsdp or train.accum_steps, lower the batch size, or set denoiser.remat"
        )


def _for_machine(config: Any) -> Any:
    """What the machine would compute: the CPU that compiles in its place has forms of its own."""
    config = config.copy_and_resolve_references()
    for section in (config.autoencoder, config.denoiser):
        if section.convolution == "auto":
            section.convolution = "plain"
    return config


def _platform(mesh: jax.sharding.Mesh) -> str:
    return mesh.devices.flat[0].platform.upper()


def _print_costs(costs: Costs) -> None:
    program = costs.program
    print(f"\n{costs.name}")
    print(f"  {program.flops / 1e9:.3f} GFLOP, {program.bytes / 1e9:.3f} GB moved by kernels")
    print(
        f"  memory {units.human(costs.memory)}: arguments {units.human(costs.arguments)}, "
        f"outputs {units.human(costs.outputs)}, temporaries {units.human(costs.temp)}"
    )
    for line in collective_lines(program):
        print(f"  {line}")
    if program.unknown_loops:
        print(f"  {program.unknown_loops} loops of unknown length, counted as one run")


def collective_lines(program: hlo_costs.Program) -> list[str]:
    """One line for each kind and group size: how many, how many bytes."""
    rows: dict[tuple[str, int], list[float]] = {}
    for c in program.collectives:
        row = rows.setdefault((c.kind, c.group_size), [0, 0, 0])
        row[0] += c.times
        row[1] += c.times * c.bytes
        row[2] += c.times * c.scattered
    lines = []
    for (kind, size), (count, moved, scattered) in sorted(rows.items()):
        line = f"{count} {kind} over {size} devices, {moved / 1e6:.3f} MB"
        if scattered:
            line += f", of which {scattered / 1e6:.3f} MB are sliced after: a reduce-scatter"
        lines.append(line)
    return lines or ["no collectives"]


def _print_plan(found: machines.Plan, devices: int) -> None:
    print(
        f"  on paper: compute {found.compute * 1e3:.3f} ms, memory {found.memory * 1e3:.3f} ms, "
        f"collectives {found.collective * 1e3:.3f} ms; bound by {found.bound}; a run takes "
        f"{found.shortest * 1e3:.3f} to {found.longest * 1e3:.3f} ms, at "
        f"{100 * found.compute / found.shortest:.0f} to {100 * found.compute / found.longest:.0f} "
        f"% of the peak of {devices} chips"
    )


def programs(config: Any, mesh: jax.sharding.Mesh) -> Iterator[tuple[str, Any]]:
    """(name, lowered program) of the training steps and of image -> anomaly map."""
    size, latent = config.data.image_size, methods.uses_latents(config)
    if latent and not config.autoencoder.checkpoint:
        inputs = batch_specs.image_spec(config.autoencoder.train.batch_size, size)
        method = parts.autoencoder_training(config)
        yield (
            "autoencoder step",
            step(method, config.autoencoder, inputs, {}, mesh, "autoencoder.train"),
        )
    yield denoiser_step(config, mesh)
    if latent and config.data.latents == "cached":
        images = batch_specs.image_spec(config.eval.batch_size, size)
        image = _sharded(images["image"], mesh_lib.batch_sharding(mesh))
        frozen = _sharded(_frozen(config), mesh_lib.replicated(mesh))
        encode = jax.jit(networks.autoencoder(config).encode)
        yield "encoding for the cache", encode.lower(frozen["autoencoder"], image)
    yield image_to_map(config, mesh)


def image_to_map(config: Any, mesh: jax.sharding.Mesh) -> tuple[str, Any]:
    """(name, lowered) of the inference of a batch of `eval.batch_size`."""
    batches.check_batch_size(config.eval.batch_size, mesh, key="eval.batch_size")
    detector, size = parts.detector(config), config.data.image_size
    key = jax.eval_shape(lambda: random_keys.root_key(0))
    params = jax.eval_shape(lambda k: detector.init(k, batch_specs.image_spec(1, size)), key)
    batch = _sharded(
        batch_specs.image_spec(config.eval.batch_size, size), mesh_lib.batch_sharding(mesh)
    )
    params, frozen = _sharded((params, _frozen(config)), mesh_lib.replicated(mesh))
    return "image to anomaly map", jax.jit(detector.anomaly_map).lower(params, frozen, batch, key)


def _frozen(config: Any) -> Params:
    """Shapes of what the detector takes and does not train."""
    frozen = dict(methods.frozen(config))
    if methods.uses_latents(config):
        spec = batch_specs.image_spec(1, config.data.image_size)
        key = jax.eval_shape(lambda: random_keys.root_key(0))
        trained = jax.eval_shape(lambda k: parts.autoencoder_training(config).init(k, spec), key)
        frozen["autoencoder"] = trained["autoencoder"]
        frozen["scaling_factor"] = jax.ShapeDtypeStruct((), jnp.float32)
    return frozen


def denoiser_step(config: Any, mesh: jax.sharding.Mesh) -> tuple[str, Any]:
    """(name, lowered) of the denoiser's training step, live or from cached latents."""
    frozen, latent = _frozen(config), methods.uses_latents(config)
    if latent and config.data.latents == "cached":
        del frozen["autoencoder"]
    frozen = _sharded(frozen, mesh_lib.replicated(mesh))
    inputs = parts.detector_spec(config, config.train.batch_size)
    name = "denoiser step" + (f" ({config.data.latents} latents)" if latent else "")
    return name, step(parts.detector(config), config, inputs, frozen, mesh, "train")


def step(
    method: Any, section: Any, spec: Any, frozen: Any, mesh: jax.sharding.Mesh, stage: str
) -> Any:
    """The lowered training step of `method` with the options of a config section."""
    # Warm-up and decay are data of the program, not its shape: one epoch stands for any.
    planned = parts.Budget(steps=1000, steps_per_epoch=1, epochs=1000.0)
    tx, _ = parts.optimizer(section.optim, planned)
    options = trainer_lib.Options(
        stage=stage,
        steps=planned.steps,
        batch_size=section.train.batch_size,
        accum_steps=section.train.accum_steps,
        ema_decay=section.train.ema_decay,
    )
    trainer = trainer_lib.Trainer(method, tx, options, batch_spec=spec, mesh=mesh, seed=0)
    key = jax.eval_shape(lambda: random_keys.root_key(0))
    batch = _sharded(spec, mesh_lib.batch_sharding(mesh))
    return trainer.step_fn.lower(trainer.abstract, frozen, batch, key)


def _sharded(tree: Any, where: jax.sharding.NamedSharding) -> Any:
    return parameter_rules.with_shardings(tree, jax.tree.map(lambda _: where, tree))
