"""`--mode=compile`: every program of a run, lowered and compiled without data or weights.

Shapes, shardings and options are those of the run, so that what does not fit together is
found here, and FLOPs, bytes, collectives and memory are known before a machine is paid for.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from madad_jax.assembly import parts as parts_lib
from madad_jax.assembly import training as training_lib
from madad_jax.core import errors, random_keys, units
from madad_jax.core.types import Batch, Params
from madad_jax.devices import batches, hlo_costs, machines, parameter_rules
from madad_jax.devices import mesh as mesh_lib
from madad_jax.experiment import frozen_weights, lesion_bank
from madad_jax.methods import base
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
        # Donated arguments become outputs in place: they would count twice.
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temp=memory.temp_size_in_bytes,
    )


def report(parts: parts_lib.Parts, machine: machines.Topology | None = None) -> None:
    """Prints, of every program: costs, memory, collectives and, for a machine, the times.

    Args:
      parts: of the run; for a machine, with plain convolutions (`assemble`), since the CPU that
        compiles in its place has forms of its own.
      machine: that is planned for.

    Raises:
      UserError: a program does not fit `compile.memory_gib`, or the machine's memory.
    """
    mesh = mesh_lib.make_mesh(**parts.mesh, slices=machine.slices if machine else 0)
    limit = parts.memory_gib * 2**30 or (machine.chip.memory if machine else 0)
    print("mesh " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items()), end="")
    print(f"; all figures are of one device of {mesh.size}, by the {_platform(mesh)} compiler")
    if machine:
        print(f"{machine.name}: {machine.chip.source}, read {machine.chip.read}")
        print("nothing is measured; memory times are upper bounds: other compilers fuse more")
    too_large = []
    for name, lowered in programs(parts, mesh):
        costs = measure(name, lowered)
        _print_costs(costs)
        if machine:
            dtype = parts.autoencoder.dtype if "autoencoder" in name else parts.dtype
            found = machines.plan(costs.program, machine, dtype, parts.matmul_precision)
            _print_plan(found, mesh.size)
        if limit and costs.memory > limit:
            too_large.append(f"{name} needs {units.human(costs.memory)}")
    if limit and too_large:
        raise errors.UserError(
            f"{'; '.join(too_large)} per device, but there are {units.human(limit)} "
            f"({'compile.memory_gib' if parts.memory_gib else machine.name}); raise "
            "mesh.fsdp or train.accum_steps, lower the batch size, or set denoiser.remat"
        )


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


def programs(parts: parts_lib.Parts, mesh: jax.sharding.Mesh) -> Iterator[tuple[str, Any]]:
    """(name, lowered program) of the training steps and of image -> anomaly map."""
    made = parts.autoencoder
    if made is not None and not made.run:
        spec = parts.image_spec(made.plan.batch_size)
        yield "autoencoder step", lower_step(made.method, made.plan, spec, {}, mesh)
    if parts.features is None:
        yield denoiser_step(parts, mesh)
    elif parts.features.pretraining is not None:
        yield encoder_step(parts, mesh)
    if made is not None and parts.data.cached_latents:
        images = parts.image_spec(parts.evaluation.batch_size)
        image = _sharded(images["image"], mesh_lib.batch_sharding(mesh))
        frozen = frozen_weights.FrozenWeights.abstract(parts).values
        weights = _sharded(frozen["autoencoder"], mesh_lib.replicated(mesh))
        yield "encoding for the cache", jax.jit(made.network.encode).lower(weights, image)
    yield image_to_map(parts, mesh)


def image_to_map(parts: parts_lib.Parts, mesh: jax.sharding.Mesh) -> tuple[str, Any]:
    """(name, lowered) of the inference of a batch of `eval.batch_size`."""
    count = parts.evaluation.batch_size
    batches.check_batch_size(count, mesh, key="eval.batch_size")
    method = parts.method
    key = jax.eval_shape(lambda: random_keys.root_key(0))
    params = jax.eval_shape(lambda k: method.init(k, parts.image_spec()), key)
    batch = _sharded(parts.image_spec(count), mesh_lib.batch_sharding(mesh))
    frozen = frozen_weights.FrozenWeights.abstract(parts).values
    params, frozen = _sharded((params, frozen), mesh_lib.replicated(mesh))
    return "image to anomaly map", jax.jit(method.anomaly_map).lower(params, frozen, batch, key)


def denoiser_step(parts: parts_lib.Parts, mesh: jax.sharding.Mesh) -> tuple[str, Any]:
    """(name, lowered) of the denoiser's training step, live or from cached latents."""
    frozen, name = frozen_weights.FrozenWeights.abstract(parts), "denoiser step"
    if parts.autoencoder is not None:
        name += f" ({'cached' if parts.data.cached_latents else 'live'} latents)"
        if parts.data.cached_latents:
            frozen = frozen.without_autoencoder()
    bank = lesion_bank.abstract(parts)
    values = _sharded(frozen.values | bank, mesh_lib.replicated(mesh))
    return name, lower_step(parts.method, parts.plan, parts.train_spec(), values, mesh)


def encoder_step(parts: parts_lib.Parts, mesh: jax.sharding.Mesh) -> tuple[str, Any]:
    """(name, lowered program) of a step that trains the network of a method on tokens."""
    made = parts.features
    spec = parts.image_spec(made.plan.batch_size)
    return "encoder step", lower_step(made.pretraining, made.plan, spec, {}, mesh)


def lower_step(
    method: base.Method,
    plan: training_lib.StagePlan,
    spec: Batch,
    frozen: Params,
    mesh: jax.sharding.Mesh,
) -> Any:
    """The lowered training step of a method under a plan."""
    tx, _ = plan.optimizer(training_lib.ANY_BUDGET)
    options = plan.options(training_lib.ANY_BUDGET)
    trainer = trainer_lib.Trainer(method, tx, options, batch_spec=spec, mesh=mesh, seed=0)
    # Shapes alone everywhere: nothing of the model is ever allocated.
    key = jax.eval_shape(lambda: random_keys.root_key(0))
    batch = _sharded(spec, mesh_lib.batch_sharding(mesh))
    return trainer.step_fn.lower(trainer.abstract, frozen, batch, key)


def _sharded(tree: Any, where: jax.sharding.NamedSharding) -> Any:
    return parameter_rules.with_shardings(tree, jax.tree.map(lambda _: where, tree))
