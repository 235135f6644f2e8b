"""What the accelerator computes beside what the CPU does: export, prediction, a resumed training.

The shipped model is exported for both, and the exported files are run on slices of random heads;
a small training of four steps on the CPU goes on on the accelerator and on the CPU. Products are
asked for in full float32, so that what differs is the order of sums.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath

from benchmarks.gpu import part as part_lib
from benchmarks.gpu import settings
from benchmarks.speed import ours
from madad_jax.assembly import parts as parts_lib
from madad_jax.assembly import training as training_lib
from madad_jax.checkpoints import saver as saver_lib
from madad_jax.devices import batches
from madad_jax.devices import mesh as mesh_lib
from madad_jax.predict import api
from madad_jax.training import trainer as trainer_lib

_MODEL = "ixi-t1"
# Of the largest value. Maps pass through a few hundred layers, each rounding to 1e-7.
_MAPS, _WEIGHTS = 1e-3, 1e-4


def measure(record: part_lib.Recorder) -> None:
    """Both comparisons."""
    jax.config.update("jax_default_matmul_precision", "highest")
    record.attempt("export", 30, lambda: compare_exports(record))
    record.attempt("resume", 20, lambda: compare_resumed(record))


def _devices() -> tuple[jax.Device, jax.Device]:
    """(accelerator, CPU); twice the CPU where there is no accelerator."""
    return jax.devices()[0], jax.devices("cpu")[0]


def _difference(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest value."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    found = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    gap = max(np.abs(a - b).max() for a, b in found if a.size)
    return float(gap / max(max(np.abs(b).max() for _, b in found if b.size), 1e-12))


def compare_exports(record: part_lib.Recorder) -> None:
    """The exported shipped model on the accelerator and on the CPU.

    Raises AssertionError where the maps differ by more than rounding.
    """
    import safetensors.numpy
    from jax import export as jax_export

    with tempfile.TemporaryDirectory() as folder:
        api.export(_MODEL, folder)
        out = pathlib.Path(folder)
        weights = safetensors.numpy.load((out / "weights.safetensors").read_bytes())
        size = 96
        batch = ours.image_batch(size, 2 if record.dry else 16)
        maps, ran = [], ""
        for device in _devices():
            platform = "cpu" if device.platform == "cpu" else "cuda"
            name = f"detector-{platform}.jaxexport"
            ran = ran or name
            content = bytearray((out / name).read_bytes())
            function = jax_export.deserialize(content)
            with jax.default_device(device):
                found = function.call(weights, batch["image"], batch["brain_mask"], np.uint32(0))
            maps.append({name: np.asarray(value) for name, value in found.items()})
    differ = {name: _difference(maps[0][name], maps[1][name]) for name in maps[0]}
    record.add(
        f"export of {_MODEL}",
        {"largest difference": f"{max(differ.values()):.1e}", "allowed": f"{_MAPS:.0e}"},
        f"{_devices()[0].platform} against cpu; {ran} ran there",
        by_map=differ,
    )
    if max(differ.values()) > _MAPS:
        raise AssertionError(f"maps differ: {differ}")


def compare_resumed(record: part_lib.Recorder) -> None:
    """Four steps on the CPU, saved; four more on each device.

    Raises AssertionError where the weights differ by more than rounding.
    """
    config = settings.config("dit L/2", "float32", "chunked", dry=True, batch=4)
    accelerator, cpu = _devices()
    with tempfile.TemporaryDirectory() as folder:
        _train(config, cpu, epath.Path(folder), 4, save=True)
        ends = [_train(config, device, epath.Path(folder), 8) for device in (accelerator, cpu)]
    differ = _difference(*ends)
    record.add(
        "a training resumed",
        {"largest difference": f"{differ:.1e}", "allowed": f"{_WEIGHTS:.0e}"},
        f"weights after step 8, saved by the cpu at 4; {accelerator.platform} against cpu",
    )
    if differ > _WEIGHTS:
        raise AssertionError(f"weights differ by {differ}")


def _train(
    config: Any, device: jax.Device, folder: epath.Path, steps: int, save: bool = False
) -> Any:
    """Parameters on the host after `steps` steps, from the newest checkpoint of `folder`."""
    mesh = mesh_lib.make_mesh(devices=[device])
    parts = parts_lib.assemble(config)
    batch = config.benchmark.batch_size
    tx, _ = parts.plan.optimizer(training_lib.ANY_BUDGET)
    options = parts.plan.options(training_lib.ANY_BUDGET)
    options = dataclasses.replace(options, batch_size=batch)
    trainer = trainer_lib.Trainer(
        parts.method, tx, options, batch_spec=parts.train_spec(batch), mesh=mesh, seed=0
    )
    inputs = batches.global_batch(mesh, ours.train_batch(config, batch))
    weights = ours.frozen(config)
    weights.pop("autoencoder", None)  # latents are cached
    weights = jax.device_put(weights, mesh_lib.replicated(mesh))
    default = contextlib.nullcontext() if device == jax.devices()[0] else jax.default_device(device)
    with default, saver_lib.Checkpointer(folder / "checkpoints", async_save=False) as saver:
        restored = saver.restore_latest(trainer.abstract)
        state = trainer.initial_state() if restored is None else restored.state
        for _ in range(0 if restored is None else restored.step, steps):
            state, _ = trainer.step(state, weights, inputs)
        if save:
            saver.save(steps, state, {}, {}, force=True)
        return jax.device_get(state.params)
