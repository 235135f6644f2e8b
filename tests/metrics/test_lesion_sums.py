"""Lesions at thresholds that healthy scans chose: closed forms on tiny stacks, and properties."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.data.sources import record
from madad_jax.metrics import bootstrap, calibration, lesion_sums, scan_figures, scan_stacks

SPACING = (10.0, 5.0, 5.0)  # 0.25 ml a voxel
NONE = scan_stacks.Options()


def _stack(*values):
    """A map with one voxel of each value, none next to another."""
    out = np.zeros((3, 5, 30), np.float32)
    for i, value in enumerate(values):
        out[1, 2, 2 * i + 1] = value
    return out


def _healthy(*stacks, options=NONE):
    return calibration.Healthy(
        tuple(
            calibration.measure(f"h{i}", s, np.ones(s.shape, bool), SPACING, options)
            for i, s in enumerate(stacks)
        )
    )


def _judge(entries, points, options=NONE, kinds=None, draws=200):
    """`entries` by scan: (maps, truth)."""
    scans = scan_figures.Scans(
        {name: len(maps) for name, (maps, _) in entries.items()},
        spacing=SPACING,
        healthy_threshold=0.5,
        grid=[0.5],
        options=options,
        points=points,
        draws=draws,
    )
    for name, (maps, truth) in entries.items():
        n, kind = len(maps), (kinds or {}).get(name, "")
        records = [record.Record(f"{name}{z}", name, z, "T1", kind) for z in range(n)]
        scans.add(maps, truth, np.ones(maps.shape, bool), np.ones(n, bool), records)
    return scans


# Two scans with candidates at 0.9, 0.7, 0.5 and at 0.8, 0.6: their means rise from 0.5 to 2.5.
HEALTHY = (_stack(0.9, 0.7, 0.5), _stack(0.8, 0.6))


@pytest.mark.parametrize(
    ("asked", "threshold", "known"),
    [(0.5, 0.8, [1, 0]), (1.0, 0.7, [1, 1]), (2.0, 0.5, [2, 2]), (2.2, 0.5, [2, 2])],
)
def test_a_point_is_the_lowest_threshold_with_so_many_a_scan(asked, threshold, known):
    (point,) = lesion_sums.choose_points(_healthy(*HEALTHY), [asked])
    assert point.threshold == pytest.approx(threshold) and point.known.tolist() == known
    assert point.note == ""


def test_numbers_that_healthy_scans_cannot_tell_or_never_have_are_said():
    few, many = lesion_sums.choose_points(_healthy(*HEALTHY), [0.25, 8.0])
    assert few.threshold is None and few.note == "2 healthy scans cannot tell less than 0.5"
    # At 0.5 scans have four candidates; from 0 on they have all five, and that is the most.
    assert many.known.tolist() == [3, 2] and many.threshold == 0.0
    assert many.note == "healthy scans have at most 2.5"
    nothing = lesion_sums.choose_points(_healthy(_stack(), _stack()), [1.0])[0]
    assert (nothing.threshold, nothing.known.tolist()) == (0.0, [0, 0])


def test_the_most_candidates_lie_above_where_they_merge():
    """Below 0.2 the whole stack is one candidate: a point there would find everything."""
    stacks = [np.maximum(s, np.float32(0.2)) for s in HEALTHY]
    (point,) = lesion_sums.choose_points(_healthy(*stacks), [8.0])
    assert point.threshold == pytest.approx(0.2) and point.known.tolist() == [3, 2]


@hypothesis.given(st.integers(0, 30), st.sampled_from([0.0, 0.6]))
@hypothesis.settings(max_examples=20, deadline=None)
def test_more_false_positives_never_raise_the_threshold(seed, least):
    rng = np.random.default_rng(seed)
    stacks = [rng.integers(0, 9, (3, 6, 6)).astype(np.float32) / 8 for _ in range(4)]
    options = scan_stacks.Options(min_volume_ml=least)
    healthy = _healthy(*stacks, options=options)
    points = lesion_sums.choose_points(healthy, [0.25, 0.5, 1.0, 2.0, 4.0])
    limits = [p.threshold for p in points]
    assert limits == sorted(limits, reverse=True)
    for p in points:
        counts = [scan_stacks.candidates(s, p.threshold, SPACING, options)[1] for s in stacks]
        assert p.known.tolist() == counts and np.mean(counts) <= p.asked


@hypothesis.given(st.integers(0, 30), st.floats(0, 1), st.sampled_from([0.0, 0.6]))
@hypothesis.settings(max_examples=30, deadline=None)
def test_candidates_and_lesions_touch_as_labelling_says(seed, threshold, least):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 9, (3, 7, 7)).astype(np.float32) / 8
    lesions, count = ndimage.label(rng.random(maps.shape) > 0.9, np.ones((3, 3, 3)))
    options = scan_stacks.Options(min_volume_ml=least)
    labels, found = scan_stacks.candidates(maps, threshold, SPACING, options)
    false, covered = scan_stacks.count_touching(maps, lesions, threshold, SPACING, options)
    assert false == sum(not lesions[labels == k].any() for k in range(1, found + 1))
    assert covered.tolist() == [(labels[lesions == k] > 0).sum() for k in range(1, count + 1)]


def _lesion(maps, place, value, length):
    truth = np.zeros(maps.shape, bool)
    truth[0, 0, place : place + length] = True
    maps = np.where(truth, np.float32(value), maps)
    return maps, truth


@pytest.fixture
def points():
    return lesion_sums.choose_points(_healthy(*HEALTHY), [0.25, 0.5, 2.0])


@pytest.fixture
def entries():
    """Two scans with a lesion, of 0.5 and 1.5 ml, of scores 0.85 and 0.6; three without."""
    return {
        "a": _lesion(_stack(0.9), 20, 0.85, 2),
        "b": _lesion(_stack(), 20, 0.6, 6),
        **{n: (_stack(0.95, 0.6), np.zeros((3, 5, 30), bool)) for n in "cde"},
    }


def test_figures_at_points_in_closed_form(entries, points):
    scans = _judge(entries, points, kinds={"a": "dark", "b": "rim"})
    none, few, many = scans.result()["at_false_positives"]
    assert none["threshold"] is None and none["sensitivity"] is None and none["by_volume"] == {}
    assert none["note"]
    # At 0.8 lesion a alone is found; of the healthy scans' candidates one each.
    assert (few["n_found"], few["n_lesions"], few["sensitivity"]) == (1, 2, 0.5)
    assert few["false_positives_per_healthy_scan"] == 1.0
    assert few["false_positives_per_lesion_scan"] == 0.5
    assert few["expected"] == 0.5 and few["n_validation_scans"] == 2
    # At 0.5 both, and every candidate of the healthy scans.
    assert many["sensitivity"] == 1.0 and many["false_positives_per_healthy_scan"] == 2.0
    assert few["by_volume"]["0.1 to 1 ml"]["sensitivity"] == 1.0
    assert few["by_volume"]["1 to 10 ml"] == few["by_volume"]["1 ml up"]
    assert few["by_volume"]["1 ml up"]["sensitivity"] == 0.0
    assert set(few["by_volume"]) == {"0.1 to 1 ml", "1 to 10 ml", "1 ml up"}
    assert {k: v["n_found"] for k, v in few["by_kind"].items()} == {"dark": 1, "rim": 0}
    assert few["by_kind_and_volume"]["rim, 1 ml up"]["n_lesions"] == 1
    low, high = few["intervals"]["sensitivity"]
    assert 0.0 <= low < 0.5 < high <= 1.0
    assert many["keeps"] is True


def test_the_interval_of_what_is_kept_counts_both_groups_of_people(entries):
    known = np.array([0, 1, 2, 3, 4])
    point = lesion_sums.Point(2.0, 0.92, known)
    found = _judge(entries, (point,)).result()["at_false_positives"][0]
    # One false positive in each of three scans has no spread; the threshold's own error remains.
    low, high = found["intervals"]["false_positives_per_healthy_scan"]
    assert low < 1.0 < high and found["keeps"] is (low <= 2.0 <= high)
    far = lesion_sums.Point(1000.0, 0.92, known)
    assert _judge(entries, (far,)).result()["at_false_positives"][0]["keeps"] is False


def test_a_lesion_under_the_smallest_volume_is_not_found(entries, points):
    """What is dropped as a candidate cannot be a finding either."""
    options = scan_stacks.Options(min_volume_ml=1.0)
    many = _judge(entries, points, options=options).result()["at_false_positives"][2]
    assert many["by_volume"]["0.1 to 1 ml"]["sensitivity"] == 0.0
    assert many["by_volume"]["1 to 10 ml"]["sensitivity"] == 1.0
    assert many["false_positives_per_healthy_scan"] == 0.0
    assert many["by_kind"] == {}, "kinds that nobody named are no table"


def test_differences_are_paired_and_read_back(entries, points):
    better = _judge(entries, points).lesion_sums()
    worse = {n: (np.where(truth, 0.0, maps).astype(np.float32), truth)
             for n, (maps, truth) in entries.items()}  # fmt: skip
    worse = _judge(worse, points).lesion_sums()
    content = lesion_sums.to_bytes({"good": better, "bad": worse}, {"fingerprint": "x"})
    back, facts = lesion_sums.from_bytes(content, "lesions.npz")
    assert facts == {"fingerprint": "x"}
    found = lesion_sums.list_differences(back["good"], back["bad"], draws=100)
    assert set(found) == {0.5, 2.0}, "a number without a threshold has no figure"
    assert found[2.0][lesion_sums.ALL] == {"sensitivity": 1.0, "interval": [1.0, 1.0]}
    few = found[0.5][lesion_sums.ALL]
    assert few["sensitivity"] == 0.5 and few["interval"] == [0.0, 1.0]
    assert found[0.5]["by_volume", "1 ml up"]["sensitivity"] == 0.0
    # By hand: the same draws of the five scans.
    weights = bootstrap.draw_weights(5, 100, 0)
    drawn = weights[:, 0] / (weights[:, 0] + weights[:, 1]).clip(1)
    kept = drawn[weights[:, 0] + weights[:, 1] > 0]
    assert few["interval"] == pytest.approx(np.percentile(kept, (2.5, 97.5)))
    same = lesion_sums.list_differences(better, better, draws=100)
    assert same[0.5][lesion_sums.ALL] == {"sensitivity": 0.0, "interval": [0.0, 0.0]}
    swapped = lesion_sums.list_differences(worse, better, draws=100)
    assert swapped[0.5][lesion_sums.ALL]["sensitivity"] == -0.5


def test_only_scans_that_both_hold_are_compared(entries, points):
    mine = _judge(entries, points).lesion_sums()
    theirs = _judge({n: entries[n] for n in "bcd"}, points).lesion_sums()
    found = lesion_sums.list_differences(mine, theirs, draws=10)
    assert found[2.0][lesion_sums.ALL] == {"sensitivity": 0.0, "interval": None}
    stranger = _judge({"z": entries["a"]}, points).lesion_sums()
    assert lesion_sums.list_differences(mine, stranger) == {}


@pytest.mark.parametrize("change", ["more found", "negative", "short", "format"])
def test_sums_that_cannot_be_are_refused(entries, points, change):
    sums = _judge(entries, points).lesion_sums()
    if change == "more found":
        sums.found[0, 0, 0] = 9
    elif change == "negative":
        sums.false[0, 0] = -1
    elif change == "short":
        object.__setattr__(sums, "lesions", sums.lesions[:2])
    content = lesion_sums.to_bytes({"m": sums}, {})
    if change == "format":
        content = b"PK" + content[:40]
    with pytest.raises(errors.UserError, match=r"x\.npz"):
        lesion_sums.from_bytes(content, "x.npz")
