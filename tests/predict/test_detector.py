import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import scan_look, scan_stacks
from madad_jax.predict import page
from madad_jax.scans import volumes
from tests.predict import conftest


def _dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_lesion_is_found_where_it_is(result):
    _, truth, affine = conftest.brain_scan()
    mask = np.asarray(result.mask_image.dataobj) > 0
    assert mask.shape == truth.shape and _dice(mask, truth) > 0.8
    first = result.candidates[0]
    assert np.linalg.norm(np.array(first["centre_mni_mm"]) - conftest.CENTRE) < 4
    np.testing.assert_allclose(first["centre_mm"], first["centre_mni_mm"], atol=0.1)
    lesion_ml = truth.sum() * 0.008
    assert first["volume_ml"] == pytest.approx(lesion_ml, rel=0.25)
    assert result.labels[tuple(first["voxel"])] == 1
    assert first["region"]["side"] == "left" and first["region"]["tissue"].endswith("matter")
    assert first["mean_score"] > result.summary["operating_point"]["threshold"]
    assert result.summary["scan_score"]["percentile"] == 100.0
    np.testing.assert_allclose(result.anomaly_image.affine, affine)


def test_volumes_add_up_to_the_mask(result):
    ml = sum(p["volume_ml"] for p in result.candidates)
    assert ml == pytest.approx((result.labels > 0).sum() * result.volume.voxel_ml, abs=1e-3)
    assert all(p["volume_ml"] >= 0.1 for p in result.candidates), "small ones are dropped"


@pytest.mark.parametrize("order", [(-1, 1, 1), (1, -1, -1)], ids=["right to left", "upside down"])
def test_any_storage_order_gives_the_same_places(result, setting, order):
    """The same head, stored along other axes: maps come back in the file's own order."""
    image, _, affine = conftest.brain_scan()
    flip = np.diag([*order, 1.0])
    flip[:3, 3] = [(n - 1) * (s < 0) for n, s in zip(image.shape, order, strict=True)]
    stored = image[tuple(slice(None, None, s) for s in order)].transpose(2, 0, 1)
    axes = np.zeros((4, 4))
    axes[2, 0] = axes[0, 1] = axes[1, 2] = axes[3, 3] = 1.0
    again = conftest.make_detector(setting)(nib.Nifti1Image(stored, affine @ flip @ axes))
    back = np.asarray(again.mask_image.dataobj).transpose(1, 2, 0)
    back = back[tuple(slice(None, None, s) for s in order)]
    assert _dice(back > 0, np.asarray(result.mask_image.dataobj) > 0) > 0.99
    assert again.candidates[0]["centre_mm"] == result.candidates[0]["centre_mm"]


def test_batches_do_not_change_the_map(result, setting):
    image, _, affine = conftest.brain_scan()
    seen = []

    def score(number, batch):
        seen.append((number, len(batch["image"])))
        return conftest.bright(number, batch)

    again = conftest.make_detector(setting, score, batch_size=6)(image, affine)
    np.testing.assert_array_equal(again.anomaly, result.anomaly)
    count = result.summary["scan"]["slices_scored"]
    assert [n for _, n in seen] == [6] * -(-count // 6), "always whole batches"


def test_slices_without_brain_are_skipped_and_said_so(setting):
    image, _, affine = conftest.brain_scan()
    image[:, :, :60] = 0  # nothing below about z = 48 mm
    made = conftest.make_detector(setting)
    with pytest.raises(errors.UserError, match="Dice"):
        made(image, affine)  # half a brain is not taken for one in MNI space
    image, _, affine = conftest.brain_scan()
    wide = dataclasses.replace(conftest.PREPARATION, least_brain=0.25)
    made.preparation = wide
    found = made(image, affine).summary["scan"]
    assert 0 < found["slices_scored"] < len(conftest.NUMBERS) and found["brain_scored"] < 0.9
    made.preparation = dataclasses.replace(wide, least_brain=0.9)
    with pytest.raises(errors.UserError, match="no slice from z = -52 to 60 mm"):
        made(image, affine)


def test_a_scan_of_another_contrast_is_said(setting):
    """The stand-in's own healthy scans, and one whose grey values are turned around."""
    made = conftest.make_detector(setting)
    scans = [conftest.brain_scan(lesion=False, seed=30 + seed) for seed in range(5)]
    volume = [volumes.from_array(image, affine, source="x") for image, _, affine in scans]
    looks = scan_look.collect([made.measure(v, "x", {})[1] for v in volume])
    made = conftest.make_detector(setting, looks=looks)
    image, _, affine = conftest.brain_scan(seed=50)
    assert not any("unlike" in w for w in made(image, affine).summary["warnings"]), (
        "a lesion is not"
    )
    turned = np.where(image > 0, 1000.0 - np.minimum(image, 990.0), 0.0).astype(np.float32)
    result = made(turned, affine)
    said = [w for w in result.summary["warnings"] if "unlike the 5 healthy T1 scans" in w]
    assert len(said) == 1 and "another contrast" in said[0]
    assert "unlike the 5 healthy T1 scans" in page.render(result)


def test_reconstruction_is_in_the_scans_units(result):
    """The stand-in reconstructs the scan itself: what comes back is the scan."""
    scored = (result.reconstruction != 0) & (result.labels == 0)
    inner = scored & (result.volume.data > 200) & (result.volume.data < 800)
    error = np.abs(result.reconstruction - result.volume.data)[inner]
    assert inner.sum() > 50_000 and np.median(error) < 60  # blurred by slices of 8 mm, not scaled


def test_what_a_person_may_hand_over(result, setting, tmp_path):
    made = conftest.make_detector(setting)
    with pytest.raises(errors.UserError, match="affine="):
        made(np.zeros((9, 9, 9), np.float32))
    with pytest.raises(errors.UserError, match="found dict"):
        made({})
    volumes.write_nifti(str(tmp_path / "a.nii.gz"), result.volume.data, like=result.volume)
    again = made(tmp_path / "a.nii.gz")
    assert again.score == pytest.approx(result.score, abs=1e-6)


def test_saved_files_lie_on_the_scans_grid_and_summary_comes_last(result, tmp_path, monkeypatch):
    result.save(tmp_path / "out")
    for name in ("anomaly", "anomaly_mask", "reconstruction"):
        image = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert image.shape == result.volume.native.shape
        np.testing.assert_allclose(image.affine, result.volume.native.affine, atol=1e-4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["candidates"] == json.loads(json.dumps(result.candidates))
    assert "not a medical device" in summary["not_a_medical_device"]
    # Killed in between: the old summary is gone, so nobody takes the set for whole.
    (tmp_path / "out" / "anomaly.nii.gz.1.new").write_bytes(b"half")

    def die(*unused, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(volumes, "write_nifti", die)
    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out")
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert "summary.json" not in left and not [n for n in left if n.endswith(".new")]


def test_smaller_candidates_are_dropped_in_millilitres(result, setting):
    image, _, affine = conftest.brain_scan()
    options = scan_stacks.Options(min_volume_ml=50.0)
    found = conftest.make_detector(dataclasses.replace(setting, options=options))(image, affine)
    assert not found.candidates and not found.labels.any()
    assert found.score == pytest.approx(result.score)


def test_the_program_is_made_once_while_the_first_scan_is_prepared(setting, tmp_path):
    """And for no file that is none, which is answered at once."""
    made, asked = conftest.make_detector(setting), []
    made._warm = lambda: asked.append(1)
    (tmp_path / "no.nii.gz").write_bytes(b"no")
    with pytest.raises(errors.UserError):
        made(tmp_path / "no.nii.gz")
    assert asked == []
    image, _, affine = conftest.brain_scan()
    for _ in range(2):
        made(image, affine)
    assert asked == [1]
