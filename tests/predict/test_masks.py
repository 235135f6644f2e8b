"""Brain masks of a whole folder, for prediction and for calibration."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.metrics import calibration
from madad_jax.predict import __main__
from tests.predict import conftest

PATTERNS = ("--image_pattern={id}_T1w{nii}", "--brain_mask_pattern={id}_brain{nii}")


def write(path, array, affine):
    nib.save(nib.Nifti1Image(array, affine), path)


@pytest.fixture
def folder(tmp_path):
    """Two scans whose masks are the left half of the brain, and one without a mask."""
    root = tmp_path / "in"
    root.mkdir()
    for i, name in enumerate(("a", "b", "c")):
        image, _, affine = conftest.brain_scan(lesion=False, seed=i)
        half = image > 0
        half[half.shape[0] // 2 :] = False
        write(root / f"{name}_T1w.nii.gz", image.astype(np.int16), affine)
        if name != "c":
            write(root / f"{name}_brain.nii.gz", half.astype(np.uint8), affine)
    return root


def run(*flags):
    return __main__.run(["predict", *(str(flag) for flag in flags)])


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_masks_by_pattern_in_both_modes(untrained, folder, tmp_path):
    common = (f"--checkpoint={untrained}", "--batch_size=8", f"--input={folder}")
    half, whole, out = tmp_path / "half.npz", tmp_path / "whole.npz", tmp_path / "out"
    calibrate = (*common, "--mode=calibrate")
    # The scan without a mask is left out, with status 1.
    assert run(*calibrate, *PATTERNS, f"--output={half}") == 1
    assert run(*calibrate, "--include=[ab]_T1w*", f"--output={whole}") == 0

    def voxels(path):
        found = calibration.from_bytes(path.read_bytes(), str(path)).healthy["map", "none"]
        return [int(scan.histogram.sum()) for scan in found.scans]

    assert len(voxels(half)) == len(voxels(whole)) == 2
    for few, all_of_them in zip(voxels(half), voxels(whole), strict=True):
        assert 0.4 < few / all_of_them < 0.6

    predict = (*common, f"--calibration={half}", "--voxel_fpr=0.02", f"--output={out}")
    assert run(*predict, *PATTERNS, "--report=false") == 1
    rows = {row["scan"]: row for row in csv.DictReader((out / "scans.csv").open())}
    assert [row["status"] for row in rows.values()] == ["done", "done", "failed"]
    assert "found 0 files that fit '{id}_brain{nii}' with the id 'c'" in rows["c_T1w"]["message"]
    anomaly = nib.load(out / "a_T1w" / "anomaly.nii.gz")
    assert not np.asanyarray(anomaly.dataobj)[anomaly.shape[0] // 2 + 1 :].any()
    # The same again does nothing; another mask is another result.
    before = summary(out / "a_T1w")["scan"]["brain_ml"]
    mask = nib.load(folder / "a_brain.nii.gz")
    more = np.asanyarray(mask.dataobj) | (
        np.asanyarray(nib.load(folder / "a_T1w.nii.gz").dataobj) > 0
    )
    write(folder / "a_brain.nii.gz", more.astype(np.uint8), mask.affine)
    assert run(*predict, *PATTERNS, "--report=false") == 1
    rows = {row["scan"]: row for row in csv.DictReader((out / "scans.csv").open())}
    assert [row["status"] for row in rows.values()] == ["done", "done before", "failed"]
    assert summary(out / "a_T1w")["scan"]["brain_ml"] > 1.5 * before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (PATTERNS[1:], "--brain_mask_pattern: found without --image_pattern"),
        ((*PATTERNS, "--include=*"), "--include: found with --image_pattern"),
        ((*PATTERNS, "--brain_mask_file=x.nii"), "--brain_mask_file: found with --image_pattern"),
        (("--brain_mask_file=x.nii",), "--brain_mask_file belongs to one scan.*--image_pattern"),
        (("--brain_mask_file=x.nii", "--mode=calibrate"), "--brain_mask_file: found with --mode"),
    ],
)
def test_flags_that_do_not_fit(untrained, folder, tmp_path, flags, message):
    out = tmp_path / ("x.npz" if "--mode=calibrate" in flags else "out")
    with pytest.raises(errors.UserError, match=message):
        run(f"--checkpoint={untrained}", f"--input={folder}", f"--output={out}", *flags)
