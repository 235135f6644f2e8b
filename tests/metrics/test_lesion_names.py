"""Which component is which lesion of the table: closed forms on tiny stacks."""

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.data.sources import record
from madad_jax.metrics import lesion_names, scan_figures, scan_stacks

SPACING = (4.0, 2.0, 2.0)  # 0.016 ml a voxel
NUMBERS = (10, 12, 14, 16, 18)


def _named(kind, place, volume_ml=0.03):
    return lesion_names.Named(kind, volume_ml, place)


def _truth(*boxes):
    out = np.zeros((5, 20, 20), bool)
    for box in boxes:
        out[box] = True
    return out


def _bind(truth, *named):
    labels, _ = ndimage.label(truth, np.ones((3, 3, 3)))
    found = lesion_names.bind(labels, NUMBERS, SPACING, named)
    return [[n.kind for n in mine] for mine in found]


FIRST, SECOND = np.s_[0:2, 2:5, 2:5], np.s_[3:5, 12:15, 12:15]


def test_a_lesion_belongs_to_the_nearest_component():
    truth = _truth(FIRST, SECOND)
    low, high = _named("low", (11.0, 3.0, 3.0)), _named("high", (17.0, 13.0, 13.0))
    assert _bind(truth, low, high) == [["low"], ["high"]]
    assert _bind(truth, high) == [[], ["high"]]
    assert _bind(truth) == [[], []] and _bind(_truth(), low) == []


@pytest.mark.parametrize(
    ("place", "volume_ml", "bound"),
    [
        ((11.0, 6.0, 3.0), 0.03, True),  # 4 mm beside it: a radius of 1.9 mm, a voxel of 4 mm
        ((11.0, 8.0, 3.0), 0.03, False),  # 8 mm
        ((11.0, 8.0, 3.0), 0.5, True),  # the radius is 4.9 mm
        ((8.0, 3.0, 3.0), 0.03, True),  # one slice below the stack, 4 mm
        ((5.0, 3.0, 3.0), 0.03, False),  # 10 mm below
    ],
)
def test_reach_is_in_millimetres_and_by_volume(place, volume_ml, bound):
    found = _bind(_truth(FIRST), _named("x", place, volume_ml))
    assert found == ([["x"]] if bound else [[]])


def test_the_centre_of_a_crescent_lies_beside_it():
    rows, columns = np.indices((20, 20))
    ring = np.abs(np.hypot(rows - 10, columns - 10) - 4) < 0.8
    truth = np.zeros((5, 20, 20), bool)
    truth[2] = ring & (rows > 8)
    volume = float(truth.sum()) * 0.016
    assert _bind(truth, _named("stroke", (14.0, 11.5, 10.0), volume)) == [["stroke"]]


def test_lesions_that_touch_are_one_of_the_kind_of_the_largest():
    small, large = _named("small", (11.0, 2.0, 2.0), 0.1), _named("large", (11.0, 4.0, 4.0), 0.2)
    assert _bind(_truth(FIRST), small, large) == [["large", "small"]]


def test_a_missing_slice_moves_nothing():
    labels, _ = ndimage.label(_truth(SECOND), np.ones((3, 3, 3)))
    named = [_named("x", (33.0, 13.0, 13.0))]
    # The slices of number 30 and up: 33 lies between the last two.
    assert lesion_names.bind(labels, (10, 12, 14, 32, 34), SPACING, named)[0]


def test_figures_have_kinds_and_volumes_of_the_table():
    truth = _truth(FIRST, SECOND)
    maps = np.where(truth, np.float32(0.9), np.float32(0.1))
    scans = scan_figures.Scans(
        {"p": 5}, spacing=SPACING, healthy_threshold=0.5, grid=[0.5], draws=0,
        named={"p": (_named("tumour", (11.0, 3.0, 3.0), 12.0), _named("lost", (90.0, 3.0, 3.0)))},
    )  # fmt: skip
    records = [record.Record(f"p{z}", "p", n, "T1", "of the slice") for z, n in enumerate(NUMBERS)]
    scans.add(maps, truth, np.ones(maps.shape, bool), np.ones(5, bool), records)
    found = scans.result()
    assert scans.scans[0].kinds == ["tumour", "unknown"]
    assert [v for v, _ in scans.scans[0].lesions] == [12.0, pytest.approx(18 * 0.016)]
    assert found["n_lesions_outside"] == 1
    assert set(found["by_volume"]) == {"10 ml up", "0.1 to 1 ml"}
    assert scan_stacks.voxel_ml(SPACING) == pytest.approx(0.016)
