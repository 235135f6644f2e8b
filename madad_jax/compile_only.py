"""`--mode=compile`: every program of a run, lowered and compiled without data or weights.

Shapes, shardings and options are those of the run, so that what does not fit together is
found here, and FLOPs, bytes and memory are known before a machine is paid for.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from madad_jax import build, build_methods, rng, sharding, train


def report(config: Any) -> None:
    """Prints one line a program: GFLOP, bytes moved, memory per device."""
    mesh = sharding.make_mesh(**config.mesh.to_dict())
    print(f"{'program':24} {'GFLOP':>12} {'GB moved':>10} {'GiB/device':>11}")
    for name, lowered in programs(config, mesh):
        compiled = lowered.compile()
        cost = compiled.cost_analysis() or {}
        # A list with one entry a module in some versions of JAX.
        cost = cost[0] if isinstance(cost, list) else cost
        memory = compiled.memory_analysis()
        size = (
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
        )
        flops, moved = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
        print(f"{name:24} {flops / 1e9:12.2f} {moved / 1e9:10.3f} {size / 2**30:11.3f}")


def programs(config: Any, mesh: jax.sharding.Mesh) -> Iterator[tuple[str, Any]]:
    """(name, lowered program) of the two training steps and of image -> anomaly map."""
    detector, size = build.detector(config), config.data.image_size
    spec = train.image_spec(1, size)
    whole = sharding.replicated(mesh)
    frozen = build_methods.frozen(config)
    if build_methods.uses_latents(config):
        autoencoder, section = build.autoencoder_training(config), config.autoencoder
        trained = jax.eval_shape(lambda: autoencoder.init(jax.random.key(0), spec))
        frozen |= {
            "autoencoder": trained["autoencoder"],
            "scaling_factor": jax.ShapeDtypeStruct((), jnp.float32),
        }
        batch = train.image_spec(section.train.batch_size, size)
        yield "autoencoder step", _step(autoencoder, section, batch, {}, mesh)
    frozen = _sharded(frozen, whole)
    batch = build.detector_spec(config, config.train.batch_size)
    yield "denoiser step", _step(detector, config, batch, frozen, mesh)
    params = jax.eval_shape(lambda: detector.init(jax.random.key(0), spec))
    batch = _sharded(train.image_spec(config.eval.batch_size, size), sharding.batch_sharding(mesh))
    key = jax.eval_shape(lambda: rng.root_key(0))
    yield (
        "image to anomaly map",
        jax.jit(detector.anomaly_map).lower(_sharded(params, whole), frozen, batch, key),
    )


def _step(method: Any, section: Any, spec: Any, frozen: Any, mesh: jax.sharding.Mesh) -> Any:
    # Warm-up and decay are data of the program, not its shape: one epoch stands for any.
    planned = build.Budget(steps=1000, steps_per_epoch=1, epochs=1000.0)
    tx, _ = build.optimizer(section.optim, planned)
    options = train.Options(
        stage=method.name,
        steps=planned.steps,
        batch_size=section.train.batch_size,
        accum_steps=section.train.accum_steps,
        ema_decay=section.train.ema_decay,
    )
    trainer = train.Trainer(method, tx, options, batch_spec=spec, mesh=mesh, seed=0)
    key = jax.eval_shape(lambda: rng.root_key(0))
    batch = _sharded(spec, sharding.batch_sharding(mesh))
    return trainer.step_fn.lower(trainer.abstract, frozen, batch, key)


def _sharded(tree: Any, where: jax.sharding.NamedSharding) -> Any:
    return sharding.with_shardings(tree, jax.tree.map(lambda _: where, tree))
