"""New, gone, seen twice: by hand-drawn maps; and what healthy pairs spread over."""

import json

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import change_spread, visit_changes
from madad_jax.metrics.visit_changes import VisitMaps

SHAPE = (40, 30, 20)


def _maps(*boxes, scored=None):
    """A map of 0.8 in boxes and 0.1 elsewhere."""
    anomaly = np.full(SHAPE, 0.1, np.float32)
    for box in boxes:
        anomaly[box] = 0.8
    scored = np.ones(SHAPE, bool) if scored is None else scored
    return VisitMaps(
        np.where(scored, anomaly, 0).astype(np.float32), (anomaly > 0.5) & scored, scored
    )


def _box(x, y, z, side=4):
    return np.s_[x : x + side, y : y + side, z : z + side]


KEPT, GROWN = _box(2, 2, 2), _box(2, 2, 2, 6)
GONE, NEW = _box(20, 4, 4, 3), _box(30, 20, 10, 5)


def test_each_change_by_its_name_and_voxels():
    numbers, places = visit_changes.find_places(_maps(KEPT, GONE), _maps(GROWN, NEW))
    found = {p.change: p for p in places}
    assert [p.change for p in places] == ["new", "gone", "persisting"]
    assert found["new"].voxels == (0, 125) and found["gone"].voxels == (27, 0)
    assert found["persisting"].voxels == (64, 216) and found["persisting"].parts == (1, 1)
    assert found["new"].difference == pytest.approx(0.7) and found["new"].voxel == (32, 22, 12)
    assert found["gone"].peaks == pytest.approx((0.8, 0.1))
    # Over the voxels of both masks: 64 of 216 were bright before.
    assert found["persisting"].means[0] == pytest.approx((64 * 0.8 + 152 * 0.1) / 216)
    for number, place in enumerate(places, start=1):
        assert (numbers == number).sum() == max(place.voxels)
        assert numbers[place.voxel] == number


def test_exchanged_visits_mirror():
    first, second = _maps(KEPT, GONE), _maps(GROWN, NEW)
    _, places = visit_changes.find_places(first, second)
    _, mirrored = visit_changes.find_places(second, first)
    names = {"new": "gone", "gone": "new", "persisting": "persisting"}
    one = {(names[p.change], p.voxels[::-1], -p.difference, p.voxel) for p in places}
    assert one == {(p.change, p.voxels, p.difference, p.voxel) for p in mirrored}
    np.testing.assert_array_equal(
        visit_changes.subtract(first, second), -visit_changes.subtract(second, first)
    )


def test_the_same_visit_twice_changes_nothing():
    visit = _maps(KEPT, GONE, NEW)
    _, places = visit_changes.find_places(visit, visit)
    assert [p.change for p in places] == ["persisting"] * 3
    assert all(p.voxels[0] == p.voxels[1] and p.difference == 0 for p in places)
    assert not visit_changes.subtract(visit, visit).any()


def test_nothing_above_the_threshold():
    numbers, places = visit_changes.find_places(_maps(), _maps())
    assert places == [] and not numbers.any()


def test_one_that_split_is_one_row():
    whole = np.s_[5:25, 5:9, 5:9]
    _, places = visit_changes.find_places(_maps(whole), _maps(_box(5, 5, 5), _box(21, 5, 5)))
    assert [(p.change, p.parts, p.voxels) for p in places] == [("persisting", (1, 2), (320, 128))]


def test_a_touch_is_no_overlap():
    """One voxel of 64 is less than a tenth; seven are more."""
    first, beside = _maps(_box(5, 5, 5)), _maps(_box(8, 8, 8))
    numbers, places = visit_changes.find_places(first, beside)
    assert sorted(p.change for p in places) == ["gone", "new"]
    assert {p.voxels for p in places} == {(64, 0), (0, 64)} and (numbers > 0).sum() == 127
    _, places = visit_changes.find_places(first, _maps(_box(7, 7, 8)))
    assert [p.change for p in places] == ["gone", "new"][::-1]
    _, places = visit_changes.find_places(first, _maps(_box(7, 7, 7)))
    assert [p.change for p in places] == ["persisting"]


def test_what_was_not_scored_is_not_new():
    half = np.ones(SHAPE, bool)
    half[28:] = False
    first, second = _maps(scored=half), _maps(NEW, GONE)
    _, places = visit_changes.find_places(first, second)
    assert {p.voxels[1]: p.change for p in places} == {125: "not_scored_in_first", 27: "new"}
    _, places = visit_changes.find_places(second, first)
    assert {p.voxels[0]: p.change for p in places} == {125: "not_scored_in_second", 27: "gone"}
    assert not visit_changes.subtract(first, second)[28:].any()


IDENTITY = {"weights": "ab", "threshold": 0.2}


def _spread():
    rng = np.random.default_rng(0)
    both = np.ones(SHAPE, bool)
    pairs = []
    for width, new in ((0.01, 1), (0.03, 4)):
        difference = rng.uniform(-width, width, SHAPE).astype(np.float32)
        pairs.append(change_spread.measure(difference, both, new, 2))
    return change_spread.Spread(IDENTITY, tuple(pairs))


def test_quantiles_of_known_pairs():
    spread = _spread()
    # Half of the voxels are uniform to 0.01, half to 0.03: 0.75 of (1 + 1/3) / 2 lie below 0.01.
    assert spread.quantile(2 / 3) == pytest.approx(0.01, abs=1e-3)
    assert spread.quantile(1.0) == pytest.approx(0.03, abs=6e-4)
    said = spread.to_summary()
    assert said["pairs"] == 2 and said["few_pairs"]
    assert said["bound_of_pairs"] == pytest.approx([0.01, 0.03], abs=6e-4)
    assert said["new_a_pair"] == {"mean": 2.5, "least": 1, "most": 4}


def test_quantiles_are_never_below_the_exact_ones():
    values = np.random.default_rng(1).beta(0.3, 8.0, SHAPE).astype(np.float32)
    pair = change_spread.measure(values, np.ones(SHAPE, bool), 0, 0)
    spread = change_spread.Spread(IDENTITY, (pair,))
    for level in (0.5, 0.9, 0.99, 0.999):
        exact = np.quantile(values, level, method="inverted_cdf")
        assert exact <= spread.quantile(level) <= exact + 1 / change_spread.BINS + 1e-6
    assert change_spread.share_beyond(values, spread.quantile()) <= 0.001


def test_comes_back_from_json():
    spread = _spread()
    read = change_spread.from_dict(json.loads(json.dumps(spread.to_dict())), "file")
    assert read.identity == IDENTITY and read.to_summary() == spread.to_summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 1"),
        ({"pairs": []}, "no list of pairs"),
        ({"model": 3}, "'model' is no object"),
        ({"pairs": [{"shares": [0.5], "new": 0, "gone": 0}]}, "sum to 0.5"),
        ({"pairs": [{"shares": [1.0], "new": -1, "gone": 0}]}, "'new' is no number"),
        ({"pairs": [{"shares": [2.0, -1.0], "new": 0, "gone": 0}]}, "no shares"),
        ({"pairs": [{"new": 0, "gone": 0}]}, "shares"),
    ],
)
def test_a_damaged_spread_is_said(change, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        change_spread.from_dict(_spread().to_dict() | change, "some.json")
    assert "some.json" in str(caught.value)


def test_no_common_voxel_is_said():
    with pytest.raises(errors.UserError, match="no scored voxel in common"):
        change_spread.measure(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool), 0, 0)
