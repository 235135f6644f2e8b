"""A small set of fake slices shared by the tests of evaluator, report and pictures."""

import numpy as np

from madad_jax.data.sources import record


def make_set(n=12, *, seed=0, size=32, healthy=3, strength=0.2):
    """(maps, segmentations, brain masks, records); the last `healthy` slices hold no lesion."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    brain = np.repeat((np.hypot(y, x) < 0.45 * size)[None], n, axis=0)
    truth = np.zeros_like(brain)
    for i in range(n - healthy):
        side = (2, 4, 9)[i % 3]
        top, left = rng.integers(8, 24 - side, 2)
        truth[i, top : top + side, left : left + side] = True
    maps = np.clip(0.3 * rng.random(truth.shape) + strength * truth, 0, 1).astype(np.float32)
    records = [
        record.Record(
            id=f"p{i // 2:02d}-slice_{i % 2}",
            subject=f"p{i // 2:02d}",
            slice=i % 2,
            modality="T1",
            lesion_kind=("dark", "bright", "")[i % 3] if truth[i].any() else "",
        )
        for i in range(n)
    ]
    return maps * brain, truth, brain, records


def group(golden, name):
    """(maps, truth) of one group of the official code's metric numbers."""
    maps = golden[f"{name}/maps"]
    truth = golden[f"{name}/gt"] > 0 if f"{name}/gt" in golden else np.zeros(maps.shape, bool)
    return maps, truth
