"""What the written maps hold: the listed volumes, the outermost slices, limits for viewers."""

import nibabel as nib
import numpy as np
import pytest

from madad_jax.scans import volumes
from tests.predict import conftest


def find(setting, numbers, voxel_z=1):
    """A detector's result for the bright ball, on a scan with every `voxel_z`-th level."""
    image, _, affine = conftest.brain_scan()
    made = conftest.make_detector(setting)
    made.numbers = numbers
    return made(image[:, :, ::voxel_z], affine @ np.diag([1.0, 1.0, voxel_z, 1.0]))


@pytest.mark.parametrize(
    "numbers",
    [(21,), tuple(range(2, 22, 2)), tuple(range(21, 31)), tuple(range(2, 32, 2))],
    ids=["one slice", "lesion in the last", "lesion in the first", "lesion inside"],
)
@pytest.mark.parametrize("voxel_z", [1, 2, 3])
def test_listed_volumes_are_those_of_the_mask_and_of_the_stack(setting, tmp_path, numbers, voxel_z):
    result = find(setting, numbers, voxel_z)
    result.save(tmp_path, report=False)
    mask = nib.load(tmp_path / "anomaly_mask.nii.gz")
    voxel_ml = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    first = result.candidates[0]
    listed = sum(candidate["volume_ml"] for candidate in result.candidates)
    assert np.asarray(mask.dataobj).sum() * voxel_ml == pytest.approx(listed, abs=1e-3)
    # Slices of 3.25 mm pixels; the lowest and the highest reach half a step beyond their level.
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    low, high = (conftest.GEOMETRY.level(n) for n in (numbers[0], numbers[-1]))
    inside = np.argwhere(result.labels == first["number"])
    heights = (result.volume.affine @ np.c_[inside, np.ones(len(inside))].T)[2]
    assert heights.min() >= low - 2 * step and heights.max() <= high + 2 * step
    assert first["volume_ml"] > (1.0 if len(numbers) == 1 else 2.0)


def test_one_slice_comes_back_as_one_level(setting):
    """4 mm of the brain, scored, reconstructed and marked, where half of it was lost or all."""
    result = find(setting, (21,))
    level = conftest.GEOMETRY.level(21)
    heights = result.volume.affine[2, 3] + 2.0 * np.arange(result.volume.data.shape[2])
    within = np.abs(heights - level) <= 2.0
    for array in (result.anomaly, result.labels, result.reconstruction):
        assert array.any(axis=(0, 1))[within].sum() == 2 and not array[:, :, ~within].any()
    share = result.volume.data[:, :, within].astype(bool).sum() / (result.volume.data > 0).sum()
    assert result.summary["scan"]["brain_scored"] == pytest.approx(share, rel=0.1)
    # At the lowest and the highest level of the slab as in its middle: nothing fades.
    seen = [
        result.reconstruction[:, :, k][result.labels[:, :, k] > 0] for k in np.flatnonzero(within)
    ]
    assert np.median(seen[0]) == pytest.approx(np.median(seen[1]), rel=0.02)


def test_viewers_get_the_limits_of_the_page(result, tmp_path):
    result.save(tmp_path, report=False)
    limits = {}
    for name in ("anomaly", "anomaly_mask", "reconstruction"):
        header = nib.load(tmp_path / f"{name}.nii.gz").header
        limits[name] = (float(header["cal_min"]), float(header["cal_max"]))
    assert limits["anomaly"] == (0.0, pytest.approx(result.top))
    assert result.top >= result.anomaly.max() > 0
    assert limits["anomaly_mask"] == (0.0, 1.0)
    low, high = result.reconstruction.min(), result.reconstruction.max()
    assert limits["reconstruction"] == pytest.approx((low, high))
    image = result.anomaly_image.header
    assert (image["cal_min"], image["cal_max"]) == pytest.approx(limits["anomaly"])


def test_a_scan_in_metres_gives_the_volumes_of_one_in_mm(setting, result, tmp_path):
    image, _, affine = conftest.brain_scan()
    scan = nib.Nifti1Image(image, np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ affine)
    scan.header.set_xyzt_units("meter")
    nib.save(scan, tmp_path / "metres.nii.gz")
    for given in (tmp_path / "metres.nii.gz", scan, nib.load(tmp_path / "metres.nii.gz")):
        found = conftest.make_detector(setting)(given)
        assert found.summary["scan"]["voxel_mm"] == [2.0, 2.0, 2.0]
        # Levels lie on the faces of these voxels: the last digit of a header decides where to.
        volume_ml = found.candidates[0]["volume_ml"]
        assert volume_ml == pytest.approx(result.candidates[0]["volume_ml"], rel=0.1)
        assert any("counts in metres" in text for text in found.summary["warnings"])
        np.testing.assert_allclose(found.mask_image.affine, scan.affine, rtol=1e-5)
        assert found.mask_image.header.get_xyzt_units()[0] == "meter"


def test_both_ways_from_a_scan_to_a_volume_say_the_same(tmp_path):
    image, _, affine = conftest.brain_scan()
    scan = nib.Nifti1Image(image, affine)
    scan.set_qform(np.diag([-1.0, 1, 1, 1]) @ affine, 1)
    nib.save(scan, tmp_path / "a.nii.gz")
    texts = volumes.read(tmp_path / "a.nii.gz").warnings
    assert texts == volumes.from_image(nib.load(tmp_path / "a.nii.gz")).warnings
    assert texts == volumes.from_image(scan).warnings and "left and right" in texts[0]
