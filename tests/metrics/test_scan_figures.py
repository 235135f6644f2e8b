import json

import numpy as np
import pytest
from scipy import ndimage

from madad_jax.core import errors
from madad_jax.data.sources import record
from madad_jax.metrics import scan_figures, scan_stacks

SPACING = (4.0, 2.0, 2.0)  # 0.016 ml a voxel
THRESHOLD = 0.5


def _scan(seed, lesion=True, shape=(5, 24, 24)):
    rng = np.random.default_rng(seed)
    maps = ndimage.gaussian_filter(rng.random(shape), (0, 1, 1))
    maps = (maps - maps.min()) / np.ptp(maps)
    truth = np.zeros(shape, bool)
    if lesion:
        truth[1:4, 4:10, 4:10] = True  # 108 voxels, 1.7 ml
        truth[4, 20, 20] = True  # one voxel
        maps[truth] = np.clip(maps[truth] + 0.1, 0, 1)
    return maps.astype(np.float32), truth, np.ones(shape, bool)


def _scans(entries, batch=3, shuffle=True, **options):
    """Slices of all scans in an order that mixes them."""
    slices = [
        (record.Record(f"{name}-slice_{z}", name, z, "T1"), *(a[z] for a in arrays))
        for name, arrays in entries.items()
        for z in range(len(arrays[0]))
    ]
    if shuffle:
        slices = [slices[i] for i in np.random.default_rng(0).permutation(len(slices))]
    options = {"grid": [0.9, 0.7, 0.5, 0.3]} | options
    scans = scan_figures.Scans(
        {name: len(arrays[0]) for name, arrays in entries.items()},
        spacing=SPACING,
        healthy_threshold=THRESHOLD,
        **options,
    )
    for i in range(0, len(slices), batch):
        part = slices[i : i + batch]
        maps, truth, brain = (np.stack([s[k] for s in part]) for k in (1, 2, 3))
        scans.add(maps, truth, brain, np.ones(len(part), bool), [s[0] for s in part])
    return scans


def test_figures_are_those_of_a_direct_computation():
    entries = {f"p{i}": _scan(i, lesion=i < 4) for i in range(6)}
    found = _scans(entries).result()
    dice, false, found_lesions, lesions = [], [], 0, 0
    for maps, truth, _ in entries.values():
        above = maps > np.float32(THRESHOLD)
        if truth.any():
            dice.append(2 * (above & truth).sum() / (above.sum() + truth.sum()))
        labels, count = ndimage.label(above, np.ones((3, 3, 3)))
        false.append(sum(not truth[labels == k].any() for k in range(1, count + 1)))
        labels, count = ndimage.label(truth, np.ones((3, 3, 3)))
        lesions += count
        found_lesions += sum(above[labels == k].mean() >= 0.1 for k in range(1, count + 1))
    assert found["dice_healthy"] == pytest.approx(np.mean(dice))
    assert found["false_positives_per_scan"] == pytest.approx(np.mean(false))
    assert found["false_positives_per_healthy_scan"] == pytest.approx(np.mean(false[4:]))
    assert found["n_lesions"] == lesions == 8
    assert found["sensitivity_healthy"] == pytest.approx(found_lesions / lesions)
    curves = [
        np.mean([2 * ((m > t) & g).sum() / ((m > t).sum() + g.sum()) for m, g, _ in
                 list(entries.values())[:4]])
        for t in np.linspace(0, 0.99, 300)
    ]  # fmt: skip
    assert found["dice_oracle"] == pytest.approx(max(curves), abs=2e-3)
    assert found["dice_oracle"] >= found["dice_healthy"]
    low, high = found["intervals"]["dice_healthy"]
    assert low <= found["dice_healthy"] <= high
    json.dumps(found, allow_nan=False)


def test_froc_at_each_threshold_of_the_grid():
    entries = {f"p{i}": _scan(i) for i in range(3)}
    found = _scans(entries).result()
    curve = found["froc"]
    assert curve["thresholds"] == pytest.approx([0.9, 0.7, 0.5, 0.3])
    middle = curve["thresholds"].index(0.5)
    assert curve["false_positives"][middle] == pytest.approx(found["false_positives_per_scan"])
    assert curve["sensitivity"][middle] == pytest.approx(found["sensitivity_healthy"])
    assert (np.diff(curve["sensitivity"]) >= 0).all()
    last = int(np.argmax(curve["false_positives"])) + 1  # components merge below
    pairs = list(zip(curve["sensitivity"], curve["false_positives"], strict=True))[:last]
    allowed = [share for share, count in pairs if count <= 4]
    assert found["sensitivity_at_4"] == max(allowed, default=0.0)


def test_one_component_over_everything_finds_nothing():
    """At the lowest threshold all is one component: no false positive, every lesion touched."""
    entries = {f"p{i}": _scan(i) for i in range(3)}
    found = _scans(entries, grid=[0.9, 0.6, 0.0]).result()
    curve = found["froc"]
    assert curve["false_positives"][-1] == 0 and curve["sensitivity"][-1] == 1.0
    assert found["sensitivity_at_1"] < 1.0


def test_order_and_batches_of_slices_play_no_part():
    entries = {f"p{i}": _scan(i) for i in range(5)}
    one = _scans(entries, batch=1).result()
    assert one == _scans(entries, batch=25, shuffle=False).result()


def test_lesions_by_volume():
    maps, truth, brain = _scan(0)
    maps[truth] = 0.9
    maps[4, 20, 20] = 0.0
    found = _scans({"p": (maps, truth, brain)}).result()
    assert found["by_volume"] == {
        "below 0.1 ml": {"n_lesions": 1, "sensitivity_healthy": 0.0},
        "1 to 10 ml": {"n_lesions": 1, "sensitivity_healthy": 1.0},
    }


def test_small_components_can_be_dropped():
    maps = np.zeros((5, 24, 24), np.float32)
    maps[0, 0, 0] = maps[2, 10:14, 10:14] = 0.9
    entries = {"p": (maps, np.zeros(maps.shape, bool), np.ones(maps.shape, bool))}
    assert _scans(entries).result()["false_positives_per_healthy_scan"] == 2
    options = scan_stacks.Options(min_volume_ml=0.1)
    found = _scans(entries, options=options).result()
    assert found["false_positives_per_healthy_scan"] == 1
    assert found["dice_healthy"] is None and found["froc"]["sensitivity"] == []


def test_incomplete_and_unknown_scans_are_named():
    maps, truth, brain = _scan(0)
    scans = scan_figures.Scans({"p": 9}, spacing=SPACING, healthy_threshold=0.5, grid=[0.5])
    records = [record.Record(f"p-slice_{z}", "p", z, "T1") for z in range(5)]
    scans.add(maps, truth, brain, np.ones(5, bool), records)
    with pytest.raises(errors.UserError, match="scan 'p': found 5 of 9 slices"):
        scans.result()
    stranger = [record.Record("q-slice_0", "q", 0, "T1")]
    with pytest.raises(errors.UserError, match="slice q-slice_0: its scan 'q'"):
        scans.add(maps[:1], truth[:1], brain[:1], np.ones(1, bool), stranger)


def test_scans_without_a_segmentation_are_counted_and_left_out():
    maps, truth, brain = _scan(0)
    scans = scan_figures.Scans({"p": 5}, spacing=SPACING, healthy_threshold=0.5, grid=[0.5])
    records = [record.Record(f"p-slice_{z}", "p", z, "T1") for z in range(5)]
    scans.add(maps, truth, brain, np.zeros(5, bool), records)
    found = scans.result()
    assert (found["n_scans"], found["n_unknown"]) == (0, 1)
    assert found["false_positives_per_scan"] is None
