"""Numbers that are none are refused where they come in, not counted as the highest or as 0."""

import io
import json

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.data.sources import record
from madad_jax.metrics import (
    archives,
    calibration,
    evaluator,
    histogram,
    pixel_pool,
    region_overlap,
    scan_figures,
    scan_stacks,
    subject_sums,
    threshold_counts,
)

BRAIN = np.ones((1, 4, 4), bool)
TRUTH = np.zeros((1, 4, 4), bool)
TRUTH[0, 0, 0] = True


def maps(value):
    out = np.full((1, 4, 4), 0.5, np.float32)
    out[0, 1, 2] = value
    return out


def scans():
    return scan_figures.Scans({"a": 1}, spacing=(1.0, 1.0, 1.0), healthy_threshold=0.5, grid=[0.5])


def a_record():
    return record.Record("a-slice_1", "a", 1, "T1")


ENTRIES = {
    "pooled": lambda m: pixel_pool.pooled(m, TRUTH),
    "pool": lambda m: pixel_pool.Pool().add(m[TRUTH], m[~TRUTH]),
    "bins": lambda m: histogram.bin_of(m, 16),
    "fine counts": lambda m: histogram.count_fine(m.ravel()),
    "threshold counts": lambda m: threshold_counts.ThresholdCounts().add(m, TRUTH),
    "exact max Dice": lambda m: threshold_counts.max_dice_exact([m.ravel()], [TRUTH.ravel()]),
    "region overlap": lambda m: region_overlap.exact(m[TRUTH], np.ones(1), m[~TRUTH]),
    "stack": lambda m: scan_stacks.process_stack(m, BRAIN, (1.0, 1.0, 1.0), scan_stacks.Options()),
    "calibration": lambda m: calibration.measure(
        "a", m, BRAIN, (1.0, 1.0, 1.0), scan_stacks.PRESETS["dae"]
    ),
    "scans": lambda m: scans().add(m, TRUTH, BRAIN, np.ones(1, bool), [a_record()]),
    "evaluator": lambda m: evaluator.Evaluator().add(
        m, TRUTH, BRAIN, np.ones(1, bool), [a_record()]
    ),
    "healthy slices": lambda m: evaluator.Evaluator().add_healthy(m, BRAIN, [a_record()]),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_with_nan_is_refused(name, value):
    ENTRIES[name](maps(0.5))
    with pytest.raises(errors.UserError, match="found NaN or infinity"):
        ENTRIES[name](maps(value))


@pytest.mark.parametrize("name", ["scans", "evaluator", "healthy slices"])
def test_the_slice_with_nan_is_named(name):
    with pytest.raises(errors.UserError, match="slice a-slice_1: found NaN"):
        ENTRIES[name](maps(np.nan))


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    spacing, options, brain = (4.0, 2.0, 2.0), scan_stacks.Options(), np.ones((2, 8, 8), bool)
    found = tuple(
        calibration.measure(f"s{i}", rng.random((2, 8, 8), np.float32), brain, spacing, options)
        for i in range(3)
    )
    made = calibration.Calibration(
        {("map", "none"): calibration.Healthy(found)},
        {"none": options},
        {"spacing": list(spacing), "numbers": [0, 1, 1]},
    )
    return calibration.to_bytes(made)


def rewrite(content, change, *, keep_digest=False):
    """The file with other arrays or facts, as an old program, which knew no digest, writes it."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    meta = json.loads(bytes(arrays.pop("meta")))
    if not keep_digest:
        del meta["digest"]
    change(meta, arrays)
    out = io.BytesIO()
    np.savez(out, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    return out.getvalue()


def replace(name, function):
    return lambda meta, arrays: arrays.update({name: function(arrays[name])})


def put(value, at=0):
    def function(array):
        array = array.copy()
        array.ravel()[at] = value
        return array

    return function


def fact(name, value):
    return lambda meta, arrays: meta["facts"].update({name: value})


def first(name, value):
    return lambda meta, arrays: meta["entries"][0].update({name: value})


NONSENSE = {
    "negative counts": replace("histograms_0", put(-1)),
    "empty histograms": replace("histograms_0", np.zeros_like),
    "too few bins": replace("histograms_0", lambda a: a[:, :100]),
    "histograms of floats": replace("histograms_0", lambda a: a.astype(float)),
    "histograms of NaN": replace("histograms_0", lambda a: a * np.nan),
    "scores of NaN": replace("scores_0", put(np.nan)),
    "scores above 1": replace("scores_0", put(7.0)),
    "scores of text": replace("scores_0", lambda a: a.astype(str)),
    "one score": replace("scores_0", lambda a: a[0]),
    "levels of NaN": replace("levels_0", put(np.nan)),
    "levels that rise": replace("levels_0", lambda a: a[::-1].copy()),
    "negative candidates": replace("counts_0", put(-3)),
    "half of the candidates": replace("counts_0", lambda a: a[: len(a) // 2]),
    "ends that fall": replace("ends_0", put(10**6)),
    "no ends": replace("ends_0", lambda a: a[:0]),
    "no spacing": fact("spacing", [0.0, 1.0, 1.0]),
    "spacing of NaN": fact("spacing", [float("nan"), 1.0, 1.0]),
    "numbers with step 0": fact("numbers", [0, 5, 0]),
    "numbers of text": fact("numbers", "abc"),
    "no entries": lambda meta, arrays: meta.update(entries=[]),
    "entries of numbers": lambda meta, arrays: meta.update(entries=[1]),
    "options as a list": lambda meta, arrays: meta.update(options=[]),
    "unknown options": lambda meta, arrays: meta["options"].update(none={"smooth": 1}),
    "options of NaN": lambda meta, arrays: meta["options"].update(none={"smooth_mm": "wide"}),
    "facts as a list": lambda meta, arrays: meta.update(facts=[]),
    "subjects of numbers": first("subjects", [1, 2, 3]),
    "no subjects": first("subjects", []),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_a_calibration_with_nonsense_is_refused(content, name):
    with pytest.raises(errors.UserError, match=r"x\.npz") as error:
        calibration.from_bytes(rewrite(content, NONSENSE[name]), "x.npz")
    assert len(str(error.value).splitlines()) == 1


def test_a_calibration_without_a_digest_opens(content):
    old = calibration.from_bytes(rewrite(content, lambda meta, arrays: None), "x.npz")
    new = calibration.from_bytes(content, "x.npz")
    assert old.facts == new.facts and "digest" not in new.facts
    rates = [c.select("map", "none").by_voxel_fpr(0.1).threshold for c in (old, new)]
    assert rates[0] == rates[1]


def test_a_calibration_that_was_changed_is_told_by_its_digest(content):
    changed = rewrite(content, replace("histograms_0", put(3)), keep_digest=True)
    with pytest.raises(errors.UserError, match=r"x\.npz: .*not that of its digest"):
        calibration.from_bytes(changed, "x.npz")


def test_sums_of_subjects_with_nonsense_are_refused():
    names = threshold_counts.N_THRESHOLDS
    for key, value in (("scores_0", -1), ("dice_0", np.nan), ("dice_0", np.inf), ("slices_0", -1)):
        arrays = {
            "scores_0": np.ones((1, 2, histogram.COARSE_BINS)),
            "dice_0": np.ones((1, names)),
            "slices_0": np.ones(1),
        }
        arrays[key].ravel()[0] = value
        meta = {
            "format": subject_sums.FORMAT,
            "entries": [{"method": "a", "subjects": ["s"]}],
            "facts": {},
        }
        with pytest.raises(errors.UserError, match=r"x\.npz: not readable per-subject sums"):
            subject_sums.from_bytes(archives.to_bytes(meta, arrays), "x.npz")
