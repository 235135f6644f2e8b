"""`madad-jax check`: every fault is a line, the table counts them, the status says it all."""

import shutil

import cv2
import nibabel as nib
import numpy as np
import pytest

from madad_jax.core import errors
from madad_jax.prepare import check
from tests.scans import cases


def _head(shape=(40, 48, 36), seed=0):
    """A bright ball with texture in a noisy box: a whole head for these purposes."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(
        sum(((np.arange(n) - n / 2) / n).reshape([-1 if k == a else 1 for k in range(3)]) ** 2
            for a, n in enumerate(shape))
    )  # fmt: skip
    data = np.where(radius < 0.42, 600.0, 20.0) + rng.normal(0, 15.0, shape)
    return np.clip(data, 1, None).astype(np.int16)


def _save(path, data, mm=(4.0, 4.0, 4.0), code=1):
    affine = np.diag([*mm, 1.0])
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


@pytest.fixture
def scans(tmp_path):
    for k in range(4):
        _save(tmp_path / "scans" / f"p{k}.nii.gz", _head(seed=k))
    return tmp_path / "scans"


def _run(capsys, *flags):
    status = check.run(["check", *flags])
    return status, capsys.readouterr().out


def test_scans_without_a_fault(scans, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    status, said = _run(capsys, f"--input={scans}", f"--sheet={sheet}")
    assert status == 0
    assert "4 of 4 scans without a problem" in said and "4 whole heads" in said
    assert "40 x 48 x 36  4.00 x 4.00 x 4.00  RAS   head   0" in said
    assert cv2.imread(str(sheet)).mean() > 5


def test_brains_without_skull_are_no_fault_where_they_are_located(tmp_path, capsys):
    grid = cases.box((4.0, 4.0, 4.0))
    cases.save(tmp_path / "a.nii", cases.see(grid)[0], grid.affine)
    status, said = _run(capsys, f"--input={tmp_path}", "--sheet=", "--locate")
    assert status == 0
    assert "RAS   brain  0" in said and "1 of 1 scans without a problem" in said


def test_each_fault_of_a_scan_is_a_line(scans, capsys):
    (scans / "cut.nii.gz").write_bytes((scans / "p0.nii.gz").read_bytes()[:-4000])
    shutil.copy(scans / "p1.nii.gz", scans / "twin.nii.gz")
    _save(scans / "thick.nii.gz", _head(seed=8), mm=(4.0, 4.0, 9.0))
    _save(scans / "unsure.nii.gz", _head(seed=9), code=0)
    labels = (_head() > 300).astype(np.int16) * 3
    _save(scans / "tissue.nii.gz", labels)
    status, said = _run(capsys, f"--input={scans}", "--sheet=")
    assert status == 1
    for line in (
        "twin: holds the same voxels as p1",
        "thick: voxels of 4.00 x 4.00 x 9.00 mm where the others have 4.00 x 4.00 x 4.00 mm",
        "tissue: holds 1 different values: a segmentation, and no scan",
    ):
        assert line in said.splitlines(), said
    assert "cut: '" in said and "truncated or damaged" in said
    assert "unsure: the header states no orientation" in said
    assert "4 of 9 scans without a problem, 2 not usable" in said


def test_masks_of_a_cohort_are_held_against_their_scans(scans, tmp_path, capsys):
    for k in range(4):
        _save(scans / f"p{k}_lesion.nii.gz", np.zeros((40, 48, 36), np.uint8))
    lesion = np.zeros((40, 48, 36), np.uint8)
    lesion[18:22, 20:24, 16:20] = 7
    _save(scans / "p1_lesion.nii.gz", lesion)
    _save(scans / "p2_lesion.nii.gz", lesion[:-1])
    table = tmp_path / "ours.yaml"
    table.write_text(
        "title: ours\nid: 'p[0-9]'\nhealthy: true\nimages: {T1: '{id}{nii}'}\n"
        "segmentation: '{id}_lesion{nii}'\n"
    )
    status, said = _run(
        capsys, f"--input={scans}", "--cohort=folder", f"--cohort_file={table}", "--sheet="
    )
    assert status == 1
    assert "p1: segmentation: 4.1 ml of lesion in a cohort that is healthy" in said
    assert "p2: segmentation: '" in said and "39 x 48 x 36" in said
    assert "2 of 4 scans without a problem" in said


def _write_slices(root, split, people, shift=0):
    (root / split).mkdir(parents=True)
    rows, columns = np.mgrid[:32, :32] - 15.5
    brain = rows**2 + columns**2 < 140
    for k in range(people):
        rng = np.random.default_rng(k + shift)
        image = np.where(brain, rng.integers(90, 250, (32, 32)), 0).astype(np.uint8)
        for kind, pixels in (
            ("T1", image), ("brainmask", brain * 255), ("segmentation", brain * 0),
        ):  # fmt: skip
            name = root / split / f"s{k + shift:03d}-slice_4-{kind}.png"
            cv2.imwrite(str(name), pixels.astype(np.uint8))


@pytest.fixture
def slices(tmp_path):
    for n, (split, people) in enumerate({"train": 5, "val": 3, "test": 3}.items()):
        _write_slices(tmp_path / "data", split, people, shift=10 * n)
    lesion = tmp_path / "data" / "test" / "s020-slice_4-segmentation.png"
    cv2.imwrite(str(lesion), np.pad(np.full((4, 4), 255, np.uint8), 14))
    return tmp_path / "data"


def test_slices_without_a_fault(slices, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    status, said = _run(capsys, f"--input={slices}", f"--sheet={sheet}")
    assert status == 0, said
    assert "train  T1        5       5       0            32  8     0" in said
    assert "test   T1        3       3       1            32  8     0" in said
    assert sheet.exists()


def test_each_fault_of_a_slice_is_a_line(slices, capsys):
    train = slices / "train"
    (train / "s000-slice_4-T1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    cv2.imwrite(str(train / "s001-slice_4-brainmask.png"), np.zeros((32, 32), np.uint8))
    shutil.copy(train / "s002-slice_4-T1.png", train / "s003-slice_4-T1.png")
    lesion = slices / "test" / "s020-slice_4-segmentation.png"
    shutil.copy(lesion, slices / "val" / "s010-slice_4-segmentation.png")
    status, said = _run(capsys, f"--input={slices}", "--sheet=")
    assert status == 1
    assert "not a readable PNG" in said
    assert "train: 's001-slice_4': the brain mask is empty" in said
    assert "train: 's003-slice_4': the same picture as 's002-slice_4'" in said
    assert "split 'val' should be healthy, but 1 of 3 slices have a lesion" in said
    assert "1 of 3 splits without a problem" in said


def test_nothing_usable_and_bad_input_are_status_2(tmp_path, capsys):
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b")
    status, said = _run(capsys, f"--input={tmp_path}", "--sheet=")
    assert status == 2 and "0 of 1 scans without a problem, 1 not usable" in said
    with pytest.raises(errors.UserError, match="no such file or folder"):
        check.run(["check", f"--input={tmp_path / 'none'}"])
    with pytest.raises(errors.UserError, match="--input is missing"):
        check.run(["check"])


def test_flags_of_scans_are_refused_for_slices(slices):
    with pytest.raises(errors.UserError, match="--locate belongs to scans"):
        check.run(["check", f"--input={slices}", "--locate"])
