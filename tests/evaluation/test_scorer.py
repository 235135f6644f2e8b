import numpy as np
import pytest

from madad_jax.data.sources import record
from madad_jax.evaluation import across_slices


def _pairs(values, numbers, brain=None):
    """Slices of two scans in turn, each of one value, two a batch."""
    records = [record.Record(f"{s}-{n}", s, n, "T1") for n in numbers for s in ("a", "b")]
    shape = (2, 4, 4)
    pairs = []
    for i, value in enumerate(values):
        mask = np.ones(shape, bool)
        if brain is not None:
            mask &= brain[i]
        batch = {"index": np.array([2 * i, 2 * i + 1]), "brain_mask": mask}
        out = {"map": np.full(shape, value, np.float32), "reconstruction": np.ones((*shape, 1))}
        out["map"][1] = 0.5  # scan b is constant
        pairs.append((batch, out))
    return pairs, records


def test_neighbours_are_weighed_by_their_distance():
    pairs, records = _pairs([0.0, 1.0, 0.0, 0.0], [10, 11, 12, 14])
    found = {}
    for batch, out in across_slices.smooth(pairs, records, 1.0):
        names = {records[i].subject for i in batch["index"]}
        found[names.pop()] = dict(
            zip([records[i].slice for i in batch["index"]], out["map"][:, 0, 0], strict=True)
        )
    w = np.exp(-0.5 * np.arange(5.0) ** 2)
    assert found["a"][10] == pytest.approx(w[1] / (w[0] + w[1] + w[2] + w[4]), rel=1e-5)
    assert found["a"][11] == pytest.approx(w[0] / (w[0] + 2 * w[1] + w[3]), rel=1e-5)
    assert list(found["b"].values()) == pytest.approx([0.5] * 4)


def test_slices_without_brain_do_not_thin_the_map():
    brain = [np.ones((4, 4), bool) for _ in range(3)]
    brain[2][:, :2] = False
    pairs, records = _pairs([0.6, 0.6, 0.6], [0, 1, 2], brain)
    for _, out in across_slices.smooth(pairs, records, 2.0):
        assert np.ptp(out["map"]) < 1e-6
