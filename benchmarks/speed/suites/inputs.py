"""Suite `input`: training batches from disk, augmented, beside what the fastest step consumes.

Every way delivers the config's batches as a run reads them (Grain, `data.num_threads` threads).
Per core: samples over CPU seconds.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from benchmarks.speed import context as context_lib
from benchmarks.speed import drawn, ours, results, timing
from madad_jax.assembly import parts
from madad_jax.data.input import cached_latents
from madad_jax.data.sources import pack


def rows(context: context_lib.Context) -> context_lib.Rows:
    """PNG files, packed files, cached latents."""
    size = context.config.data.image_size
    made: dict[str, Callable[[Any, pathlib.Path], Any]] = {
        f"PNG files, {size} px, augmented": _png,
        f"ArrayRecord, {size} px, augmented": _array_record,
    }
    if context.config.method == "madad":
        made["cached latents"] = _cached
    return {name: functools.partial(_measure, context, name, open_) for name, open_ in made.items()}


def _png(config: Any, folder: pathlib.Path) -> Any:
    c = config.data
    drawn.write(folder, c.modality, c.image_size, {"train": config.benchmark.slices})
    c.update(source="png_folder", root=str(folder))
    return parts.assemble(config).data.open_split("train")


def _array_record(config: Any, folder: pathlib.Path) -> Any:
    _png(config, folder / "png")
    pack.pack(str(folder / "png"), str(folder / "packed"), ["array_record"])
    config.data.update(source="array_record", root=str(folder / "packed"))
    return parts.assemble(config).data.open_split("train")


def _cached(config: Any, folder: pathlib.Path) -> cached_latents.CachedLatents:
    size, shape = config.data.image_size, context_lib.latent_shape(config)
    layout, count = cached_latents.Layout(size, shape), config.benchmark.slices
    brain = ours.image_batch(size, 1)["brain_mask"][0]
    moments = np.random.default_rng(1).integers(0, 0x3F80, shape, np.uint16)

    def encode(part: cached_latents.Part):
        for _ in range(part.start, part.stop):
            yield layout.pack(moments, moments, brain)

    place = epath.Path(folder)
    cached_latents.fill(place, cached_latents.list_parts("train", count), encode)
    return cached_latents.CachedLatents(place, "train", draws=1, layout=layout)


def _measure(
    context: context_lib.Context, name: str, open_: Callable[[Any, pathlib.Path], Any]
) -> results.Row:
    config, row = context.config.copy_and_resolve_references(), results.Row(name)
    with tempfile.TemporaryDirectory() as folder:
        data = open_(config, pathlib.Path(folder))
        batches = parts.assemble(config).data.train_iterator(
            data, config.train.batch_size, ours.one_device()
        )
        each = max(1, config.benchmark.slices // config.train.batch_size)

        def epoch() -> None:
            for _ in range(each):
                next(batches)

        # Batches that are ready before the clock starts are as many as it leaves ready.
        o = config.benchmark
        taken = timing.interleave(
            {"ours": lambda: timing.timed(epoch)}, repeats=max(o.repeats, 5), limit=o.seconds
        )["ours"]
    row.ours = timing.summary(taken)
    samples = each * config.train.batch_size
    rate = samples / row.ours["seconds"]["median"]
    row.figures["samples a second"] = f"{rate:.0f}"
    row.figures["samples a second and core"] = f"{samples / row.ours['cpu_seconds']:.0f}"
    row.figures["slices"] = f"{config.benchmark.slices}, batches of {config.train.batch_size}"
    _beside_steps(context, row, rate)
    row.notes.append(
        "no rival: the official code reads its files with PyTorch's loader, which is "
        "not among the packages compared"
    )
    return row


def _beside_steps(context: context_lib.Context, row: results.Row, rate: float) -> None:
    """The fastest step that was measured in this folder, which must not wait."""
    steps = [r for r in results.load(context.folder) if r["suite"] == "train" and r["program"]]
    if not steps:
        row.notes.append("no step to compare with yet: --suite=train measures one")
        return
    fastest = max(steps, key=lambda r: r["program"]["samples_per_second"])
    consumed = fastest["program"]["samples_per_second"]
    row.figures["fastest step consumes"] = f"{consumed:.1f} samples a second ({fastest['name']})"
    row.figures["pipeline over step"] = f"{rate / consumed:.1f}"
