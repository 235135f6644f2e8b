import dataclasses
import io
import json

import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import bootstrap, calibration, scan_look, scan_stacks

SPACING = (4.0, 2.0, 2.0)
BRAIN = np.ones((4, 16, 16), bool)


def _maps(seed):
    """Scans differ more than voxels of one scan do, as people do."""
    rng = np.random.default_rng(seed)
    width = 0.05 * np.exp(0.3 * rng.standard_normal())
    return np.clip(rng.gamma(1.0, width, BRAIN.shape), 0, 1).astype(np.float32)


def _healthy(seeds, options=scan_stacks.PRESETS["none"]):
    scans = [calibration.measure(f"s{i}", _maps(i), BRAIN, SPACING, options) for i in seeds]
    return calibration.Healthy(tuple(scans))


@pytest.fixture(scope="module")
def healthy():
    return _healthy(range(20))


def _share(seeds, threshold):
    return np.array([(_maps(i) > np.float32(threshold)).mean() for i in seeds])


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01, 0.002])
def test_threshold_has_the_asked_voxel_rate(healthy, rate):
    point = healthy.by_voxel_fpr(rate)
    above = _share(range(20), point.threshold).mean()
    assert 0.9 * rate - 1e-3 <= above <= rate
    said = healthy.expected(point.threshold)
    assert said["voxel_fpr"] == pytest.approx(above, abs=1e-3) and said["voxel_fpr"] <= rate
    low, high = said["voxel_fpr_interval"]
    assert low < said["voxel_fpr"] < high


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0])
def test_threshold_has_the_asked_number_of_candidates(healthy, rate):
    point = healthy.by_false_positives(rate)
    found = [
        scan_stacks.candidates(_maps(i), point.threshold, SPACING, scan_stacks.Options())[1]
        for i in range(20)
    ]
    assert np.mean(found) <= rate
    lower = np.nextafter(np.float32(point.threshold), np.float32(0))
    assert healthy.false_positives(float(lower)) > rate, "the lowest that fits"
    assert healthy.expected(point.threshold)["false_positives_per_scan"] == np.mean(found)


def test_fresh_scans_have_the_asked_rate_within_its_interval(healthy):
    """Both samples are drawn anew: those that set the threshold and those that it meets."""
    rng = np.random.default_rng(0)
    for rate in (0.05, 0.01):
        drawn = []
        for _ in range(60):
            some = calibration.Healthy(tuple(healthy.scans[i] for i in rng.integers(0, 20, 20)))
            t = some.by_voxel_fpr(rate).threshold
            drawn.append(_share(rng.integers(100, 160, 60), t).mean())
        low, high = np.percentile(drawn, (2.5, 97.5))
        assert low <= rate <= high and high < 2.5 * rate


def test_rates_that_the_scans_cannot_tell_are_refused(healthy):
    with pytest.raises(errors.UserError, match=r"accepted: 0\.05 or more; 20 healthy scans"):
        healthy.by_false_positives(0.04)
    with pytest.raises(errors.UserError, match="never have so many"):
        healthy.by_false_positives(1e6)
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(errors.UserError, match="voxel_fpr"):
            healthy.by_voxel_fpr(rate)
        with pytest.raises(errors.UserError, match=r"voxel_fpr|false_positives"):
            healthy.by_false_positives(rate - 1)


def test_scores_that_are_all_clipped_leave_nothing_above():
    maps = np.ones(BRAIN.shape, np.float32)
    scan = calibration.measure("a", maps, BRAIN, SPACING, scan_stacks.Options())
    point = calibration.Healthy((scan,)).by_voxel_fpr(0.01)
    assert point.threshold == 1.0


def test_maps_of_nothing_have_no_false_positives():
    """A detector that flags nothing on healthy scans: anything above 0 is then a finding."""
    scan = calibration.measure("a", _maps(0) * 0, BRAIN, SPACING, scan_stacks.Options())
    healthy = calibration.Healthy((scan,))
    point = healthy.by_voxel_fpr(0.01)
    assert point.threshold == 0.0
    said = healthy.expected(point.threshold)
    assert said["voxel_fpr"] == 0.0 and said["false_positives_per_scan"] == 0.0


def test_a_few_clipped_scores_may_stay_above():
    maps = _maps(0) * 0.5
    maps[0, 0, :5] = 1.0
    healthy = calibration.Healthy(
        (calibration.measure("a", maps, BRAIN, SPACING, scan_stacks.Options()),)
    )
    point = healthy.by_voxel_fpr(5.5 / maps.size)
    assert (maps > np.float32(point.threshold)).sum() == 5
    assert healthy.expected(point.threshold)["voxel_fpr"] == 5 / maps.size
    assert healthy.expected(1.0)["voxel_fpr"] == 0.0


def test_scans_count_alike_whatever_their_size():
    small = calibration.measure("small", _maps(0)[:1], BRAIN[:1], SPACING, scan_stacks.Options())
    large = calibration.measure("large", _maps(1) * 0, BRAIN, SPACING, scan_stacks.Options())
    point = calibration.Healthy((small, large)).by_voxel_fpr(0.1)
    assert _share_of(_maps(0)[:1], point.threshold) == pytest.approx(0.2, abs=0.01)


def _share_of(maps, threshold):
    return (maps > np.float32(threshold)).mean()


def test_percentile_among_healthy_scans(healthy):
    scores = sorted(s.score for s in healthy.scans)
    assert healthy.percentile(0.0) == 0.0 and healthy.percentile(1.0) == 100.0
    assert healthy.percentile(scores[9]) == pytest.approx(47.5)
    blank = calibration.measure("b", _maps(0) * 0, BRAIN, SPACING, scan_stacks.Options())
    assert calibration.Healthy((blank, blank)).percentile(0.0) == 50.0, "no map tells nothing"


def test_comes_back_from_its_file(healthy):
    made = calibration.Calibration(
        {("map", "none"): healthy, ("mask_map", "dae"): _healthy(range(3))},
        {"none": scan_stacks.Options(), "dae": scan_stacks.PRESETS["dae"]},
        {"spacing": list(SPACING), "step": 4},
    )
    content = calibration.to_bytes(made)
    back = calibration.from_bytes(content, "x.npz")
    assert back.options == made.options and back.facts == made.facts
    for key, theirs in made.healthy.items():
        ours = back.select(*key)
        for a, b in zip(ours.scans, theirs.scans, strict=True):
            assert (a.subject, a.score) == (b.subject, b.score)
            np.testing.assert_array_equal(a.histogram, b.histogram)
            np.testing.assert_array_equal(a.levels, b.levels)
            np.testing.assert_array_equal(a.counts, b.counts)
    with pytest.raises(errors.UserError, match="map with none, mask_map with dae"):
        back.select("map", "dae")
    for damaged in (b"", b"PK", content[: len(content) // 2], content[:-30] + b"x" * 30):
        with pytest.raises(errors.UserError, match=r"x\.npz"):
            calibration.from_bytes(damaged, "x.npz")


def test_looks_come_back_and_older_files_have_none(healthy):
    rng = np.random.default_rng(0)
    images, brain = rng.random((6, 2, 16, 16), np.float32), np.ones((2, 16, 16), bool)
    brain[:, :4] = False
    looks = scan_look.collect([scan_look.measure(image, brain, 4.0) for image in images])
    made = calibration.Calibration({("map", "none"): healthy}, {"none": scan_stacks.Options()}, {})
    assert calibration.from_bytes(calibration.to_bytes(made), "x").looks is None
    with_looks = dataclasses.replace(made, looks=looks)
    back = calibration.from_bytes(calibration.to_bytes(with_looks), "x").looks
    np.testing.assert_array_equal(back.deciles, looks.deciles)
    np.testing.assert_array_equal(back.likeness, looks.likeness)
    np.testing.assert_allclose(back.mean, looks.mean, atol=1e-3)  # NaN where there is no brain
    damaged = dataclasses.replace(looks, likeness=looks.likeness + 2)
    content = calibration.to_bytes(dataclasses.replace(made, looks=damaged))
    with pytest.raises(errors.UserError, match=r"x: .*look_likeness"):
        calibration.from_bytes(content, "x")


def test_objects_in_the_file_are_refused():
    content = io.BytesIO()
    np.savez(content, meta=np.array([{"format": 1}], object))
    with pytest.raises(errors.UserError, match=r"x\.npz"):
        calibration.from_bytes(content.getvalue(), "x.npz")
    content = io.BytesIO()
    text = np.frombuffer(json.dumps({"format": 99}).encode(), np.uint8)
    np.savez(content, meta=text)
    with pytest.raises(errors.UserError, match="format 99"):
        calibration.from_bytes(content.getvalue(), "x.npz")


def test_histograms_are_those_of_the_bootstrap():
    assert calibration.N_BINS == bootstrap.N_BINS


def test_a_clean_scan_does_not_hide_what_the_others_have():
    """One scan with a single candidate: the numbers of all others are known below it too."""
    clean, other = (np.zeros(BRAIN.shape, np.float32) for _ in range(2))
    clean[0, 0, 0] = 0.9
    other[2, ::4, ::4] = np.linspace(0.2, 0.5, 16, dtype=np.float32).reshape(4, 4)
    none = scan_stacks.Options()
    healthy = calibration.Healthy(
        tuple(calibration.measure(n, m, BRAIN, SPACING, none) for n, m in
              (("a", clean), ("b", other)))
    )  # fmt: skip
    point = healthy.by_false_positives(2.0)
    assert point.threshold == pytest.approx(0.44) and healthy.false_positives(0.44) == 2.0
    assert healthy.expected(0.1)["false_positives_per_scan"] == 8.5


def test_a_scan_to_come_has_at_most_what_most_healthy_scans_have(healthy):
    said = healthy.expected(0.3)
    counts = np.sort(healthy.count_candidates(0.3))
    # Rank 19 of 20: 0.9 times 21 people.
    assert said["next_scan"] == {"false_positives_at_most": counts[18], "chance": 0.9}
    few = calibration.Healthy(healthy.scans[:8])
    assert few.expected(0.3)["next_scan"] is None, "eight scans cannot tell"
