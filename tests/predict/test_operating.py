import pytest

from madad_jax.core import errors
from madad_jax.metrics import calibration, scan_stacks
from madad_jax.predict import operating


@pytest.fixture(scope="module")
def calibrated(healthy):
    options = {"none": scan_stacks.PRESETS["none"], "pddpm": scan_stacks.PRESETS["pddpm"]}
    return calibration.Calibration({("map", name): healthy for name in options}, options, {})


def _setting(calibrated, **changes):
    values = {"where": "runs/x", "signal": "map", "postprocess": "none", "changes": {}}
    values |= {"rates": {}, "default_rate": 0.01}
    return operating.choose_setting(calibrated, **values | changes)


def test_the_default_is_the_runs_own_rate(calibrated, healthy):
    made = _setting(calibrated)
    assert made.point == healthy.by_voxel_fpr(0.01) and made.healthy is healthy


def test_each_way_to_choose(calibrated, healthy):
    made = _setting(calibrated, rates={"voxel_fpr": 0.002, "threshold": None})
    assert made.point == healthy.by_voxel_fpr(0.002)
    made = _setting(calibrated, rates={"false_positives_per_scan": 2.0})
    assert healthy.false_positives(made.point.threshold) <= 2.0
    made = _setting(calibrated, rates={"threshold": 0.3})
    assert made.point.threshold == 0.3 and made.healthy is healthy
    made = _setting(calibrated, postprocess="pddpm")
    assert made.options == scan_stacks.PRESETS["pddpm"] and made.postprocess == "pddpm"


def test_a_change_that_equals_a_calibrated_setting_is_that_setting(calibrated):
    pddpm = scan_stacks.PRESETS["pddpm"]
    same = {"median_mm": 10.0, "erode_mm": 6.0, "min_volume_ml": pddpm.min_volume_ml}
    assert _setting(calibrated, changes=same).postprocess == "pddpm"


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"signal": "maps"}, "signal: found 'maps', accepted: map, mask_map, latent_map"),
        ({"postprocess": "ddpm"}, "postprocess: found 'ddpm', accepted: none, pddpm, dae"),
        ({"rates": {"voxel_fpr": 0.1, "threshold": 0.1}}, "voxel_fpr and threshold: give one"),
        ({"rates": {"threshold": 1.5}}, "threshold: found 1.5"),
        ({"rates": {"voxel_fpr": 0.0}}, "voxel_fpr: found 0"),
        ({"signal": "mask_map"}, "no calibration .found: map with none, map with pddpm."),
        ({"changes": {"median_mm": 3.0}}, "median_mm=3.0 has no calibration"),
        ({"changes": {"median_mm": -3.0}}, "median_mm: found -3"),
    ],
)
def test_one_line_that_says_what_is_accepted(calibrated, changes, message):
    with pytest.raises(errors.UserError, match=message) as caught:
        _setting(calibrated, **changes)
    assert "\n" not in str(caught.value)


def test_without_calibration_nothing_is_chosen_in_silence():
    for rates in ({}, {"voxel_fpr": 0.01}, {"false_positives_per_scan": 1.0}):
        with pytest.raises(errors.UserError, match="--mode=calibrate --checkpoint=runs/x"):
            _setting(None, rates=rates)
    assert _setting(None, rates={"threshold": 0.4}).healthy is None
