"""A head that only registration finds, in an oblique and anisotropic grid stored right to left."""

import dataclasses

import numpy as np
import pytest

from madad_jax.data.cohort import cohort_scan
from madad_jax.metrics import calibration
from tests.predict import conftest

GRID = cohort_scan.Grid((0.9, 1.1, 2.5), (8.0, -5.0, 12.0), (12.0, -20.0, 25.0), False, True)


@pytest.mark.slow
def test_mask_overlaps_the_truth_in_the_scans_own_space(tmp_path):
    """The stand-in sees what is bright: only geometry can make the overlap fail."""
    lesion = ("tumour", "large")
    scan = cohort_scan.draw(1, modality="FLAIR", seed=0, lesion=lesion, grid=GRID)
    point = calibration.Point(0.25, "threshold", 0.25)
    setting = dataclasses.replace(conftest.PLAIN, point=point)
    made = conftest.make_detector(setting, registration="affine")
    made.numbers = tuple(range(2, 32))
    result = made(scan.nifti())
    mask = np.asarray(result.mask_image.dataobj) > 0
    assert mask.shape == scan.segmentation.shape
    np.testing.assert_allclose(result.mask_image.affine, scan.affine, atol=1e-5)
    dice = 2 * (mask & scan.segmentation).sum() / (mask.sum() + scan.segmentation.sum())
    print(f"Dice {dice:.3f}")
    assert dice > 0.6 and result.summary["scan"]["registration_overlap"] > 0.9
    first = np.asarray(result.candidates[0]["centre_mm"])
    inside = np.argwhere(scan.segmentation) @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    assert np.linalg.norm(inside - first, axis=1).min() < 3.0
